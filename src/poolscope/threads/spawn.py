"""How threads of a pool begin."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable


def begin(target: Callable[[], None], name: str, otherwise: Callable[[], None]) -> None:
    """Begin a thread that does not keep the interpreter from ending; do not wait for it.

    `otherwise` is called if none can be had: the interpreter ends, or there are too many.
    `Thread.start()` waits, and a signal handler or a `gevent.Timeout` that raises there would leave
    a thread that neither runs nor goes away. So another, begun in one step, does that.
    """

    def start() -> None:
        try:
            threading.Thread(target=target, name=name, daemon=True).start()
        except RuntimeError:
            otherwise()

    try:
        _thread.start_new_thread(start, ())
    except RuntimeError:
        otherwise()
