"""What private servers have in common: a port, a temporary directory, an end that is certain."""

import os
import pwd
import random
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

TIMEOUT = 30.0
"""Seconds within which a server starts, stops, and answers questions about its clients."""

USER = "poolscope"
"""The account of those who connect, where the server knows accounts."""

# Below the range from which systems give ports to outgoing connections: a client that retries
# while the server restarts could otherwise be given the server's own port, and block it.
_PORTS = range(10_000, 32_768)

# Until all threads of a process have stopped: a signal sent is not yet a signal heard.
_STOPPED = os.WSTOPPED | os.WEXITED | os.WNOWAIT

# Tells the cleaner whom to end, before there is anything to end.
_LAUNCHER = 'echo $$ >"$0/pid" && exec "$@"'

# Waits for a line or the end of its input, then ends the server and removes its directory. The
# kernel ends that input when this process ends, in whatever way: no exit hook sees them all.
# A lock that is gone tells more than the process: nobody may be there to reap it.
_CLEANER = """
read -r line
group=-$(cat "$1/pid")
kill -s "$2" -- "$group" && kill -s CONT -- "$group"
tries=0
while [ -e "$1/$3" ] && kill -s 0 -- "$group" && [ "$((tries += 1))" -lt 200 ]; do sleep 0.05; done
[ -e "$1/$3" ] && kill -s KILL -- "$group"
tries=0
until rm -rf "$1" || [ "$((tries += 1))" -gt 5 ]; do sleep 0.5; done
"""


class ServerError(RuntimeError):
    """The server could not be created, started or stopped."""


class ServerMissingError(ServerError):
    """The machine lacks the server, or the driver which asks it about its clients."""


@dataclass(frozen=True, slots=True)
class Client:
    """A connection as the server sees it: its own number for it, and the port it comes from."""

    id: int
    port: int


