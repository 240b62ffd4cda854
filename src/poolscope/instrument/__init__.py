"""Pools of other libraries, made to speak as ours do: all of them, or one."""

from __future__ import annotations

from typing import Any

from poolscope.faults import shown
from poolscope.instrument import libraries
from poolscope.instrument.library import meet_all
from poolscope.instrument.source import ForeignPool

__all__ = ["ForeignPool", "instrument", "observe", "uninstrument"]


def instrument(*names: str) -> list[str]:
    """Observe the pools of these libraries, or of all that are installed; return their names.

    Pools that are there already are observed from now on, and those to come from their beginning.
    Their events, metrics and spans are those of `ConnectionPool`, as far as each library can tell:
    docs/instrumentation.md. May be called again. Safe from any thread.

    Raises:
        ValueError: there is no such library.
        ImportError: one that was named is not installed.
    """
    chosen = [libraries.get(name) for name in names] or libraries.installed()
    for library in chosen:
        library.kinds()
    observed = [library for library in chosen if library.instrument()]
    meet_all(observed)
    return [library.name for library in observed]


def uninstrument(*names: str) -> None:
    """Observe no pool of these libraries, or of any, and put back all that was replaced.

    Those given to `observe()` are no exception. What is lent stays lent. May be called again.
    """
    for library in [libraries.get(name) for name in names] or libraries.loaded():
        library.uninstrument()


def observe(engine_or_pool: Any, name: str | None = None) -> ForeignPool:
    """Observe one engine, client or pool; `close()` of what is returned ends that.

    It is called `name`, else as its application calls itself, else `host:port/database`; with a
    suffix if a pool of this process has that name. Asked again, it returns the same. Safe from any
    thread.

    Raises:
        TypeError: it is no pool of a library known here.
        RuntimeError: the version of its library is not known; the log says more.
    """
    for library in libraries.loaded(engine_or_pool):
        if (pool := library.pool_of(engine_or_pool)) is not None:
            if (source := library.observe(pool, name)) is not None:
                return source
            raise RuntimeError(
                f"pools of {library.distribution} {library.version()} cannot be observed by this "
                "version of poolscope; its log says why"
            )
    raise TypeError(
        f"this is no pool that can be observed: {shown(engine_or_pool)}. Known are those of "
        f"{', '.join(libraries.NAMES)}; see docs/instrumentation.md"
    )
