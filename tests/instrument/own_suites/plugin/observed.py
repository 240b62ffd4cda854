"""A plugin for the test run of another library: writes down how each test ends.

With `--observe` the pools of these libraries are instrumented meanwhile, somebody hears all events,
and somebody reads the metrics from another thread, again and again.
"""

import json
import logging
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

INTERVAL = 0.2
"""Seconds between two readings of the metrics."""


class Observer:
    """Instruments libraries, hears what their pools say, and reads their metrics."""

    def __init__(self, libraries: list[str]) -> None:
        self.counts: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.readings = 0
        self._libraries = libraries
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        # Not before the plugins of the library have begun.
        import poolscope
        from poolscope.bus import ROOT

        ROOT.subscribe(self._hear)
        logging.getLogger("poolscope").addHandler(Complaints(self.complaints))
        assert poolscope.instrument(*self._libraries) == self._libraries
        self._thread.start()

    def pytest_sessionfinish(self) -> None:
        self._stop.set()
        self._thread.join()

    def _hear(self, event: object) -> None:
        self.counts[type(event).__name__] += 1

    def _read(self) -> None:
        from prometheus_client import CollectorRegistry, generate_latest

        from poolscope.telemetry.prometheus import PoolCollector

        registry = CollectorRegistry()
        registry.register(PoolCollector())
        while not self._stop.wait(INTERVAL):
            try:
                generate_latest(registry)
            except Exception as error:
                self.complaints.append(f"metrics cannot be read: {error!r}")
            self.readings += 1


class Complaints(logging.Handler):
    """Keeps what poolscope warns of."""

    def __init__(self, kept: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(self.format(record))


class Outcomes:
    """Writes down how each test ends."""

    def __init__(self, path: Path, only: list[str], observer: Observer | None) -> None:
        self._path = path
        self._only = only
        self._observer = observer
        self._outcomes: dict[str, list[str]] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self._only:
            items[:] = [item for item in items if item.nodeid in self._only]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        words = [report.when or "", report.outcome]
        if hasattr(report, "wasxfail"):
            words.append("expected to fail")
        crash = getattr(report.longrepr, "reprcrash", None)
        if crash is not None:
            words.append(anonymous(crash.message.partition("\n")[0]))
        self._outcomes.setdefault(report.nodeid, []).append(": ".join(words))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        told: dict[str, Any] = {"outcomes": self._outcomes}
        if (observer := self._observer) is not None:
            told["counts"] = observer.counts
            told["complaints"] = observer.complaints
            told["readings"] = observer.readings
        self._path.write_text(json.dumps(told), encoding="utf-8")


def anonymous(text: str) -> str:
    """Leave out addresses of objects, and numbers of ports and processes."""
    return re.sub(r"0x[0-9a-f]+|\d{4,}", "…", text)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--told", type=Path, help="the file in which each outcome is written")
    parser.addoption("--only", type=Path, help="a file that names the tests to run, if not all")
    parser.addoption("--observe", default="", help="the libraries to instrument, with commas")


def pytest_configure(config: pytest.Config) -> None:
    libraries = [name for name in config.option.observe.split(",") if name]
    only = config.option.only.read_text(encoding="utf-8").splitlines()
    observer = Observer(libraries) if libraries else None
    if observer is not None:
        config.pluginmanager.register(observer)
    config.pluginmanager.register(Outcomes(config.option.told, only, observer))
