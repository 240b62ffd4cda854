"""Prometheus: a collector for all pools, and `/metrics` to scrape them from.

Names, units and labels are those which OTLP through an OpenTelemetry Collector gives, so that one
dashboard serves both roads. Nothing here runs per operation: a scrape reads what is counted anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, count, cycle, repeat
from typing import overload

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from poolscope import histogram
from poolscope.faults import shown
from poolscope.telemetry import catalog, readings
from poolscope.telemetry.server.http import MetricsServer
from poolscope.telemetry.server.tls import StrPath, server_context

DEFAULT_PORT = 9464
"""The port OpenTelemetry's own Prometheus exporters use."""

Labels = dict[str, str]


def start_metrics_server(
    port: int = DEFAULT_PORT,
    addr: str = "127.0.0.1",
    registry: CollectorRegistry | None = None,
    *,
    certfile: StrPath | None = None,
    keyfile: StrPath | None = None,
    client_cafile: StrPath | None = None,
    client_capath: StrPath | None = None,
    client_auth_required: bool = False,
) -> MetricsServer:
    """Serve a registry from a daemon thread, until `close()`.

    By default that is a new registry which holds the pools only; to one that is given a
    `PoolCollector` is added unless it has one. Port 0 takes any free port. Plain text, or
    OpenMetrics with exemplars, as the client asks for.

    The other arguments are those of `prometheus_client.start_http_server`. With `certfile` and
    `keyfile` (PEM, the key unencrypted) it speaks HTTPS only. With `client_auth_required` a client
    must show a certificate that an authority in `client_cafile` or `client_capath` has signed;
    without these two, one of the authorities this system trusts.

    Raises:
        ValueError: there is no such port, or the arguments contradict each other.
        OSError: a file cannot be loaded, or the address cannot be bound; `errno` says why.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be between 0 and 65535: got {shown(port)}")
    tls = server_context(certfile, keyfile, client_cafile, client_capath, client_auth_required)
    registry = CollectorRegistry() if registry is None else registry
    return MetricsServer(port, addr, registry, PoolCollector(), tls)


class PoolCollector(Collector):
    """Show every open pool of this process. One is enough; a registry refuses a second one.

    Times are in seconds. Counters, and the histograms of what went well, exist at 0 from the
    moment a pool opens. A collection reads each pool once and may run in any thread.
    """

    def describe(self) -> Iterator[Metric]:
        """Return the families without samples, so that registering reads no pool."""
        return map(_family, catalog.METRICS)

    def collect(self) -> Iterable[Metric]:
        """Return the families as they are now. Their `samples` can be read, but not added to."""
        pools = readings.readings()
        labels = {id(pool): _labels(pool.attributes) for pool in pools}
        families = []
        for metric in catalog.METRICS:
            family = _family(metric)
            if metric.kind == "histogram":
                family.samples = _of_histograms(metric, pools)  # type: ignore[assignment]
            else:
                family.samples = _of_numbers(metric, pools, labels)  # type: ignore[assignment]
            families.append(family)
        return families


_FAMILIES: Mapping[catalog.Kind, Callable[..., Metric]] = {
    "counter": CounterMetricFamily,
    "updowncounter": GaugeMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _family(metric: catalog.Metric) -> Metric:
    unit = "seconds" if metric.unit == "s" else ""
    return _FAMILIES[metric.kind](metric.prometheus_name, metric.help, unit=unit)


def _labels(attributes: Mapping[str, str]) -> Labels:
    """Return labels; an absent attribute is an absent label, as a Collector has it."""
    return {catalog.prometheus_label(name): value for name, value in attributes.items()}


@dataclass(slots=True)
class _Samples(Sequence[Sample]):
    """The samples of a family: its numbers as they were, made into samples while they are read.

    A thousand pools have 95,000 samples. To make them all at once would set off a full garbage
    collection in every scrape, which takes longer than everything else.
    """

    owners: Sequence[Labels]
    """The labels of each pool, or of each histogram."""
    parts: Sequence[tuple[str, Labels]]
    """Which samples each of them has: their names, and the labels they have besides."""
    values: list[readings.Number]
    """For each of the owners, one for each of the parts."""
    exemplars: Mapping[int, histogram.Exemplar]
    """By the index of the value they belong to."""

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Sample]:
        names = cycle([name for name, _ in self.parts])
        labels = ({**owner, **more} for owner in self.owners for _, more in self.parts)
        exemplars = map(self._exemplar, count()) if self.exemplars else repeat(None)
        return map(Sample, names, labels, self.values, repeat(None), exemplars)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        return list(self)[index]

    def _exemplar(self, index: int) -> Exemplar | None:
        ours = self.exemplars.get(index)
        if ours is None:
            return None
        span = {"trace_id": f"{ours.trace_id:032x}", "span_id": f"{ours.span_id:016x}"}
        return Exemplar(span, ours.value, ours.time / 1e9)


def _of_numbers(
    metric: catalog.Metric, pools: Sequence[readings.Reading], labels: Mapping[int, Labels]
) -> _Samples:
    name = metric.prometheus_name + ("_total" if metric.kind == "counter" else "")
    if metric is catalog.POOLS:
        totals = [number for _, number in readings.numbers(metric, pools)]
        return _Samples([{}], [(name, {})], totals, {})
    points, pools = readings.NUMBERS[metric.name], readings.telling(metric, pools)
    owners = [labels[id(pool)] for pool in pools]
    parts = [(name, _labels(attributes)) for attributes, _ in points]
    return _Samples(owners, parts, [read(pool) for pool in pools for _, read in points], {})


def _of_histograms(metric: catalog.Metric, pools: Sequence[readings.Reading]) -> _Samples:
    owners: list[Labels] = []
    values: list[readings.Number] = []
    exemplars: dict[int, histogram.Exemplar] = {}
    for attributes, each in readings.histograms(metric, pools):
        owners.append(_labels(attributes))
        if latest := each.exemplars:
            found = enumerate(latest.copy(), len(values))
            exemplars.update((index, exemplar) for index, exemplar in found if exemplar)
        # Copies are taken in one step, though another thread may be counting.
        values += accumulate(each.counts.copy())
        values += values[-1], each.sum
    return _Samples(owners, _parts_of_histogram(metric), values, exemplars)


@cache
def _parts_of_histogram(metric: catalog.Metric) -> tuple[tuple[str, Labels], ...]:
    name = metric.prometheus_name
    edges = (*map(str, metric.buckets), "+Inf")
    buckets = ((f"{name}_bucket", {"le": edge}) for edge in edges)
    return (*buckets, (f"{name}_count", {}), (f"{name}_sum", {}))