class PrivateServer(ABC):
    """A real server in a temporary directory, on a port of 127.0.0.1 that it keeps for life.

    Once closed, or once this process has ended in whatever way, neither processes nor files are
    left. All methods block, and are for one thread at a time.
    """

    _product: ClassVar[str]
    # What ends it without a trace, and the file that is there until it has ended.
    _last_signal: ClassVar[signal.Signals] = signal.SIGKILL
    _lock: ClassVar[str] = ""
    # Its log says this once it accepts connections.
    _ready: ClassVar[str]

    def __init__(self, *, password: str | None = None, refuses_root: bool = True) -> None:
        self.port = free_port()
        self.directory: Path | None = None
        self._password = secrets.token_urlsafe(12) if password is None else password
        as_other = refuses_root and os.geteuid() == 0
        self._account = pwd.getpwnam("nobody") if as_other else None
        self._is_paused = False
        self._askers: set[int] = set()
        """Our own connections, as the server numbers them, that it may still show."""
        self._process: subprocess.Popen[bytes] | None = None
        self._cleaner: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The address to connect to, password included."""

    @abstractmethod
    def clients(self) -> list[Client]:
        """Ask the server for its connections, without those by which this object asks."""

    @abstractmethod
    def disconnect(self, *ids: int) -> None:
        """Let the server end these connections; those that are gone already do not matter."""

    @abstractmethod
    def _prepare(self, directory: Path) -> Sequence[str | Path]:
        """Write what the server needs, and return the command that makes its data, if any."""

    @abstractmethod
    def _command(self, directory: Path) -> Sequence[str | Path]:
        """Return the command that runs the server."""

    @property
    def socket(self) -> Path:
        """The Unix socket it listens at besides; of PostgreSQL, the folder of it."""
        if self.directory is None:
            raise ServerError(f"{self._product} has no socket yet; start it")
        return self.directory / "socket"

    @property
    def is_running(self) -> bool:
        """Whether the server process lives; one that is paused does."""
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

    def stop(self) -> None:
        """Stop the server and keep its data; `start` brings it back."""
        self._stop(signal.SIGTERM, "close the connections to it, or kill it")

    def kill(self) -> None:
        """End the server as a crash does, without a word to anyone; `start` brings it back."""
        self._signal_all(signal.SIGKILL)
        self._is_paused = False
        if self._process is not None:
            self._process.wait()

    def restart(self) -> None:
        """Stop the server and start it again on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let the server hang: connections stay open, new ones are taken, nothing is answered."""
        self._signal_all(signal.SIGSTOP)
        self._is_paused = True

    def resume(self) -> None:
        """Let a paused server go on where it was."""
        if self._is_paused:
            self._signal_all(signal.SIGCONT)
        self._is_paused = False

    def close(self) -> None:
        """Stop the server and remove all that belongs to it. May be called again."""
        self.resume()
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
        return f"<{type(self).__name__} 127.0.0.1:{self.port}>"

    def _create(self) -> Path:
        # Root's own TMPDIR may be closed to the account that the server runs under.
        parent = "/tmp" if self._account else None
        self.directory = directory = Path(tempfile.mkdtemp(prefix="poolscope-", dir=parent))
        self._cleaner = subprocess.Popen(
            ["sh", "-c", _CLEANER, "sh", directory, self._last_signal.name[3:], self._lock or "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        creation = self._prepare(directory)
        if self._account:
            _give_to(self._account, directory)
        if creation:
            self._process = self._run(directory, creation)
            if self._process.wait() != 0:
                raise ServerError(self._failure("create its data directory", directory))
        return directory

    def _launch(self, directory: Path) -> None:
        self._askers.clear()  # it may count from one again
        self._process = self._run(directory, self._command(directory))
        deadline = time.monotonic() + TIMEOUT
        while not self._is_ready(directory, self._process.pid):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(self._failure("start", directory))
            time.sleep(0.01)

    def _is_ready(self, directory: Path, pid: int) -> bool:
        return self._ready in (directory / "log").read_text(errors="replace")

    def _run(self, directory: Path, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        with (directory / "log").open("wb") as log:
            return subprocess.Popen(
                ["sh", "-c", _LAUNCHER, directory, *command],
                cwd=directory,
                # Nothing of the caller's own settings for such servers, or of its language.
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

    def _stop(self, how: signal.Signals, remedy: str) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self.resume()
        try:
            self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            raise ServerError(
                f"{self._product} has not stopped within {TIMEOUT:.0f} s of {how.name}; {remedy}"
            ) from None

    def _signal_all(self, which: signal.Signals) -> None:
        if self._process is None:
            return
        # A stopped server makes no more children while they are counted.
        self._process.send_signal(signal.SIGSTOP)
        with suppress(ChildProcessError):  # it has ended
            os.waitid(os.P_PID, self._process.pid, _STOPPED)
        for child in _children(self._process.pid) if self.is_running else ():
            with suppress(ProcessLookupError):
                os.kill(child, which)
        self._process.send_signal(which)

    def _without_askers(self, found: list[Client]) -> list[Client]:
        """Leave out who asks, and who asked before: a server takes its time to see them go."""
        self._askers.intersection_update([client.id for client in found])
        return [client for client in found if client.id not in self._askers]

    def _failure(self, deed: str, directory: Path) -> str:
        lines = (directory / "log").read_text(errors="replace").splitlines()
        words = self._telling(lines)[-8:]
        return "\n".join([f"{self._product} could not {deed}; its last words:", *words])

    def _telling(self, lines: list[str]) -> list[str]:
        """Return the lines of its log that tell what is wrong."""
        return lines


def free_port() -> int:
    """Find a port of 127.0.0.1 that nothing listens on, and that no client is given.

    Raises ServerError.
    """
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerError("100 ports of 127.0.0.1 were tried and all are in use; free some")


def _give_to(account: pwd.struct_passwd, directory: Path) -> None:
    for path in [directory, *directory.rglob("*")]:
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def _children(parent: int) -> list[int]:
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], stdout=subprocess.PIPE, check=True)
    pairs = (line.split() for line in listing.stdout.splitlines())
    return [int(pid) for pid, of in pairs if int(of) == parent]
