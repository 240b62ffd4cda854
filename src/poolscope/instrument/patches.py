"""Replacing methods of other people's classes, and putting back exactly what was there."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Makes a wrapper, given the function that was there."""

_ABSENT = object()


class Patches:
    """Attributes of classes that are replaced, until `undo()`."""

    def __init__(self) -> None:
        """Begin with none."""
        self._made: list[tuple[type, str, Any, Any]] = []

    def __bool__(self) -> bool:
        """Tell whether anything is replaced."""
        return bool(self._made)

    def wrap(self, owner: type, name: str, wrap: Wrap) -> None:
        """Replace a method by a wrapper, which bears its name, text and signature.

        Raises:
            AttributeError: the class has no such method.
        """
        inner = getattr(owner, name)
        self.set(owner, name, update_wrapper(wrap(inner), inner))

    def set(self, owner: type, name: str, value: Any) -> None:
        """Replace an attribute of a class, or give it one."""
        self._made.append((owner, name, owner.__dict__.get(name, _ABSENT), value))
        setattr(owner, name, value)

    def undo(self) -> None:
        """Put back what was there, the latest first.

        What somebody else has replaced meanwhile stays. It may lead to a wrapper of ours, which
        must do nothing for a pool that is not observed.
        """
        while self._made:
            owner, name, before, value = self._made.pop()
            if owner.__dict__.get(name, _ABSENT) is not value:
                continue
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
