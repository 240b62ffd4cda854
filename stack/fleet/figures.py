"""What a fleet asks of the servers, told by Prometheus itself and by the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stack.fleet.fleet import NAMESPACE
from stack.prometheus import Prometheus

_DAY = 86_400
_OURS = f'job=~"{NAMESPACE}/.+"'
_MADE = ".+:.+|ALERTS.*"
"""Names of what rules make."""
_PROCESSES = (
    ("Prometheus", "prometheus", "process_resident_memory_bytes", "process_cpu_seconds_total"),
    ("Collector", "otel-collector", "otelcol_process_memory_rss", "otelcol_process_cpu_seconds"),
)
"""Each with the metrics of its memory and of its time on processors."""
_MEGA = 1e6
_BLOCKS_A_DAY = 12


@dataclass(frozen=True, slots=True)
class Block:
    """What a block of the present samples takes on the disk, in bytes."""

    samples: int
    chunks: int
    index: int

    @classmethod
    def read(cls, folder: Path) -> Block:
        """Look into the folder of a block."""
        stats = json.loads((folder / "meta.json").read_text())["stats"]
        chunks = sum(file.stat().st_size for file in (folder / "chunks").iterdir())
        return cls(stats["numSamples"], chunks, (folder / "index").stat().st_size)


def figures(prometheus: Prometheus, block: Block, window: str) -> Iterator[tuple[str, str]]:
    """Yield what was measured over a window, as a name and a text."""

    def number(promql: str) -> float:
        answer = prometheus.query(promql.replace("WINDOW", window))
        return float(answer[0]["value"][1]) if answer else float("nan")

    ours, made = f'{{__name__!~"{_MADE}", {_OURS}}}', f'{{__name__=~"{_MADE}"}}'
    yield "series of the fleet", f"{number(f'count({ours})'):,.0f}"
    yield "series of rules", f"{number(f'count({made})'):,.0f}"
    yield "active series in all", f"{number('prometheus_tsdb_head_series'):,.0f}"
    samples = number("sum(rate(prometheus_tsdb_head_samples_appended_total[WINDOW]))")
    yield "samples per second", f"{samples:,.0f}"
    for name, job, memory, cpu in _PROCESSES:
        used = number(f'max_over_time({memory}{{job="{job}"}}[WINDOW])') / _MEGA
        yield f"memory of {name}, at most", f"{used:,.0f} MB"
        cores = number(f'rate({cpu}{{job="{job}"}}[WINDOW])')
        yield f"cores of {name}", f"{cores:.2f}"
    wal = number("rate(prometheus_tsdb_wal_storage_size_bytes[WINDOW])") * _DAY
    yield "write-ahead log per day", f"{wal / _MEGA:,.0f} MB"
    each = block.chunks / block.samples
    yield "bytes per sample, in a block", f"{each:.2f}"
    stored = each * samples * _DAY + block.index * _BLOCKS_A_DAY
    yield "blocks per day", f"{stored / _MEGA:,.0f} MB"
    evaluation = "prometheus_rule_group_last_duration_seconds"
    yield "rules, all groups once", f"{number(f'sum({evaluation})'):.2f} s"
    yield "slowest group of rules", f"{number(f'max({evaluation})'):.2f} s"
    missed = number("sum(prometheus_rule_group_iterations_missed_total)")
    yield "evaluations of rules missed", f"{missed:,.0f}"
    yield "load of the machine meanwhile", f"{os.getloadavg()[1]:.1f}"
