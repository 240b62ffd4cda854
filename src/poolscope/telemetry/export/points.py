"""The metrics of pools as data points of the SDK, finished: nothing is observed or aggregated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, product, starmap
from operator import sub
from typing import Any, Generic, TypeVar, overload

from opentelemetry.sdk.metrics import Exemplar as OtelExemplar
from opentelemetry.sdk.metrics import Histogram as HistogramInstrument
from opentelemetry.sdk.metrics import ObservableCounter, ObservableUpDownCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)

from poolscope.histogram import Exemplar
from poolscope.telemetry import catalog, readings
from poolscope.telemetry.export.baseline import Change
from poolscope.telemetry.export.samples import HISTOGRAMS, PLACES, Buckets, OtelAttributes, Place

_INSTRUMENTS: Mapping[catalog.Kind, type] = {
    "counter": ObservableCounter,
    "updowncounter": ObservableUpDownCounter,
    "histogram": HistogramInstrument,
}

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Points(Sequence[P], Generic[P]):
    """Data points that are made while they are read.

    A thousand pools have 40,000. To make them all at once would set off full garbage collections
    in every export, which take longer than everything else.
    """

    make: Callable[..., P]
    rows: Callable[[], Iterable[tuple[Any, ...]]]
    """Returns what to make each point from."""
    size: int

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[P]:
        return starmap(self.make, self.rows())

    @overload
    def __getitem__(self, index: int) -> P: ...
    @overload
    def __getitem__(self, index: slice) -> list[P]: ...
    def __getitem__(self, index: int | slice) -> P | list[P]:
        return list(self)[index]


def metrics_of(
    changes: Sequence[Change], preferred: Mapping[type, AggregationTemporality]
) -> list[Metric]:
    """Return all metrics that pools have of their own; by default they are cumulative."""
    if not changes:
        return []
    temporality = {
        kind: preferred.get(instrument, AggregationTemporality.CUMULATIVE)
        for kind, instrument in _INSTRUMENTS.items()
    }
    numbers = (
        _metric(metric, temporality, _numbers(changes, [*places], temporality.get(metric.kind)))
        for metric, places in groupby(enumerate(PLACES), lambda each: each[1].metric)
    )
    histograms = (
        _metric(metric, temporality, _histograms(changes, metric, temporality[metric.kind]))
        for metric in HISTOGRAMS
    )
    return [*numbers, *histograms]


def _metric(
    metric: catalog.Metric,
    temporality: Mapping[catalog.Kind, AggregationTemporality],
    points: Sequence[Any],
) -> Metric:
    data: Sum | Gauge | Histogram
    if metric.kind == "gauge":
        data = Gauge(points)
    elif metric.kind == "histogram":
        data = Histogram(points, temporality[metric.kind])
    else:
        data = Sum(points, temporality[metric.kind], metric.kind == "counter")
    return Metric(metric.name, metric.help, metric.unit, data)


def _telling(metric: catalog.Metric, changes: Sequence[Change]) -> Sequence[Change]:
    """Return those of the pools that can tell a metric."""
    return [change for change in changes if metric.name not in change.sample.omits]


def _numbers(
    changes: Sequence[Change],
    places: Sequence[tuple[int, Place]],
    temporality: AggregationTemporality | None,
) -> Points[NumberDataPoint]:
    changes = _telling(places[0][1].metric, changes)
    make = _difference if temporality is AggregationTemporality.DELTA else _total
    return Points(make, partial(product, places, changes), len(places) * len(changes))


def _total(numbered: tuple[int, Place], change: Change) -> NumberDataPoint:
    (index, place), sample = numbered, change.sample
    attributes = {**sample.attributes, **place.attributes}
    start = sample.born if place.lasting else sample.start
    return _point(attributes, start, sample.time, sample.numbers[index])


def _difference(numbered: tuple[int, Place], change: Change) -> NumberDataPoint:
    (index, place), sample = numbered, change.sample
    attributes = {**sample.attributes, **place.attributes}
    start, number = change.since(lasting=place.lasting), change.difference(index, place)
    return _point(attributes, start, sample.time, number)


def _point(
    attributes: OtelAttributes, start: int, time: int, value: readings.Number
) -> NumberDataPoint:
    """Do what the constructor does, in a third of its time: that of a frozen class is slow."""
    point = object.__new__(NumberDataPoint)
    fields = point.__dict__
    fields["attributes"] = attributes
    fields["start_time_unix_nano"] = start
    fields["time_unix_nano"] = time
    fields["value"] = value
    fields["exemplars"] = ()
    return point


def _histograms(
    changes: Sequence[Change], metric: catalog.Metric, temporality: AggregationTemporality
) -> Points[HistogramDataPoint]:
    changes = _telling(metric, changes)
    rows = [
        (error, change) for change in changes for error in change.sample.histograms[metric.name]
    ]
    delta = temporality is AggregationTemporality.DELTA
    return Points(partial(_histogram_point, metric, delta), lambda: rows, len(rows))


def _histogram_point(
    metric: catalog.Metric, delta: bool, error: str | None, change: Change
) -> HistogramDataPoint:
    sample = change.sample
    buckets = sample.histograms[metric.name][error]
    before = change.buckets_before(metric.name, error)
    counts, total, start = buckets.counts, buckets.sum, sample.start
    if delta:
        start = change.since(lasting=False)
        if before is not None:
            counts, total = list(map(sub, counts, before.counts)), total - before.sum
    return HistogramDataPoint(
        attributes=sample.attributes | ({catalog.ERROR_TYPE: error} if error else {}),
        start_time_unix_nano=start,
        time_unix_nano=sample.time,
        count=sum(counts),
        sum=total,
        bucket_counts=counts,
        explicit_bounds=metric.buckets,
        # Optional in the protocol, though not by the types of the class; they are not kept.
        min=None,  # type: ignore[arg-type]
        max=None,  # type: ignore[arg-type]
        exemplars=_exemplars(buckets, before),
    )


def _exemplars(buckets: Buckets, before: Buckets | None) -> list[OtelExemplar]:
    """Return the exemplars that were not sent yet."""
    sent: Sequence[Exemplar | None] = before.exemplars if before is not None else ()
    known = {id(exemplar) for exemplar in sent}
    return [
        OtelExemplar({}, each.value, each.time, each.span_id, each.trace_id)
        for each in buckets.exemplars
        if each is not None and id(each) not in known
    ]
