"""Prometheus: a collector for all pools, and a small server for `/metrics`.

Names, units and labels are those which OTLP through an OpenTelemetry Collector gives, so that one
dashboard serves both roads. Nothing here runs per operation: a scrape reads what is counted anyway.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from socketserver import ThreadingTCPServer
from types import TracebackType
from typing import Any, Self

from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from poolscope.histogram import Histogram
from poolscope.telemetry import catalog, readings

logger = logging.getLogger("poolscope")

DEFAULT_PORT = 9464
"""The port OpenTelemetry's own Prometheus exporters use."""

REQUEST_TIMEOUT = 10.0
"""Seconds a client may stay silent before its thread is freed."""


class PoolCollector(Collector):
    """Show every open pool of this process. One is enough; a registry refuses a second one.

    Times are in seconds. Counters and histograms exist, at 0, from the moment a pool opens. A
    collection reads each pool once and may run in any thread.
    """

    def describe(self) -> Iterator[Metric]:
        """Return the families without samples, so that registering reads no pool."""
        return (_family(metric) for metric in catalog.METRICS)

    def collect(self) -> Iterator[Metric]:
        """Return the families as they are now."""
        pools = readings.readings()
        for metric in catalog.METRICS:
            family = _family(metric)
            for pool in pools:
                _fill(family, metric, pool)
            yield family


def _family(metric: catalog.Metric) -> Metric:
    name, labels = metric.prometheus_name, [catalog.prometheus_label(a) for a in metric.attributes]
    if metric.kind == "histogram":
        return HistogramMetricFamily(name, metric.help, labels=labels, unit="seconds")
    if metric.kind == "counter":
        return CounterMetricFamily(name, metric.help, labels=labels)
    return GaugeMetricFamily(name, metric.help, labels=labels)


def _fill(family: Any, metric: catalog.Metric, pool: readings.Reading) -> None:
    """Add the samples of one pool.

    An absent attribute is an absent label, as a Collector has it: a family takes fewer values than
    it has labels, and leaves out the last ones. To PromQL an empty label would mean the same.
    """
    if metric.kind != "histogram":
        for attributes, number in readings.numbers(metric, pool):
            family.add_metric(list(attributes.values()), number)
        return
    for attributes, histogram in readings.histograms(metric, pool):
        family.add_metric(list(attributes.values()), _buckets(histogram), histogram.sum)


def _buckets(histogram: Histogram) -> list[tuple[str, int]]:
    edges = _edges(histogram.bounds)
    return list(zip(edges, accumulate(histogram.counts.copy()), strict=True))


@cache
def _edges(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return (*map(str, bounds), "+Inf")


def start_metrics_server(
    port: int = DEFAULT_PORT, addr: str = "127.0.0.1", registry: CollectorRegistry | None = None
) -> MetricsServer:
    """Serve a registry over HTTP from a daemon thread, until `close()`.

    By default that is a new registry which holds the pools only; to one that is given a
    `PoolCollector` is added unless it has one. Port 0 takes any free port. Plain text or
    OpenMetrics, as the client asks for.

    Raises:
        OSError: the address cannot be bound; `errno` says why.
        ValueError: there is no such port.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be between 0 and 65535: got {port!r}")
    return MetricsServer(port, addr, CollectorRegistry() if registry is None else registry)


class MetricsServer:
    """A running server. Use it as a context manager, or call `close()`."""

    def __init__(self, port: int, addr: str, registry: CollectorRegistry) -> None:
        """Bind, add a collector where none is, and begin to serve."""
        self._server = _bound(addr, port, registry)
        self._registry = registry
        self._collector = _added(registry)
        host, self.port = self._server.server_address[:2]
        """The port it listens on."""
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        name = everywhere.get(str(host), str(host))
        self.url = f"http://{f'[{name}]' if ':' in name else name}:{self.port}/metrics"
        """Where this machine can read it."""
        # The interval bounds how long close() takes.
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="poolscope-metrics", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving, hang up on clients, and end the thread. May be called again."""
        collector, self._collector = self._collector, None
        if collector is not None:
            self._registry.unregister(collector)
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def _added(registry: CollectorRegistry) -> PoolCollector | None:
    """Return the collector that was added, None where the pools are shown already."""
    collector = PoolCollector()
    try:
        registry.register(collector)
    except ValueError:
        return None
    return collector


def _bound(addr: str, port: int, registry: CollectorRegistry) -> _Server:
    try:
        infos = socket.getaddrinfo(addr, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = infos[0]
        return _Server(family, address, registry)
    except OSError as error:
        what = f"cannot serve metrics at {addr} port {port}: {error.strerror}"
        raise OSError(error.errno, f"{what}. Choose another port, or 0 for any free one") from None


class _Server(ThreadingTCPServer):
    """One thread per request; remembers whom it talks to, so that it can hang up.

    Not an `http.server.HTTPServer`: that looks its own name up in the DNS, which may hang.
    """

    allow_reuse_address = True
    request_queue_size = 64

    def __init__(
        self, family: socket.AddressFamily, address: Any, registry: CollectorRegistry
    ) -> None:
        self.address_family = family
        self._clients: dict[Any, threading.Thread] = {}
        super().__init__(address, _Handler.factory(registry))

    def process_request(self, request: Any, client_address: Any) -> None:
        target, args = self.process_request_thread, (request, client_address)
        thread = threading.Thread(target=target, args=args, name="poolscope-scrape", daemon=True)
        self._clients[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self._clients.pop(request, None)

    def server_close(self) -> None:
        super().server_close()
        for request, thread in list(self._clients.items()):
            with contextlib.suppress(OSError):  # it may just have gone by itself
                request.shutdown(socket.SHUT_RDWR)
            thread.join(1.0)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients go away in the middle; the application's stderr is no place to say so.
        logger.debug("a request for metrics failed", exc_info=True)


class _Handler(MetricsHandler):
    """Answers one request, also when a collector of the application's raises."""

    timeout = REQUEST_TIMEOUT

    def do_GET(self) -> None:
        try:
            super().do_GET()
        except OSError:
            raise
        except Exception:
            logger.exception("the metrics could not be collected")
            self.send_error(500)
