"""Wrappers that report before and after a method, be it a coroutine function or not."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

from poolscope.instrument.patches import Wrap

Report = Callable[..., object]


def _nothing(*_: Any) -> None:
    """Report nothing."""


def reporting(first: Report = _nothing, then: Report = _nothing) -> Wrap:
    """Report the arguments before a call, and `self` after it."""

    def wrap(inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **options: Any) -> Any:
            first(self, *args, *options.values())
            result = inner(self, *args, **options)
            then(self)
            return result

        async def wait(self: Any, *args: Any, **options: Any) -> Any:
            first(self, *args, *options.values())
            result = await inner(self, *args, **options)
            then(self)
            return result

        return wait if iscoroutinefunction(inner) else call

    return wrap


def around(begin: Callable[..., tuple[Any, ...] | None], done: Report, failed: Report) -> Wrap:
    """Report the beginning of a call, and then what it returns or raises.

    What `begin` returns for the arguments of the call comes first among those of the others, which
    are not called if that is None.
    """

    def wrap(inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **options: Any) -> Any:
            if (begun := begin(self, *args, *options.values())) is None:
                return inner(self, *args, **options)
            try:
                result = inner(self, *args, **options)
            except BaseException as error:
                failed(*begun, error)
                raise
            done(*begun, result)
            return result

        async def wait(self: Any, *args: Any, **options: Any) -> Any:
            if (begun := begin(self, *args, *options.values())) is None:
                return await inner(self, *args, **options)
            try:
                result = await inner(self, *args, **options)
            except BaseException as error:
                failed(*begun, error)
                raise
            done(*begun, result)
            return result

        return wait if iscoroutinefunction(inner) else call

    return wrap
