"""The demo for readers that are no terminal: one line a second."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from poolscope.cli.demo.show import Frame
from poolscope.cli.demo.words import clock, duration


class PlainScreen:
    """Prints lines that are never taken back."""

    interval = 1.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def show(self, frame: Frame) -> None:
        """Print one line."""
        print(line(frame), flush=True)


def line(frame: Frame) -> str:
    """Return a moment as a line of text."""
    recent, stats = frame.recent, frame.stats
    used = f"{stats.in_use}/{stats.max_size} in use, {stats.idle} idle"
    return " | ".join(
        [
            f"{clock(frame.now)} {frame.phase.name:<12}",
            f"{used:<22} {stats.waiting:>3} waiting",
            f"wait p50 {duration(recent.wait(0.5)):>6} p99 {duration(recent.wait(0.99)):>6}",
            f"hold p99 {duration(recent.hold(0.99)):>6}",
            f"{recent.acquires_per_second:5.1f} acquires/s",
            f"errors {recent.error_rate:5.1%}",
            f"timeouts {frame.timeouts}",
        ]
    )
