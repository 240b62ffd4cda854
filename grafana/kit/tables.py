"""Tables: a row for each set of labels, a column for each query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase

from grafana.kit.looks import Look, Override
from grafana.kit.panels import FULL, panel
from grafana.kit.targets import Json, Query


@dataclass(frozen=True, slots=True)
class Column:
    """One number of each row."""

    title: str
    expr: str
    look: Look
    labels: Sequence[str] = ()
    """Labels of this query alone, which become columns before it."""
    empty: str = "-"
    """What stands in a row without a value."""


def table(
    title: str,
    about: str,
    rows: Mapping[str, str],
    columns: Sequence[Column],
    *,
    sort: str,
    empty: str,
    width: int = FULL,
    height: int = 8,
    links: Mapping[str, Sequence[Json]] | None = None,
) -> Json:
    """Show what is the case now, the highest of the column `sort` first.

    `rows` are the labels all queries have, and the titles of their columns. Rows are joined by
    all of these labels; `links` are those of the cells of a column, by its title.
    """
    queries = [Query(column.expr, instant=True, kind="table") for column in columns]
    options = {
        "showHeader": True,
        "cellHeight": "sm",
        "sortBy": [{"displayName": sort, "desc": True}],
    }
    made = panel(
        "table", title, about, queries, Look("none", empty=empty), (width, height), options
    )
    made["fieldConfig"]["defaults"]["custom"] = {"align": "auto", "filterable": True}
    linked = [_cells(name, {"links": list(each)}) for name, each in (links or {}).items()]
    made["fieldConfig"]["overrides"] = [*map(_looks, columns), *linked]
    return made | {"transformations": _join(rows, columns)}


def _looks(column: Column) -> Override:
    shown = replace(column.look, empty=column.empty).defaults()
    properties = {key: value for key, value in shown.items() if key not in ("min", "max")}
    colored = {"custom.cellOptions": {"type": "color-text"}} if column.look.steps else {}
    return _cells(column.title, properties | colored)


def _cells(title: str, properties: Json) -> Override:
    return {
        "matcher": {"id": "byName", "options": title},
        "properties": [{"id": key, "value": value} for key, value in properties.items()],
    }


def _join(rows: Mapping[str, str], columns: Sequence[Column]) -> list[Json]:
    """Put the results side by side where all their labels agree, and name the columns."""
    names = dict(rows)
    for column, ref in zip(columns, ascii_uppercase, strict=False):
        names |= {label: label.capitalize() for label in column.labels}
        names["Value" if len(columns) == 1 else f"Value #{ref}"] = column.title
    organize = {
        "excludeByName": {"Time": True},
        "indexByName": {name: index for index, name in enumerate(names)},
        "renameByName": names,
    }
    return [{"id": "merge", "options": {}}, {"id": "organize", "options": organize}]
