"""The three calls: observe the pools of libraries, or one pool, or none any more."""

from __future__ import annotations

from typing import Any

from poolscope.faults import shown
from poolscope.instrument import libraries
from poolscope.instrument.library import meet_all
from poolscope.instrument.source import ForeignPool


def instrument(*names: str) -> list[str]:
    """Observe the pools of these libraries, or of all that are installed; return their names.

    Pools that are there already are observed from now on, and those to come from their beginning.
    Nothing is imported: a library that the program has not imported yet is observed as soon as it
    does. Their events, metrics and spans are those of `ConnectionPool`, as far as each library can
    tell: docs/instrumentation.md. May be called again. Safe from any thread.

    Raises:
        ValueError: there is no such library.
        ImportError: one that was named is not installed.
    """
    chosen = libraries.known(names) or libraries.installed()
    for name in names:
        libraries.require(name)
    # These first, so that none is missed that another thread imports meanwhile.
    libraries.expect(chosen)
    present = libraries.loaded(chosen)
    libraries.forget(library.name for library in present)
    observed = [library for library in present if library.instrument()]
    if observed:
        meet_all(observed)
    failed = {library.name for library in present} - {library.name for library in observed}
    return [name for name in chosen if name not in failed]


def uninstrument(*names: str) -> None:
    """Observe no pool of these libraries, or of any, and put back all that was replaced.

    Those given to `observe()` are no exception. What is lent stays lent. May be called again.

    Raises:
        ValueError: there is no such library.
    """
    chosen = libraries.known(names) or libraries.NAMES
    libraries.forget(chosen)
    for library in libraries.loaded(chosen):
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
    for library in libraries.loaded():
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
