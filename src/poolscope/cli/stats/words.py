"""Numbers and names as a table has them: short, and harmless to a terminal."""

from __future__ import annotations

NOTHING = "-"
"""Stands for what is not known."""


def amount(count: int | None) -> str:
    """Return a count with at most five digits; larger ones are rounded."""
    if count is None:
        return NOTHING
    if count < 100_000:
        return str(count)
    return f"{count / 1e3:.0f}k" if count < 999_500 else f"{count / 1e6:.1f}M"


def rate(number: float | None) -> str:
    """Return a number per second."""
    if number is None:
        return NOTHING
    return f"{number:.1f}" if number < 100 else amount(round(number))


def duration(seconds: float | None) -> str:
    """Return a time in the unit that suits it; six characters, unless it is years."""
    if seconds is None:
        return NOTHING
    if seconds < 0.9995:
        ms = seconds * 1000
        return "0" if ms < 0.05 else f"{ms:.1f}ms" if ms < 9.95 else f"{ms:.0f}ms"
    if seconds < 59.5:
        return f"{seconds:.1f}s" if seconds < 9.95 else f"{seconds:.0f}s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{seconds:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 24 else f"{hours // 24}d{hours % 24:02}h"


def fitting(name: str, width: int) -> str:
    """Return a name of `width` characters at most, cut in the middle: names differ at the ends.

    What a page says is not ours: control characters could rewrite the screen.
    """
    name = "".join(c if c.isprintable() else "?" for c in name)
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: width - 1 - tail]}~{name[len(name) - tail :]}"
