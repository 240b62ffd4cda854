"""What there is of a server: its port, its folder, its processes."""

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def is_gone(port: int, directory: Path) -> bool:
    return not (directory.exists() or is_listening(port) or _is_mentioned_by_a_process(directory))


def _is_mentioned_by_a_process(directory: Path) -> bool:
    listing = subprocess.run(["ps", "-A", "-o", "args"], capture_output=True, check=True, text=True)
    return str(directory) in listing.stdout
