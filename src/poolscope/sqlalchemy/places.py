"""Where in the application a connection was asked for, behind all that is SQLAlchemy's."""

from __future__ import annotations

import contextlib
from pathlib import Path
from sys import _getframe
from types import CodeType, FrameType

import sqlalchemy
from sqlalchemy import Engine

_NOT_THE_APPLICATION = (
    str(Path(sqlalchemy.__file__).parent),
    str(Path(__file__).parent),
    contextlib.__file__,
    "<sqlalchemy",
    "<string>",
)
"""Beginnings of file names. The last two are of functions which SQLAlchemy makes."""


_is_application: dict[str, bool] = {}
"""What was found of each file: to look it up is quicker."""
_CONNECT = Engine.connect.__code__
_DEEP = 6
"""Frames from `asker` to `Engine.connect`, by the way most connections are asked for."""


def asker() -> FrameType | None:
    """Return a frame from which to look for who asked, near to it if it went that way."""
    try:
        frame = _getframe(_DEEP)  # looking at each frame on the way takes longer
    except ValueError:
        return _getframe(1)
    return frame if frame.f_code is _CONNECT else _getframe(1)


def place(frame: FrameType | None) -> tuple[CodeType | None, int]:
    """Return the code, and the place in it, that called what runs in this frame."""
    while frame is not None:
        code = frame.f_code
        found = _is_application.get(code.co_filename)
        if found is None:
            found = not code.co_filename.startswith(_NOT_THE_APPLICATION)
            _is_application[code.co_filename] = found
        if found:
            return code, frame.f_lasti
        frame = frame.f_back
    return None, 0
