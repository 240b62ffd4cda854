"""What a pool shows at one moment, in plain values: to be sent, and to count on from later."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from poolscope import registry
from poolscope.faults import where
from poolscope.histogram import Exemplar, Histogram
from poolscope.registry import Counts, Source
from poolscope.telemetry import catalog, readings
from poolscope.telemetry.catalog import Metric
from poolscope.telemetry.reading import Attributes, Number, Reading, look_at

logger = logging.getLogger("poolscope")

OtelAttributes = dict[str, str | bool]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the numbers of a pool have one point of a metric."""

    metric: Metric
    attributes: Attributes
    """Besides those of the pool."""
    read: Callable[[Reading], Number]
    lasting: bool
    """Whether it goes on counting when the pool's metrics are reset."""


_LASTING = (catalog.SATURATION_TIME, catalog.SUBSCRIBER_ERRORS, catalog.EVENTS_DROPPED)

PLACES = tuple(
    Place(metric, attributes, read, metric in _LASTING)
    for metric in catalog.METRICS
    for attributes, read in readings.NUMBERS.get(metric.name, ())
)
HISTOGRAMS = tuple(metric for metric in catalog.METRICS if metric.kind == "histogram")

_READ = tuple(place.read for place in PLACES)
_LEVELS = tuple(i for i, place in enumerate(PLACES) if place.metric.kind == "updowncounter")


class Buckets:
    """A copy of a histogram."""

    __slots__ = ("counts", "exemplars", "sum")

    def __init__(self, histogram: Histogram) -> None:
        """Copy it; each list in one step, though another thread may be counting."""
        self.counts = histogram.counts.copy()
        self.sum = histogram.sum
        exemplars = histogram.exemplars
        self.exemplars: Sequence[Exemplar | None] = exemplars.copy() if exemplars else ()


class Sample:
    """One pool at one moment; times are in nanoseconds since 1970."""

    __slots__ = (
        "attributes", "born", "closed", "histograms", "name", "numbers", "omits", "start", "time",
    )  # fmt: skip

    def __init__(self, reading: Reading, time: int, *, closed: bool = False) -> None:
        """Read everything. The levels of a pool that is closed are 0.

        Raises:
            TypeError: something that should be a number is none.
        """
        counts = reading.counts
        self.attributes = otel_attributes(reading.attributes)
        self.name = reading.attributes.get(catalog.POOL_NAME, "")
        """Empty for the sum of the pools beyond the limit."""
        self.omits = reading.omits
        """Names of the metrics it cannot tell."""
        self.closed = closed
        self.start = int(counts.start_time * 1e9)
        """Since when it has been counting."""
        self.time = max(time, self.start)
        self.born = self.start
        """Since when it has been counting what a reset does not touch."""
        self.numbers: list[Number] = [read(reading) for read in _READ]
        """One for each of `PLACES`."""
        sum(self.numbers)  # whoever encodes them later would fail over all pools at once
        if closed:
            for index in _LEVELS:
                self.numbers[index] = 0
        self.histograms = {metric.name: _copies(metric, counts) for metric in HISTOGRAMS}
        """By the name of the metric, and the error type: None of what went well."""

    def catch_up(self, reading: Reading) -> None:
        """Read the counts again: threads may tell late what they did before the pool closed."""
        again = _take(reading, self.time, closed=self.closed)
        if again is not None and again.start == self.start:
            self.numbers, self.histograms = again.numbers, again.histograms


def _copies(metric: Metric, counts: Counts) -> dict[str | None, Buckets]:
    well, failed = readings.durations(metric, counts)
    # Another thread may add a reason meanwhile; the copy is made in one step.
    copies = {reason.value: Buckets(histogram) for reason, histogram in dict(failed).items()}
    return {None: Buckets(well), **copies}


def otel_attributes(attributes: Attributes) -> OtelAttributes:
    """Return attributes with the overflow as OpenTelemetry has it: true, not a text."""
    if catalog.OVERFLOW in attributes:
        return {**attributes, catalog.OVERFLOW: True}
    return {**attributes}


def take_all(time: int) -> list[Sample]:
    """Take a sample of every pool; one that cannot be read is left out."""
    samples = (_take(reading, time) for reading in readings.readings())
    return [sample for sample in samples if sample is not None]


def take_last(source: Source, time: int) -> tuple[Sample, Reading] | None:
    """Take the last sample of a pool, None if it has no series of its own or cannot be read."""
    reading = None if registry.is_beyond(source) else look_at(source)
    if reading is None or (sample := _take(reading, time, closed=True)) is None:
        return None
    return sample, reading


def _take(reading: Reading, time: int, *, closed: bool = False) -> Sample | None:
    try:
        return Sample(reading, time, closed=closed)
    except Exception as error:  # one bad pool must not hide the others
        logger.debug("a pool could not be read: %s", where(error))
        return None
