"""One call that sends everything out by OTLP, for a program without OpenTelemetry of its own.

What it does is what the standard `OTEL_*` variables say. The SDK and its exporters are imported
only by the call.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from queue import Full, Queue
from threading import Lock, Thread
from typing import TYPE_CHECKING

from poolscope.telemetry.logs import log_pools
from poolscope.telemetry.otel_metrics import observe_pools
from poolscope.telemetry.otel_spans import trace_pools
from poolscope.telemetry.providers import Switch
from poolscope.telemetry.spans.rules import SpanRules, make_rules

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

    from poolscope.telemetry.exporters import RenewedSpanExporter
    from poolscope.telemetry.otel_export import PoolExporter

    Provider = MeterProvider | TracerProvider

PATIENCE = 2.0
"""Seconds that flushing, shutting down, and the end of the program wait for an endpoint."""

MOST_JOBS = 8
"""Flushes that may wait for a hanging endpoint; more fail at once."""

_lock = Lock()
_telemetry: Telemetry | None = None


def setup_telemetry(service_name: str | None = None, *, logs: bool = True) -> Telemetry:
    """Send metrics and traces of this process to an OTLP endpoint; call it once, at the start.

    Endpoint, headers, protocol (`grpc` unless `OTEL_EXPORTER_OTLP_PROTOCOL` says
    `http/protobuf`), interval, temporality, sampler and resource attributes come from the `OTEL_*`
    variables; a `service_name` given here goes before theirs. `OTEL_METRICS_EXPORTER` and
    `OTEL_TRACES_EXPORTER` may be `otlp`, `console` or `none`; `OTEL_SDK_DISABLED=true` leaves only
    the logs. With `logs`, failures, leaks and saturation go to the logger `poolscope` as well.

    The providers become the global ones. Where the program has set a global provider itself, that
    one is used and left alone. Asking again returns the same handle. What is left is sent when the
    program ends, within two seconds. A forked child sends what is its own, as an instance of its
    own.

    Raises:
        ValueError: a variable has a value that is not known.
        RuntimeError: telemetry was shut down; OpenTelemetry cannot be set up twice in a process.
    """
    global _telemetry
    with _lock:
        if _telemetry is None:
            _telemetry = _begin(service_name, logs)
        elif _telemetry.ended:
            raise RuntimeError(
                "telemetry of this process was shut down, and OpenTelemetry cannot be set up "
                "twice. Call setup_telemetry() once, at the start of the program."
            )
        return _telemetry


def _begin(service_name: str | None, logs: bool) -> Telemetry:
    from poolscope.telemetry import exporters

    # What may fail comes first: then nothing has been started yet, and nothing is global.
    rules = make_rules()
    telemetry = Telemetry()
    if not exporters.is_disabled():
        _send(telemetry, service_name, rules)
    if logs:
        telemetry.parts.append(log_pools())
    atexit.register(telemetry._end)
    return telemetry


def _send(telemetry: Telemetry, service_name: str | None, rules: SpanRules) -> None:
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider

    from poolscope.telemetry import exporters
    from poolscope.telemetry.otel_export import PoolExporter, temporality_preference

    meters, tracers = metrics.get_meter_provider(), trace.get_tracer_provider()
    has_meters, has_tracers = isinstance(meters, MeterProvider), isinstance(tracers, TracerProvider)
    if not has_meters and (metric_exporter := exporters.make_metric_exporter()) is not None:
        telemetry.exporter = PoolExporter(metric_exporter, temporality_preference())
    if not has_tracers:
        telemetry.span_exporter = exporters.make_span_exporter()
    resource = Resource.create({SERVICE_NAME: service_name} if service_name else {})
    own_meters, own_tracers = _providers(telemetry, resource)
    if own_meters is not None:
        metrics.set_meter_provider(own_meters)
        telemetry.own(own_meters)
    if own_tracers is not None:
        trace.set_tracer_provider(own_tracers)
        telemetry.own(own_tracers)
    if has_meters or own_meters is not None:
        observer = observe_pools(own_meters or meters, telemetry.exporter)
        (telemetry.guests if has_meters else telemetry.parts).append(observer)
    if has_tracers or own_tracers is not None:
        tracer = trace_pools(own_tracers or tracers, mode=rules.mode, threshold=rules.threshold)
        (telemetry.guests if has_tracers else telemetry.parts).append(tracer)


def _providers(
    telemetry: Telemetry, resource: Resource
) -> tuple[MeterProvider | None, TracerProvider | None]:
    """Make providers for the exporters there are: all, or none if a variable is wrong."""
    meters, tracers = None, None
    with ExitStack() as undo:
        if telemetry.span_exporter is not None:
            tracers = _tracer_provider(resource, telemetry.span_exporter)
            undo.callback(tracers.shutdown)
        if telemetry.exporter is not None:
            meters = _meter_provider(resource, telemetry.exporter)
        undo.pop_all()
    return meters, tracers


def _meter_provider(resource: Resource, exporter: MetricExporter) -> MeterProvider:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    reader = PeriodicExportingMetricReader(exporter)
    # A child forked during an export would find this lock held for ever. It is not needed: exports
    # take turns in the exporter, and that begins anew in a child.
    reader._export_lock = nullcontext()  # type: ignore[assignment]
    return MeterProvider([reader], resource=resource, shutdown_on_exit=False)


def _tracer_provider(resource: Resource, exporter: SpanExporter) -> TracerProvider:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


class Telemetry:
    """What `setup_telemetry` set up. Its methods keep their deadline even if the endpoint hangs.

    The SDK's own do not: a batch of spans is exported for as long as the exporter likes.
    """

    def __init__(self) -> None:
        """Begin with nothing set up."""
        self._workers: dict[Provider, _Worker] = {}
        self.parts: list[Switch] = []
        """What hears of pools."""
        self.guests: list[Switch] = []
        """What hears of them for providers of the program's own."""
        self.exporter: PoolExporter | None = None
        """What sends metrics; it counts what it could not send."""
        self.span_exporter: RenewedSpanExporter | None = None
        """What sends spans; it counts what it could not send."""
        self.ended = False
        """Whether `shutdown` was called."""

    def own(self, provider: Provider) -> None:
        """Take charge of a provider made for this."""
        self._workers[provider] = _Worker()

    def begin_in_child(self) -> None:
        """Go on in a forked child, unless it has ended."""
        if not self.ended:
            for worker in self._workers.values():
                worker.begin()

    def force_flush(self, timeout: float = PATIENCE) -> bool:
        """Send what is there, within `timeout` seconds; False when that did not succeed."""
        if self.ended:
            return False
        before = self._losses()
        return self._within(timeout, _flush) and self._losses() == before

    def shutdown(self, timeout: float = PATIENCE) -> bool:
        """Send what is there and end, within `timeout` seconds; False when that did not succeed.

        What an endpoint did not take until then is lost. May be called again.
        """
        done = self._end(timeout)
        for guest in self.guests:
            guest.close()
        return done

    def _end(self, timeout: float = PATIENCE) -> bool:
        # At the end of a program its own providers collect once more, perhaps after this.
        if self.ended:
            return True
        self.ended = True
        atexit.unregister(self._end)
        before = self._losses()
        done = self._within(timeout, _shut_down) and self._losses() == before
        # Only now, for the metrics are read once more at the end.
        for part in self.parts:
            part.close()
        for worker in self._workers.values():
            worker.end()
        return done

    def _losses(self) -> int:
        """Return how much was not taken so far; the SDK itself does not tell."""
        failed = self.exporter.failed if self.exporter is not None else 0
        lost = self.span_exporter.lost if self.span_exporter is not None else 0
        return failed + lost

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
        self._ended = False
        self.begin()

    def begin(self) -> None:
        """Start the thread, with nothing to do; in a forked child too, for threads stay behind."""
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


def _after_fork_in_child() -> None:
    global _lock
    _lock = Lock()
    if _telemetry is not None:
        _telemetry.begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
