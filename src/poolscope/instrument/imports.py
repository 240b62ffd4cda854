"""Hearing of it when the program has imported a module, without importing it oneself."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from poolscope.faults import where

logger = logging.getLogger("poolscope")

Then = Callable[[], object]


class Imports(MetaPathFinder):
    """Calls back when modules have been imported, each once. Safe from any thread.

    It stands first among the finders of modules, and leaves the finding to the others.
    """

    def __init__(self) -> None:
        """Begin with nothing expected."""
        self._expected: dict[str, Then] = {}
        self._searched = threading.local()

    def expect(self, module: str, then: Then) -> None:
        """Call `then` when this module has been imported next, in the thread that does it.

        What it raises is logged: the program only wanted to import a module.
        """
        self._expected[module] = then
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def when(self, module: str, then: Then) -> None:
        """Call `then` now if this module has been imported, else when it has been."""
        if sys.modules.get(module) is not None:
            then()
            return
        self.expect(module, then)
        if sys.modules.get(module) is not None:  # by another thread, a moment ago
            self.imported(module)

    def forget(self, module: str) -> None:
        """Expect this module no more; with the last one, leave the finders."""
        if self._expected.pop(module, None) is not None and not self._expected:
            with suppress(ValueError):
                sys.meta_path.remove(self)

    def imported(self, module: str) -> None:
        """Hear that a module has been imported."""
        # The finders stay as they are: another thread may be asking one after the other.
        if (then := self._expected.pop(module, None)) is None:
            return
        try:
            then()
        except Exception as error:
            logger.warning(
                "pools of %s are not observed, or not to the end: it cannot be used as poolscope "
                "knows it (%s). The service goes on. Use a newer poolscope, or tell us",
                module,
                where(error),
            )

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module that is expected, with a loader that tells; None for any other."""
        searched = self._searched.__dict__
        if fullname not in self._expected or fullname in searched:
            return None
        searched[fullname] = True  # others do as we do, and ask all finders
        try:
            spec = self._ask_others(fullname, path, target)
        finally:
            del searched[fullname]
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _TellingLoader(spec.loader, self)
        return spec

    def _ask_others(self, *question: Any) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            ask = None if finder is self else getattr(finder, "find_spec", None)
            if ask is not None and (spec := ask(*question)) is not None:
                found: ModuleSpec = spec
                return found
        return None


class _TellingLoader(Loader):
    """Loads by another loader, which is the one that the module will name."""

    def __init__(self, inner: Any, imports: Imports) -> None:
        self._inner = inner
        self._imports = imports

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._inner.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        module.__loader__ = self._inner
        self._inner.exec_module(module)
        self._imports.imported(module.__name__)


IMPORTS = Imports()
"""That of this process."""
