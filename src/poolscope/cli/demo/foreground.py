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
    # A process that is not in the foreground is stopped when it takes the terminal, otherwise.
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    make = _take_terminal() if "MAKELEVEL" in os.environ else None
    try:
        yield
    finally:
        if make is not None:
            os.tcsetpgrp(sys.stdin.fileno(), make)
        signal.signal(signal.SIGTTOU, before)


def _take_terminal() -> int | None:
    """Return the process group that had it before; None if there is none to take."""
    try:
        terminal = sys.stdin.fileno()
        before = os.tcgetpgrp(terminal)
        os.setpgid(0, 0)
        os.tcsetpgrp(terminal, os.getpgrp())
    except (OSError, ValueError):  # no terminal, or not the one that controls us
        return None
    return before
