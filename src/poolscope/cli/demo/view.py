"""The demo in a terminal: one screen, drawn anew a few times a second."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from types import TracebackType
from typing import Self

from rich.box import ROUNDED
from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from poolscope.cli.demo.scenario import Stage
from poolscope.cli.demo.show import Frame, Show
from poolscope.cli.demo.words import Note, clock, duration, short
from poolscope.stats import PoolStats

WIDTH = 96
HEIGHT = 14
"""Lines of the screen above the notes."""
NOTES = 8
TONES = {"good": "green", "plain": "default", "warning": "yellow", "bad": "red", "aside": "bold"}
SLOW = 0.1
"""Seconds of waiting from which on it is somebody's problem."""
LONG = 1.5
"""Seconds of holding from which on it is worth a line."""


class LiveScreen:
    """Shows a moment in place of the one before, on a screen that is put away at the end."""

    interval = 0.2

    def __init__(self, console: Console, title: str, show: Show) -> None:
        """Draw on that console what there is to see of a show."""
        self._title = title
        self._began = show.began
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, frame: Frame) -> None:
        """Draw a moment."""
        width = min(WIDTH, self._console.width)
        room = max(1, self._console.height - HEIGHT)
        parts = [
            _header(self._title, frame),
            Text(),
            _strip(frame.stages, frame.playing, frame.left),
            Text(frame.phase.story, "dim"),
            Text(),
            _pool(frame, width - 6),
            Text(),
            Text("what happened", "dim"),
            *(_note(note, self._began) for note in frame.notes[-min(NOTES, room) :]),
        ]
        screen = Padding(Group(*parts), (0, 1))
        self._live.update(Constrain(screen, width), refresh=True)


def _header(title: str, frame: Frame) -> RenderableType:
    total = sum(stage.seconds for stage in frame.stages)
    grid = Table.grid(expand=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right")
    grid.add_row(Text(title, "bold"), f"{clock(frame.now)} of {clock(total)}")
    return grid


def _strip(stages: Sequence[Stage], playing: int, left: float) -> Text:
    strip = Text(no_wrap=True, overflow="ellipsis")
    for number, stage in enumerate(stages):
        name = stage.phase.name
        if number < playing:
            strip.append(f"✓ {name}   ", "green")
        elif number == playing:
            strip.append(f"▶ {name}, {ceil(left)} s left   ", "bold")
        else:
            strip.append(f"· {name}   ", "dim")
    strip.rstrip()
    return strip


def _pool(frame: Frame, width: int) -> RenderableType:
    stats = frame.stats
    body = Group(_bar(stats, width), _legend(stats), _oldest(stats), _numbers(frame))
    title = Text(stats.pool, "bold")
    return Panel(body, title=title, title_align="left", border_style="dim", box=ROUNDED)


def _bar(stats: PoolStats, width: int) -> Text:
    """Draw every connection the pool may have as a block."""
    blocks = (
        [("█", "cyan")] * stats.in_use
        + [("▒", "green")] * stats.idle
        + [("░", "yellow")] * (stats.connecting + stats.closing)
        + [("·", "dim")] * (stats.max_size - stats.size)
    )
    bar = Text(no_wrap=True, overflow="crop")
    edges = [n * (width + 1) // len(blocks) for n in range(len(blocks) + 1)]
    for (glyph, style), (left, right) in zip(blocks, pairwise(edges), strict=True):
        bar.append(glyph * (right - left - 1) + " ", style)
    return bar


def _legend(stats: PoolStats) -> Text:
    """Say how many connections are where, and draw every caller who waits as a dot."""
    legend = Text(no_wrap=True, overflow="ellipsis")
    legend.append(f"{stats.in_use} in use", "cyan").append(f"   {stats.idle} idle", "green")
    legend.append(f"   of {stats.max_size}", "dim")
    style = "yellow" if stats.waiting else "dim"
    return legend.append(f"      {stats.waiting} waiting  {'●' * stats.waiting}", style)


def _oldest(stats: PoolStats) -> Text:
    """Say who keeps a connection for long, if somebody does."""
    if stats.oldest_use < LONG:
        return Text()
    place = f", by {short(stats.oldest_use_at)}" if stats.oldest_use_at else ""
    return Text(f"the oldest is held for {duration(stats.oldest_use)}{place}", "yellow")


def _numbers(frame: Frame) -> RenderableType:
    recent = frame.recent
    wait = recent.wait(0.99)
    cells = (
        ("wait p50", duration(recent.wait(0.5)), "bold"),
        ("wait p99", duration(wait), "bold yellow" if wait and wait > SLOW else "bold"),
        ("hold p99", duration(recent.hold(0.99)), "bold"),
        ("acquires/s", f"{recent.acquires_per_second:.1f}", "bold"),
        ("errors", f"{recent.error_rate:.1%}", "bold red" if recent.error_rate else "bold"),
        ("timeouts", str(frame.timeouts), "bold"),
    )
    grid = Table.grid(expand=True)
    for _ in cells:
        grid.add_column(ratio=1)
    grid.add_row(*(Text(label, "dim") for label, _, _ in cells))
    grid.add_row(*(Text(value, style) for _, value, style in cells))
    return grid


def _note(note: Note, began: float) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{clock(note.first - began):>5}  ", "dim").append(note.text, TONES[note.tone])
    return text.append(f"  x{note.times}", "dim") if note.times > 1 else text
