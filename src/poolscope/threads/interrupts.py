"""What a signal handler raised, told apart from what the interrupted code raised itself."""

from __future__ import annotations

import signal
import threading
from types import CodeType
from typing import Any


def runs_handlers() -> bool:
    """Tell whether Python runs signal handlers in this thread: in the main thread alone it does."""
    return threading.current_thread() is threading.main_thread()


def is_interrupt(error: BaseException) -> bool:
    """Tell whether an error of the main thread came from a signal handler.

    `KeyboardInterrupt` counts as one wherever it was raised: Python's own handler leaves no trace.
    """
    if isinstance(error, KeyboardInterrupt):
        return True
    handlers = {_code(signal.getsignal(each)) for each in signal.valid_signals()}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _code(handler: Any) -> CodeType | None:
    return getattr(getattr(handler, "__func__", handler), "__code__", None)
