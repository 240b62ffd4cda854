"""A private, real MariaDB server for tests."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poolscope.testing.server import TIMEOUT, USER, Client, PrivateServer, ServerMissingError

if TYPE_CHECKING:
    import pymysql
    from pymysql.cursors import Cursor

_DATABASE = "poolscope"

_SETTINGS: dict[str, str | int] = {
    "bind-address": "127.0.0.1",
    "skip-name-resolve": "ON",
    "innodb-buffer-pool-size": "8M",
    "innodb-log-file-size": "4M",
    "innodb-data-file-path": "ibdata1:4M:autoextend",
    "innodb-temp-data-file-path": "ibtmp1:2M:autoextend",
    # Its ring buffers are scarce where many servers share a kernel.
    "innodb-use-native-aio": "OFF",
    # Nothing in this database has to survive the machine.
    "innodb-flush-log-at-trx-commit": 0,
    "innodb-doublewrite": "OFF",
    "innodb-buffer-pool-dump-at-shutdown": "OFF",
    "innodb-buffer-pool-load-at-startup": "OFF",
}

# Run before each start; the account of the data's creator has no password and no way in.
_ACCESS = """
CREATE DATABASE IF NOT EXISTS {database};
CREATE USER IF NOT EXISTS '{user}'@'127.0.0.1' IDENTIFIED BY '{password}';
GRANT ALL ON *.* TO '{user}'@'127.0.0.1' WITH GRANT OPTION;
CREATE USER IF NOT EXISTS '{user}'@'localhost' IDENTIFIED BY '{password}';
GRANT ALL ON *.* TO '{user}'@'localhost' WITH GRANT OPTION;
"""

# Where systems put servers that only root is expected to start.
_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin")

_CLIENTS = """
select id, substring_index(host, ':', -1) from information_schema.processlist
where host like '%:%'
"""

_NO_SUCH_THREAD = 1094


class MariadbServer(PrivateServer):
    """A MariaDB in a temporary directory, on a port of 127.0.0.1 that it keeps for life.

        with MariadbServer() as server:
            connection = pymysql.connect(**server.arguments)

    The binaries are the system's. Once closed, or once this process has ended in whatever way,
    neither processes nor files are left. The user of the `url` may do all. `settings` are options
    of mariadbd. All methods block; those about clients need pymysql.
    """

    _product = "MariaDB"
    _ready = "ready for connections"

    def __init__(
        self, *, max_connections: int = 100, settings: Mapping[str, str | int] | None = None
    ) -> None:
        super().__init__()
        self._settings = _SETTINGS | {"max-connections": max_connections} | dict(settings or {})
        self._server, self._installer = _find("mariadbd"), _find("mariadb-install-db")

    @property
    def url(self) -> str:
        """The address to connect to, password included."""
        return f"mysql://{USER}:{self._password}@127.0.0.1:{self.port}/{_DATABASE}"

    @property
    def arguments(self) -> dict[str, Any]:
        """What pymysql's `connect` takes, password included; aiomysql names the `database` `db`."""
        access = {"user": USER, "password": self._password, "database": _DATABASE}
        return {"host": "127.0.0.1", "port": self.port, **access}

    def clients(self) -> list[Client]:
        """Ask the server for its connections, without those by which this object asks."""
        with self._connect() as asking, asking.cursor() as cursor:
            cursor.execute(_CLIENTS)
            found = [Client(int(number), int(port)) for number, port in cursor.fetchall()]
        return self._without_askers(found)

    def disconnect(self, *ids: int) -> None:
        """Let the server end these connections; those that are gone already do not matter."""
        import pymysql

        with self._connect() as asking, asking.cursor() as cursor:
            for number in ids:
                try:
                    cursor.execute("kill %s", [number])
                except pymysql.MySQLError as error:
                    if error.args[0] != _NO_SUCH_THREAD:
                        raise

    def _connect(self) -> "pymysql.Connection[Cursor]":
        try:
            import pymysql
        except ImportError:
            raise ServerMissingError(
                "MariadbServer asks for its clients through pymysql; install poolscope[mysql]"
            ) from None
        asking = pymysql.connect(**self.arguments, autocommit=True, read_timeout=TIMEOUT)
        self._askers.add(asking.thread_id())  # type: ignore[no-untyped-call]
        return asking

    def _prepare(self, directory: Path) -> Sequence[str | Path]:
        access = _ACCESS.format(user=USER, password=self._password, database=_DATABASE)
        (directory / "access.sql").write_text(access.lstrip())
        plain = ["--cross-bootstrap", "--skip-test-db", "--auth-root-authentication-method=socket"]
        return [self._installer, *self._options(directory), *plain]

    def _command(self, directory: Path) -> Sequence[str | Path]:
        own = [f"--port={self.port}", f"--socket={directory / 'socket'}"]
        access = f"--init-file={directory / 'access.sql'}"
        return [self._server, *self._options(directory), *own, access]

    def _telling(self, lines: list[str]) -> list[str]:
        """Return the lines between which the installer says a lot about itself."""
        return [line for line in lines if "[ERROR]" in line] or lines

    def _options(self, directory: Path) -> list[str]:
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        # In a folder that servers share, each removes the temporary tables of the others.
        own = [f"--datadir={directory / 'data'}", f"--tmpdir={directory}"]
        return ["--no-defaults", *own, *settings]


def _find(program: str) -> Path:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_FOLDERS])
    if found := shutil.which(program, path=path):
        return Path(found)
    raise ServerMissingError(
        f"MariadbServer needs {program}; install the system's MariaDB, such as mariadb-server"
    )
