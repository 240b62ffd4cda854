"""What was sent last of each pool: what is new since then is counted from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from poolscope import registry
from poolscope.telemetry.export.samples import Buckets, Place, Sample
from poolscope.telemetry.reading import Number


class Change:
    """A sample, and the one sent before it."""

    __slots__ = ("before", "lasting", "sample")

    def __init__(self, sample: Sample, before: Sample | None, lasting: Sample | None) -> None:
        """Compare what goes on counting, and what goes on even if the rest was reset."""
        self.sample = sample
        self.before = before
        """None where counting began after it."""
        self.lasting = lasting
        """The same for what a reset does not touch."""

    def since(self, *, lasting: bool) -> int:
        """Return from when on the differences count."""
        before = self.lasting if lasting else self.before
        return self.sample.start if before is None else min(before.time, self.sample.time)

    def difference(self, index: int, place: Place) -> Number:
        """Return by how much a number differs; one that only counts never does by less than 0."""
        number = self.sample.numbers[index]
        before = self.lasting if place.lasting else self.before
        if before is None:
            return number
        difference = number - before.numbers[index]
        # Zero of the same type: to a receiver, one that changes is a reset.
        return max(difference, type(number)()) if place.metric.kind == "counter" else difference

    def buckets_before(self, name: str, error: str | None) -> Buckets | None:
        """Return a histogram as it was sent, None if it was not, or began anew."""
        before = self.before.histograms[name].get(error) if self.before is not None else None
        if before is None:
            return None
        pairs = zip(self.sample.histograms[name][error].counts, before.counts, strict=True)
        return before if all(now >= then for now, then in pairs) else None


class Baseline:
    """The samples sent last, by the name of the pool."""

    def __init__(self) -> None:
        """Begin with nothing sent."""
        self._sent: dict[str, Sample] = {}

    def compare(self, samples: Sequence[Sample]) -> list[Change]:
        """Find for each sample the one before it; those of one name are in order of time."""
        latest = self._sent.copy()
        changes = []
        for sample in samples:
            former = latest.get(sample.name)
            goes_on = former if former is not None and former.start == sample.start else None
            # Who has the name of a pool that did not close is that pool, reset.
            lasting = former if former is not None and not former.closed else goes_on
            sample.born = sample.start if lasting is None else lasting.born
            changes.append(Change(sample, goes_on, lasting))
            latest[sample.name] = sample
        return changes

    def advance(self, samples: Sequence[Sample], waiting: Callable[[], Iterable[Sample]]) -> None:
        """Count from these samples, which were sent; `waiting` returns those still to be.

        A pool is forgotten when it was not sent as open, is not registered, and does not wait. One
        that closed may be registered: it can begin again, and goes on counting.
        """
        self._sent |= {sample.name: sample for sample in samples}
        kept = {sample.name for sample in samples if not sample.closed}
        gone = [name for name in self._sent if name not in kept and registry.find(name) is None]
        # Asked last: a pool waits before it is registered no more.
        late = {sample.name for sample in waiting()} if gone else set()
        for name in gone:
            if name not in late:
                del self._sent[name]

    def forget(self) -> None:
        """Begin anew."""
        self._sent = {}
