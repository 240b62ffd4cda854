"""What a task is doing now, read only when somebody wants to know."""

from __future__ import annotations

import asyncio
import linecache
from types import FrameType
from typing import Any


def describe(holder: object) -> str:
    """Return the present stack of a task, outermost frame first, like a traceback."""
    if not isinstance(holder, asyncio.Task):
        return "(held outside any task)"
    if holder.done():
        return f"(task {holder.get_name()!r} has ended without giving the connection back)"
    lines = [f"task {holder.get_name()!r}:"]
    for frame in _frames(holder.get_coro()):
        code, line = frame.f_code, frame.f_lineno
        lines.append(f'  File "{code.co_filename}", line {line}, in {code.co_name}')
        if text := linecache.getline(code.co_filename, line).strip():
            lines.append(f"    {text}")
    return "\n".join(lines)


def _frames(awaitable: Any) -> list[FrameType]:
    """Follow what awaits what, through coroutines, generators and asynchronous generators."""
    frames = []
    while awaitable is not None:
        for prefix, inner in (("cr", "await"), ("gi", "yieldfrom"), ("ag", "await")):
            frame = getattr(awaitable, f"{prefix}_frame", None)
            if frame is not None:
                frames.append(frame)
                awaitable = getattr(awaitable, f"{prefix}_{inner}")
                break
        else:
            break
    return frames
