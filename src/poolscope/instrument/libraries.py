"""The libraries whose pools are known here, each loaded when the program uses it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec

from poolscope.faults import shown
from poolscope.instrument.imports import IMPORTS
from poolscope.instrument.library import Library

MODULES = {
    "sqlalchemy": "sqlalchemy",
    "psycopg": "psycopg_pool",
    "asyncpg": "asyncpg",
    "redis": "redis",
    "valkey": "valkey",
    "aiomysql": "aiomysql",
    "pymongo": "pymongo",
}
"""By name, the package that a program imports before it can have such a pool."""

NAMES = tuple(MODULES)


@cache
def _load(name: str) -> Library:
    library: Library = import_module(f"poolscope.instrument.{name}").LIBRARY
    return library


def known(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return these names. Raises ValueError if one is not known."""
    for name in names:
        if name not in MODULES:
            raise ValueError(f"no such library: {shown(name)}; known are {', '.join(NAMES)}")
    return names


def installed() -> tuple[str, ...]:
    """Return the names of those that could be imported. None is."""
    return tuple(filter(_is_installed, NAMES))


def require(name: str) -> None:
    """Raise ImportError if a library is not installed."""
    if not _is_installed(name):
        module = MODULES[name]
        raise ImportError(f"there is no {module} whose pools could be observed", name=module)


def _is_installed(name: str) -> bool:
    try:
        return _is_loaded(name) or find_spec(MODULES[name]) is not None
    except (ImportError, ValueError):  # some finder does not do as finders should
        return False


def _is_loaded(name: str) -> bool:
    return sys.modules.get(MODULES[name]) is not None


def loaded(names: Iterable[str] = NAMES) -> list[Library]:
    """Return those that the program has imported."""
    return [_load(name) for name in names if _is_loaded(name)]


def expect(names: Iterable[str]) -> None:
    """Observe the pools of these libraries as soon as the program imports them."""
    for name in names:
        if not _is_loaded(name):
            IMPORTS.expect(MODULES[name], partial(_begin, name))


def forget(names: Iterable[str]) -> None:
    """Expect these libraries no more."""
    for name in names:
        IMPORTS.forget(MODULES[name])


def _begin(name: str) -> None:
    _load(name).instrument()
