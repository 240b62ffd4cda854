"""What the servers have in common: a process, its folder, ports and log."""

import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Self, TypeVar

T = TypeVar("T")

_TIMEOUT = 30.0

# Below the range from which systems give ports to outgoing connections: a client that retries
# while the server restarts could otherwise be given the server's own port, and block it.
_PORTS = range(10_000, 32_768)

# No proxy: the servers are on this machine.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

# Tells the cleaner whom to end, before there is anything to end.
_LAUNCHER = 'echo $$ >"$0/pid" && exec "$@"'

# Waits for the end of its input, which the kernel ends when this process ends in whatever way: no
# exit hook sees them all. A line says that there is nothing left to do.
_CLEANER = """
read -r line && exit
kill -s KILL -- "-$(cat "$1/pid")"
rm -rf "$1"
"""


class ServerError(RuntimeError):
    """A server did not do what is needed of it; the message ends with its log."""


class Server:
    """A real server in a temporary folder, which `stop` and `start` leave as it is.

    Once closed, or once this process has ended in whatever way, neither it nor its folder is left.
    """

    def __init__(self, binary: Path, name: str = "") -> None:
        self._binary = binary
        self.name = name or binary.name
        self.directory = Path(tempfile.mkdtemp(prefix=f"poolscope-{self.name}-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._cleaner: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """All that the server has written since its first start."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start the server, and wait until it says that it is ready."""
        if self.is_running:
            return
        if self._cleaner is None:
            self._cleaner = subprocess.Popen(
                ["/bin/sh", "-c", _CLEANER, "cleaner", self.directory],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        launcher: list[str | Path] = ["/bin/sh", "-c", _LAUNCHER, self.directory]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*launcher, self._binary, *self._options()],
                cwd=self.directory,
                # Nothing of the caller's proxies or OTEL_… variables.
                env=dict(self._environment()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the caller, who ends all in order.
                start_new_session=True,
            )
        self.wait_until(self._is_ready)

    def stop(self) -> None:
        """Stop the server and keep its folder; `start` brings it back on the same ports."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise self._error(f"has not ended within {_TIMEOUT:.0f} s of SIGTERM") from None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, as SIGSTOP, after which connections are taken and never answered."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait_until(self, predicate: Callable[[], T], timeout: float = _TIMEOUT) -> T:
        """Ask again until the answer is true, or not empty, and return it."""
        deadline = time.monotonic() + timeout
        while not (answer := predicate()):
            if not self.is_running:
                raise self._error("has ended")
            if time.monotonic() > deadline:
                raise self._error(f"was waited for {timeout:.0f} s; the last answer was {answer!r}")
            time.sleep(0.02)
        return answer

    def close(self) -> None:
        """Kill the server and remove its folder."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._cleaner is not None:
            self._cleaner.communicate(b"done\n")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _options(self) -> Sequence[str | Path]:
        raise NotImplementedError

    def _environment(self) -> Mapping[str, str]:
        return {}

    def _is_ready(self) -> bool:
        raise NotImplementedError

    def _error(self, what: str) -> ServerError:
        lines = self.log.splitlines()[-20:]
        return ServerError("\n".join([f"{self.name} {what}; its last words:", *lines]))


def get(url: str, **headers: str) -> str:
    """Get a page of a server on this machine."""
    with _open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT) as reply:
        return str(reply.read().decode())


def answers(url: str) -> bool:
    """Whether a page is there."""
    try:
        get(url)
    except OSError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Find different ports of 127.0.0.1 that nobody listens on."""
    # Random numbers of its own, because hypothesis and tests may seed the shared ones.
    candidates = random.SystemRandom().sample(_PORTS, 200)
    return list(islice(filter(_is_free, candidates), count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
