"""Reads from PromQL what it asks for: the series, their matchers, and how they are used.

It knows as much of the language as the generated queries need, which promtool parses as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_STRING = r'"(?:[^"\\]|\\.)*"'
_MATCHER = re.compile(rf"\s*([\w.]+)\s*(=~|!~|!=|=)\s*({_STRING})\s*,?")
_LABELS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")
_SELECTOR = re.compile(
    rf"(?P<name>[a-zA-Z_:][\w:]*+)?\s*\{{(?P<matchers>(?:[^{{}}\"]|{_STRING})*)\}}"
    r"|(?P<bare>[a-zA-Z_:][\w:]*+)(?!\s*\()"
)
_WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}
_RANGE = re.compile(r"\s*\[([^\]]*)\]")
_CALL = re.compile(r"(\w+)\(\s*$")


@dataclass(frozen=True, slots=True)
class Selector:
    """One selector in a query."""

    name: str
    """Of the series; empty where `__name__` is among the matchers."""
    matchers: Mapping[str, tuple[str, str]]
    """Operator and value by label."""
    window: str
    """The range in brackets, empty if it has none."""
    call: str
    """The function whose argument it is, empty if it is none's."""


def selectors(query: str) -> Iterator[Selector]:
    """Yield the selectors of a query, from left to right."""
    text = _blank(_LABELS, query)
    for match in _SELECTOR.finditer(text):
        name = match["bare"] or match["name"] or ""
        if name in _WORDS or _is_inside(text, match.start()):
            continue
        after, before = _RANGE.match(text, match.end()), _CALL.search(text, 0, match.start())
        yield Selector(
            name,
            {label: (how, value[1:-1]) for label, how, value in _matchers(match["matchers"])},
            after[1] if after else "",
            before[1] if before else "",
        )


def grouped(query: str) -> set[str]:
    """Return the labels by which a query sums up or joins."""
    lists = (match[1].split(",") for match in _LABELS.finditer(query))
    return {label.strip() for labels in lists for label in labels if label.strip()}


def _matchers(text: str | None) -> list[tuple[str, str, str]]:
    return _MATCHER.findall(text or "")


def _blank(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub(lambda match: " " * len(match[0]), text)


def _is_inside(text: str, place: int) -> bool:
    """Tell whether a place is inside a string or a range, or part of a variable or a number."""
    before = text[:place]
    return (
        len(re.findall(r'(?<!\\)"', before)) % 2 == 1
        or before.rfind("[") > before.rfind("]")
        or before.endswith("$")
        or (before[-1:].isdigit())
    )
