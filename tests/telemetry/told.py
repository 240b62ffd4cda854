"""Everything that poolscope tells anybody, to be searched for what it must not tell."""

import gc
import json
import logging
import pickle
import pprint
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from rich.pretty import pretty_repr

from poolscope import PoolError
from poolscope.bus import ROOT
from poolscope.cli.demo.words import NOTEWORTHY, Notebook
from poolscope.events import Event
from poolscope.telemetry.logs import log_pools
from tests.telemetry.outbox import Road, road
from tests.telemetry.series import pools_registry

CANARY = "geheim7f3a"


class Told:
    """Everything that poolscope has told since it was made."""

    def __init__(
        self, spans: InMemorySpanExporter, way: Road, reader: InMemoryMetricReader
    ) -> None:
        self.spans, self._way, self._reader = spans, way, reader
        self._notebook = Notebook()
        self.events: list[Event] = []
        self.errors: list[BaseException] = []
        """What callers got."""
        self.records: list[logging.LogRecord] = []
        self.texts: dict[str, list[str]] = {}

    def hear(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, NOTEWORTHY):
            self._notebook.add(event)

    def look(self, *more: object) -> None:
        """Read all metrics, and what is given besides."""
        data = self._way.get_metrics_data()
        assert data is not None
        self.note(
            "metrics",
            generate_latest(pools_registry()),
            generate_openmetrics(pools_registry()),
            encode_metrics(data).SerializeToString(),
            *[each.to_json() for each in (data, self._reader.get_metrics_data()) if each],
        )
        self.note("reprs", *map(repr, more), *map(str, more))

    def note(self, kind: str, *texts: str | bytes) -> None:
        known = self.texts.setdefault(kind, [])
        known += [t.decode(errors="replace") if isinstance(t, bytes) else t for t in texts]

    def assert_clean(self) -> None:
        """Look for the secret in everything."""
        spans = self.spans.get_finished_spans()
        self.note("spans", encode_spans(spans).SerializeToString(), *(s.to_json() for s in spans))
        for record in self.records:
            line = logging.Formatter().format(record)
            self.note("logs", line, record.getMessage(), repr(vars(record)))
            self.note("logs", json.dumps(vars(record).get("poolscope")))
        for event in self.events:
            views = (repr, str, format, pprint.pformat, pretty_repr, ascii)
            self.note("events", *(view(event) for view in views), repr([event]), f"{event=}")
        self.note("words", *(note.text for note in self._notebook.notes))
        for error in self.errors:
            self.note("errors", *own_texts(error))
        self.note("objects", *map(safe_repr, objects_of_ours()))
        found = {(k, t) for k, texts in self.texts.items() for t in texts if CANARY in t}
        assert not found, "\n\n".join(f"{kind}: {text}" for kind, text in found)

    def __getitem__(self, kind: str) -> str:
        return "\n".join(self.texts[kind])


def own_texts(error: BaseException) -> list[str]:
    """What an error says by itself, without those it was raised from."""
    alone = traceback.format_exception(type(error), error, error.__traceback__, chain=False)
    notes = getattr(error, "__notes__", [])
    texts = [str(error), repr(error), *map(repr, error.args), repr(vars(error)), *notes, *alone]
    if isinstance(error, PoolError):
        texts.append(pickle.dumps(error).decode("latin-1"))
        texts.append(repr(pickle.loads(pickle.dumps(error))))
    return texts


def objects_of_ours() -> list[object]:
    """All instances of our classes that are alive."""
    kinds = {kind for kind in map(type, gc.get_objects()) if is_ours(kind)}
    return [each for each in gc.get_objects() if type(each) in kinds]


def safe_repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # it was refused while it was being made
        return ""


def is_ours(kind: type) -> bool:
    module = getattr(kind, "__module__", None)
    return isinstance(module, str) and module.partition(".")[0] == "poolscope"


@contextmanager
def listening(exporter: InMemorySpanExporter, reader: InMemoryMetricReader) -> Iterator[Told]:
    """Hear, log, trace and count from now on; spans and metrics are told to these too."""
    logger = logging.getLogger("poolscope")
    with road() as way:
        told = Told(exporter, way, reader)
        handler = logging.Handler()
        handler.emit = told.records.append  # type: ignore[method-assign]
        before = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        log = log_pools()
        try:
            with ROOT.subscribe(told.hear):
                yield told
        finally:
            log.close()
            logger.removeHandler(handler)
            logger.setLevel(before)
