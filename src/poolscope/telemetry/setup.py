"""One call that sends everything out by OTLP, for a program without OpenTelemetry of its own.

What it does is what the standard `OTEL_*` variables say. The SDK and its exporters are imported
only by the call.
"""

from __future__ import annotations

import atexit
import importlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from queue import Full, Queue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from poolscope.telemetry.otel_metrics import PoolObserver, observe_pools
from poolscope.telemetry.otel_spans import PoolTracer, trace_pools

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

    Provider = MeterProvider | TracerProvider

PATIENCE = 2.0
"""Seconds that flushing, shutting down, and the end of the program wait for an endpoint."""

MOST_JOBS = 8
"""Flushes that may wait for a hanging endpoint; more fail at once."""

_PACKAGES = {"grpc": "grpc", "http/protobuf": "http"}
_lock = Lock()
_telemetry: Telemetry | None = None


def setup_telemetry(service_name: str | None = None) -> Telemetry:
    """Send metrics and traces of this process to an OTLP endpoint; call it once, at the start.

    Endpoint, headers, protocol (`grpc` unless `OTEL_EXPORTER_OTLP_PROTOCOL` says
    `http/protobuf`), interval, sampler and resource attributes come from the `OTEL_*` variables;
    a `service_name` given here goes before theirs. The providers become the global ones. Where
    the program has set a global provider itself, that one is used and left alone. Asking again
    returns the same handle. What is left is sent when the program ends, within two seconds.

    Raises:
        ValueError: the protocol is not known.
        RuntimeError: telemetry was shut down; OpenTelemetry cannot be set up twice in a process.
    """
    global _telemetry
    with _lock:
        if _telemetry is None:
            _telemetry = _begin(service_name)
        elif _telemetry.ended:
            raise RuntimeError(
                "telemetry of this process was shut down, and OpenTelemetry cannot be set up "
                "twice. Call setup_telemetry() once, at the start of the program."
            )
        return _telemetry


def _begin(service_name: str | None) -> Telemetry:
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider

    # What may fail comes first: then nothing has been started yet, and nothing is global.
    make_metric_exporter = _exporter("METRICS", "metric_exporter", "OTLPMetricExporter")
    make_span_exporter = _exporter("TRACES", "trace_exporter", "OTLPSpanExporter")
    resource = Resource.create({SERVICE_NAME: service_name} if service_name else {})
    owned: list[Provider] = []
    meters, tracers = metrics.get_meter_provider(), trace.get_tracer_provider()
    if not isinstance(meters, MeterProvider):
        meters = _meter_provider(resource, make_metric_exporter())
        metrics.set_meter_provider(meters)
        owned.append(meters)
    if not isinstance(tracers, TracerProvider):
        tracers = _tracer_provider(resource, make_span_exporter())
        trace.set_tracer_provider(tracers)
        owned.append(tracers)
    return Telemetry(owned, observe_pools(meters), trace_pools(tracers))


def _meter_provider(resource: Resource, exporter: MetricExporter) -> MeterProvider:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    reader = PeriodicExportingMetricReader(exporter)
    return MeterProvider([reader], resource=resource, shutdown_on_exit=False)


def _tracer_provider(resource: Resource, exporter: SpanExporter) -> TracerProvider:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporter(signal: str, module: str, name: str) -> Any:
    """Return the class of an OTLP exporter; it reads the rest from the environment itself.

    Raises:
        ValueError: the protocol is not known.
    """
    own, common = f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"
    # The SDK's own default, used by `opentelemetry-instrument`, is grpc as well.
    protocol = (os.environ.get(own) or os.environ.get(common) or "grpc").strip()
    if protocol not in _PACKAGES:
        known = " or ".join(_PACKAGES)
        raise ValueError(f"{own} or {common} must be {known}: got {protocol!r}")
    package = f"opentelemetry.exporter.otlp.proto.{_PACKAGES[protocol]}"
    return getattr(importlib.import_module(f"{package}.{module}"), name)


class Telemetry:
    """What `setup_telemetry` set up. Both methods keep their deadline even if the endpoint hangs.

    The SDK's own do not: a batch of spans is exported for as long as the exporter likes.
    """

    def __init__(
        self,
        owned: Iterable[Provider],
        observer: PoolObserver,
        tracer: PoolTracer,
    ) -> None:
        """Take charge of the providers made for this."""
        self._workers = {provider: _Worker() for provider in owned}
        self._observer = observer
        self._tracer = tracer
        self.ended = False
        """Whether `shutdown` was called."""
        atexit.register(self.shutdown)

    def force_flush(self, timeout: float = PATIENCE) -> bool:
        """Send what is there, within `timeout` seconds; False when that did not succeed."""
        if self.ended:
            return False
        return self._within(timeout, _flush)

    def shutdown(self, timeout: float = PATIENCE) -> bool:
        """Send what is there and end, within `timeout` seconds; False when that did not succeed.

        What an endpoint did not take until then is lost. May be called again.
        """
        if self.ended:
            return True
        self.ended = True
        atexit.unregister(self.shutdown)
        self._tracer.close()
        done = self._within(timeout, _shut_down)
        # Only now, for the metrics are read once more at the end.
        self._observer.close()
        for worker in self._workers.values():
            worker.end()
        return done

    def _within(self, timeout: float, job: Callable[[Provider, int], bool]) -> bool:
        """Do a job with all providers side by side; False unless all succeed in time."""
        limit = max(0, int(timeout * 1000))
        futures = [worker.do(partial(job, p, limit)) for p, worker in self._workers.items()]
        done, late = wait(futures, timeout)
        for future in late:
            future.cancel()
        return not late and all(not future.exception() and future.result() for future in done)


def _flush(provider: Provider, limit: int) -> bool:
    return provider.force_flush(limit)


def _shut_down(provider: Provider, limit: int) -> bool:
    from opentelemetry.sdk.metrics import MeterProvider

    if isinstance(provider, MeterProvider):
        provider.shutdown(limit)
    else:
        provider.shutdown()
    return True


class _Worker:
    """One daemon thread that does one job after the other; one that hangs costs no second thread.

    It is there from the beginning, since Python 3.12 starts no thread while the program ends.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._ended = False
        self._jobs: Queue[tuple[Future[bool], Callable[[], bool]] | None] = Queue(MOST_JOBS)
        self._thread = Thread(target=self._work, name="poolscope-telemetry", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._ended and (item := self._jobs.get()):
            future, job = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except BaseException as error:  # whoever waits is told
                future.set_exception(error)

    def do(self, job: Callable[[], bool]) -> Future[bool]:
        """Do a job when the ones before are done; at once failed if too many wait."""
        if not self._thread.is_alive() and not self._ended:
            self._begin()  # this is a forked child: threads stay behind
        future: Future[bool] = Future()
        try:
            self._jobs.put_nowait((future, job))
        except Full:
            future.set_result(False)
        return future

    def end(self) -> None:
        """End the thread as soon as it is free."""
        self._ended = True
        with suppress(Full):
            self._jobs.put_nowait(None)
