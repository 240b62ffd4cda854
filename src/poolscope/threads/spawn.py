"""How threads of a pool begin."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable

from poolscope.faults import runs_handlers


def begin(target: Callable[[], None], name: str, otherwise: Callable[[], None]) -> None:
    """Begin a thread that does not keep the interpreter from ending.

    `otherwise` is called if none can be had: the interpreter ends, or there are too many. A signal
    handler that raises in the midst of `Thread.start()` would leave a thread that neither runs nor
    goes away; so where handlers run, a thread that is begun in one step begins the other.
    """

    def start() -> None:
        try:
            threading.Thread(target=target, name=name, daemon=True).start()
        except RuntimeError:
            otherwise()

    if not runs_handlers():
        return start()
    try:
        _thread.start_new_thread(start, ())
    except RuntimeError:
        otherwise()
