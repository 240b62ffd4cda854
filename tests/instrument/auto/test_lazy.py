"""Libraries are observed when a program imports them, and not imported for that."""

import importlib
import logging
import sys
from pathlib import Path

import pytest

from poolscope.instrument import libraries, switch
from tests.telemetry.programs import run_well

USE = """
import sys
import poolscope
from poolscope import registry
from poolscope.instrument import libraries

before = list(sys.meta_path)

def imported():
    return sorted(set(libraries.MODULES.values()) & set(sys.modules))

def use_sqlalchemy():
    import sqlalchemy
    engine = sqlalchemy.create_engine("sqlite://", pool_logging_name="shop")
    with engine.connect():
        print([pool.name for pool in registry.live()])
    engine.dispose()

"""


def test_nothing_is_imported_before_the_program_does() -> None:
    said = run_well(
        USE
        + """
names = poolscope.instrument()
print(names == list(libraries.installed()), imported())
print(poolscope.instrument("sqlalchemy"), len(sys.meta_path) - len(before))
use_sqlalchemy()
print(imported())
"""
    )
    assert said == "True []\n['sqlalchemy'] 1\n['shop']\n['sqlalchemy']\n"


def test_a_library_that_is_imported_already_is_observed_at_once() -> None:
    said = run_well(f"import sqlalchemy\n{USE}\npoolscope.instrument()\nuse_sqlalchemy()")
    assert said == "['shop']\n"


def test_only_those_that_were_named_are_observed_later() -> None:
    said = run_well(f"{USE}\nprint(poolscope.instrument('redis'))\nuse_sqlalchemy()")
    assert said == "['redis']\n[]\n"


def test_a_library_is_expected_no_more_after_uninstrument() -> None:
    said = run_well(
        USE
        + """
poolscope.instrument()
poolscope.uninstrument("sqlalchemy")
use_sqlalchemy()
poolscope.uninstrument()
print(sys.meta_path == before, [name for name in sys.modules if name.startswith("redis")])
poolscope.uninstrument()
"""
    )
    assert said == "[]\nTrue []\n"


def test_who_names_a_library_is_told_when_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"no such library: 'sqlite'; known are sqlalchemy, "):
        switch.instrument("sqlite")
    with pytest.raises(ValueError, match="no such library: a str"):
        switch.uninstrument("postgresql://user:secret@host/db")
    monkeypatch.setitem(sys.modules, "aiomysql", None)  # so Python says that it is not to be had
    assert "aiomysql" not in libraries.installed()
    with pytest.raises(ImportError, match="there is no aiomysql whose pools could be observed"):
        switch.instrument("aiomysql")


def test_a_program_can_import_what_we_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = "library_without_adapter"
    (tmp_path / f"{name}.py").write_text("COUNT = 1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(libraries.MODULES, name, name)
    assert switch.instrument(name) == [name]
    assert importlib.import_module(name).COUNT == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(
        f"pools of {name} are not observed, or not to the end: it"
    )
    del sys.modules[name]
