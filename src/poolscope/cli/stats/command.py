"""Read the pools and show them: once, or until somebody interrupts."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from poolscope.cli.stats.address import Address
from poolscope.cli.stats.document import document
from poolscope.cli.stats.fetch import Fetcher
from poolscope.cli.stats.reader import Reader, View
from poolscope.cli.stats.screen import Lines, Screen, say
from poolscope.cli.stats.table import table

WIDTH, HEIGHT = 100, 24
"""Where there is no terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to read and how to show it. Times are in seconds."""

    addresses: Sequence[Address]
    watch: float | None = None
    """The time between two readings; None reads once."""
    as_json: bool = False
    timeout: float = 5.0
    cafile: str | None = None


def run(
    options: Options,
    pause: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Return the exit status: 1 if the first reading shows no pool at an address.

    Watching begins where any address shows pools; it ends, with 0, when `pause` raises a
    KeyboardInterrupt.
    """
    try:
        fetcher = Fetcher(options.timeout, options.cafile, clock)
    except OSError as error:
        words = error.strerror or type(error).__name__
        _complain(f"{options.cafile}: not read ({words}); --cafile needs a PEM file")
        return 1
    try:
        return _run(options, Reader(options.addresses, fetcher), pause)
    except BrokenPipeError:
        # Who read the output has seen enough. At the end of Python it is flushed once more.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return 0


def _run(options: Options, reader: Reader, pause: Callable[[float], object]) -> int:
    view = reader.read()
    if options.watch is None or not view.pools:
        for problem in view.problems:
            _complain(str(problem))
        if view.pools:
            say(_text(view, options))
        return 1 if view.problems else 0
    in_place = _is_terminal() and not options.as_json
    with suppress(KeyboardInterrupt), Screen() if in_place else Lines() as screen:
        while True:
            screen.show(_text(view, options))
            pause(options.watch)
            view = reader.read()
    return 0


def _text(view: View, options: Options) -> str:
    now = datetime.now().astimezone()
    if options.as_json:
        return document(view, now)
    size = shutil.get_terminal_size((WIDTH, HEIGHT))
    in_place = _is_terminal() and options.watch is not None
    lines = table(
        view,
        now,
        width=size.columns,
        height=size.lines if in_place else None,
        colour=_is_terminal() and not os.environ.get("NO_COLOR"),
    )
    # One after the other, they are told apart by an empty line.
    return "\n".join(lines if in_place or options.watch is None else [*lines, ""])


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _complain(text: str) -> None:
    print(f"poolscope stats: {text}", file=sys.stderr)
