"""Columns of text that fit a width: what matters least, or says nothing, is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from poolscope.cli.stats.pools import Pool
from poolscope.cli.stats.words import NOTHING, fitting

GAP = "  "
RED, PLAIN = "\x1b[1;31m", "\x1b[0m"
MARK = "! "
"""Before a pool in trouble."""
VITAL = 2
"""Columns that are no more expendable than that are left out last, even if they say nothing."""


@dataclass(frozen=True, slots=True)
class Column:
    """Two lines of title, and how readily it is left out: the highest first, 0 never."""

    title: tuple[str, str]
    expendable: int
    text: Callable[[Pool], str]
    align: Callable[[str, int], str] = str.rjust
    is_name: bool = False
    """Whether it tells pools apart; it is then cut if it is long."""


def rows(columns: Sequence[Column], pools: Sequence[Pool], width: int, colour: bool) -> list[str]:
    """Return two lines of titles, and a line for each pool; in red, if asked for, in trouble."""
    if not pools:
        return []
    longest = _longest_name([c for c in columns if c.is_name], pools, width // 2)
    cells = {
        column: [
            *column.title,
            *(fitting(column.text(pool), longest if column.is_name else width) for pool in pools),
        ]
        for column in columns
    }
    lines = _aligned(_chosen(cells, width - len(MARK)))
    titles = [f"{'':{len(MARK)}}{line}".rstrip() for line in lines[:2] if line.strip()]
    return titles + [
        _marked(line, pool, colour) for line, pool in zip(lines[2:], pools, strict=True)
    ]


def _longest_name(columns: Sequence[Column], pools: Sequence[Pool], width: int) -> int:
    """Return where to cut names, so that together they are no wider than `width`."""
    widest = [max(len(column.text(pool)) for pool in pools) for column in columns]
    fits = (n for n in range(width, 8, -1) if sum(min(n, each) for each in widest) <= width)
    return next(fits, 8)


def _marked(line: str, pool: Pool, colour: bool) -> str:
    text = f"{MARK if pool.trouble else '':{len(MARK)}}{line}".rstrip()
    return f"{RED}{text}{PLAIN}" if colour and pool.trouble else text


Cells = Mapping[Column, Sequence[str]]


def _chosen(cells: Cells, width: int) -> Cells:
    """Leave out columns until the rest fits."""

    def worth(column: Column) -> tuple[bool, int]:
        says_something = any(text not in (NOTHING, "0") for text in cells[column][2:])
        # What matters most keeps its place from view to view.
        return says_something or column.expendable <= VITAL, -column.expendable

    dispensable = sorted((column for column in cells if column.expendable), key=worth)
    left_out: set[Column] = set()
    for column in dispensable:
        rest = [texts for kept, texts in cells.items() if kept not in left_out]
        if sum(max(map(len, texts)) for texts in rest) + len(GAP) * (len(rest) - 1) <= width:
            break
        left_out.add(column)
    return {column: texts for column, texts in cells.items() if column not in left_out}


def _aligned(cells: Cells) -> list[str]:
    columns = []
    for column, texts in cells.items():
        widest = max(map(len, texts))
        columns.append([column.align(text, widest) for text in texts])
    return [GAP.join(line) for line in zip(*columns, strict=True)]
