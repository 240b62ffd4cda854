"""The libraries whose pools are known here, each loaded when it is needed."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from typing import Any

from poolscope.faults import shown
from poolscope.instrument.library import Library

NAMES = ("sqlalchemy", "psycopg", "asyncpg", "redis", "valkey", "aiomysql", "pymongo")


@cache
def _load(name: str) -> Library:
    library: Library = import_module(f"poolscope.instrument.{name}").LIBRARY
    return library


def get(name: str) -> Library:
    """Return a library by name. Raises ValueError if it is not known."""
    if name not in NAMES:
        raise ValueError(f"no such library: {shown(name)}; known are {', '.join(NAMES)}")
    return _load(name)


def installed() -> list[Library]:
    """Return those that are installed."""
    return [library for name in NAMES if (library := _load(name)).is_installed()]


def loaded(thing: Any = None) -> list[Library]:
    """Return those that the program uses, or of which this may be a thing."""
    return [_load(name) for name in NAMES if _module(name) in sys.modules]


def _module(name: str) -> str:
    return {"psycopg": "psycopg_pool"}.get(name, name)
