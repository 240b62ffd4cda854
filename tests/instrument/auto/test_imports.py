"""How we hear that a library has been imported, and what others see of that: nothing."""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
import threading
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import pytest

from poolscope.instrument.imports import Imports

NAME = "library_of_nobody"


@pytest.fixture
def imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Imports]:
    """What hears of imports; there is a library, a package, that can be imported."""
    package = tmp_path / NAME
    package.mkdir()
    (package / "__init__.py").write_text(f"from {NAME} import pools\nCOUNT = 1\n")
    (package / "pools.py").write_text("class Pool:\n    pass\n")
    (package / "data.txt").write_text("data")
    monkeypatch.syspath_prepend(tmp_path)
    imports = Imports()
    yield imports
    imports.forget(NAME)
    for module in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[module]


def test_an_import_is_heard_of_once_when_all_of_the_module_is_there(imports: Imports) -> None:
    heard: list[bool] = []
    imports.expect(NAME, lambda: heard.append(hasattr(sys.modules[NAME], "COUNT")))
    assert heard == []
    importlib.import_module(f"{NAME}.pools")
    assert heard == [True]
    importlib.reload(sys.modules[NAME])
    assert heard == [True]


def test_the_module_looks_as_if_nobody_had_listened(imports: Imports) -> None:
    module = importlib.import_module(NAME)
    plain = type(module.__spec__.loader), type(module.__loader__), repr(module)
    del sys.modules[NAME]
    imports.expect(NAME, lambda: None)
    module = importlib.import_module(NAME)
    assert (type(module.__spec__.loader), type(module.__loader__), repr(module)) == plain
    assert "COUNT" in inspect.getsource(module)
    assert pkgutil.get_data(NAME, "data.txt") == b"data"


def test_to_look_for_the_module_is_not_to_import_it(imports: Imports) -> None:
    heard: list[str] = []
    imports.expect(NAME, lambda: heard.append(NAME))
    found = importlib.util.find_spec(NAME)
    assert found is not None
    loader: Any = found.loader
    assert "COUNT" in loader.get_source(NAME)
    assert heard == []
    assert NAME not in sys.modules
    importlib.import_module(NAME)
    assert heard == [NAME]


def test_an_import_that_fails_is_tried_again_and_heard_of_then(
    imports: Imports, tmp_path: Path
) -> None:
    heard: list[str] = []
    imports.expect(NAME, lambda: heard.append(NAME))
    text = tmp_path / NAME / "__init__.py"
    good = text.read_text()
    text.write_text("raise ImportError('not today, nor tomorrow')")
    with pytest.raises(ImportError, match="not today"):
        importlib.import_module(NAME)
    assert heard == []
    text.write_text(good)
    importlib.import_module(NAME)
    assert heard == [NAME]


def test_a_library_that_is_not_there_stays_missing(imports: Imports) -> None:
    imports.expect("library_of_no_man", lambda: None)
    with pytest.raises(ModuleNotFoundError, match="library_of_no_man"):
        importlib.import_module("library_of_no_man")
    imports.forget("library_of_no_man")


def test_what_is_expected_no_more_leaves_no_trace(imports: Imports) -> None:
    before = list(sys.meta_path)
    heard: list[str] = []
    imports.expect(NAME, lambda: heard.append(NAME))
    assert sys.meta_path == [imports, *before]
    imports.forget("something else")
    imports.forget(NAME)
    assert sys.meta_path == before
    importlib.import_module(NAME)
    assert heard == []


def test_others_who_listen_in_the_same_way_hear_of_it_too(imports: Imports) -> None:
    """Some libraries ask all finders from within theirs: both would ask each other for ever."""

    class Other(MetaPathFinder):
        asked = 0
        asking = False

        def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
            if fullname != NAME or self.asking:
                return None
            self.asked += 1
            self.asking = True
            try:
                return importlib.util.find_spec(fullname)
            finally:
                self.asking = False

    heard: list[str] = []
    for is_first in (False, True):
        other = Other()
        imports.expect(NAME, lambda: heard.append(NAME))
        sys.meta_path.insert(0 if is_first else 1, other)
        try:
            importlib.import_module(NAME)
        finally:
            sys.meta_path.remove(other)
        assert other.asked == 1
        del sys.modules[NAME]
    assert heard == [NAME, NAME]


def test_two_threads_that_import_the_library_at_once_are_heard_once(imports: Imports) -> None:
    heard: list[str] = []
    imports.expect(NAME, lambda: heard.append(NAME))
    together = threading.Barrier(4)
    seen: list[object] = []

    def use() -> None:
        together.wait()
        seen.append(importlib.import_module(f"{NAME}.pools").Pool)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == [NAME]
    assert len(set(seen)) == 1
