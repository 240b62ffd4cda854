"""Ctrl-C for the demo alone: `make` would die of it, however orderly the demo ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_foreground() -> Iterator[None]:
    """Be the terminal's foreground process group when called by make; give that back at the end."""
    if "MAKELEVEL" not in os.environ or not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    make = os.tcgetpgrp(terminal)
    # A process that is not in the foreground is stopped when it takes the terminal, otherwise.
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        os.setpgid(0, 0)
        os.tcsetpgrp(terminal, os.getpgrp())
        yield
    finally:
        os.tcsetpgrp(terminal, make)
        signal.signal(signal.SIGTTOU, before)
