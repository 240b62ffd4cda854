"""What a thread is doing now, read only when somebody wants to know."""

from __future__ import annotations

import sys
import threading
import traceback
from weakref import ref


def describe(holder: object) -> str:
    """Return the present stack of a thread, outermost frame first, like a traceback.

    `holder` is its identifier, as `threading.get_ident` returns it, or refers weakly to a lease
    that knows it.
    """
    if isinstance(holder, ref):
        holder = getattr(holder(), "thread", None)
    if not isinstance(holder, int):
        return "(held by no known thread)"
    name = next((each.name for each in threading.enumerate() if each.ident == holder), None)
    frame = sys._current_frames().get(holder)
    if frame is None or (name or "").startswith("poolscope-"):  # which has got its identifier
        return f"(thread {holder} has ended without giving the connection back)"
    lines = "".join(traceback.format_stack(frame)).rstrip()
    return f"thread {name or holder}:\n{lines}"
