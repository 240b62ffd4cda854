"""Where views are shown again and again: a terminal, which is left as it was, or plain lines."""

from __future__ import annotations

import signal
import sys
from typing import Any, Self

ENTER = "\x1b[?1049h\x1b[?25l"
"""To the alternate screen, without a cursor."""
LEAVE = "\x1b[?25h\x1b[?1049l"
HOME = "\x1b[H\x1b[J"


def say(text: str) -> None:
    """Print, now, with a `?` for what the output cannot encode."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), flush=True)


class Lines:
    """Prints one text after the other."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, text: str) -> None:
        """Print a text."""
        say(text)


class Screen:
    """Shows one text in place of the other. The last one stays when the screen is left."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._last = ""
        self._before: Any = None

    def __enter__(self) -> Self:
        # Its default would end the program here, and leave the terminal without a cursor.
        self._before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        print(end=ENTER, flush=True)
        return self

    def __exit__(self, *_: object) -> None:
        print(end=LEAVE, flush=True)
        say(self._last)
        signal.signal(signal.SIGTERM, self._before)

    def show(self, text: str) -> None:
        """Replace what is shown."""
        self._last = text
        print(end=HOME)
        say(text)
