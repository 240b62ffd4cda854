"""YAML as a person would write it, of the few kinds of values that rules are made of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any

WIDTH = 100
_PLAIN = re.compile(r"(\d+(ms|[dhms]))+|[A-Za-z_/](?!.*(: | #)).*(?<![: ])")
_OTHER = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
"""Words that are no strings to some readers of YAML."""


def dump(value: Mapping[str, Any], note: str) -> str:
    """Return a document of dictionaries, lists, strings and numbers, with a comment above.

    A string of several lines stays as it is; a long one is folded, which readers undo.
    """
    return "\n".join([f"# {note}", "---", *_mapping(value, "")]) + "\n"


def _mapping(value: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, each in value.items():
        yield from _entry(f"{indent}{key}:", each, indent)


def _entry(head: str, value: Any, indent: str) -> Iterator[str]:
    match value:
        case Mapping():
            yield head
            yield from _mapping(value, indent + "  ")
        case str() if "\n" in value:
            yield f"{head} |-"
            yield from (f"{indent}  {line}" for line in value.split("\n"))
        case str() if len(f"{head} {_scalar(value)}") > WIDTH:
            yield f"{head} >-"
            lines = wrap(
                value, WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False
            )
            yield from (f"{indent}  {line}" for line in lines)
        case str() | int() | float():
            yield f"{head} {_scalar(value)}"
        case Sequence():
            yield head
            for each in value:
                yield from _item(each, indent + "  ")
        case _:
            raise TypeError(f"cannot write {type(value).__name__} as YAML")


def _item(value: Any, indent: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{indent}- {_scalar(value)}"
        return
    for number, line in enumerate(_mapping(value, indent + "  ")):
        yield line if number else f"{indent}- {line.lstrip()}"


def _scalar(value: str | float) -> str:
    if not isinstance(value, str) or (_PLAIN.fullmatch(value) and value.lower() not in _OTHER):
        return str(value)
    return json.dumps(value, ensure_ascii=False)
