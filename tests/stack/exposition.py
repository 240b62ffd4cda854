"""What a Prometheus stores of an exposition, whoever wrote it."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from prometheus_client import generate_latest as write_text
from prometheus_client.openmetrics.exposition import generate_latest as write_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.telemetry.series import parse_openmetrics, pools_registry

Labels = frozenset[tuple[str, str]]
Key = tuple[str, Labels]

ADDED = frozenset(
    {"job", "instance", "otel_scope_name", "otel_scope_version", "otel_scope_schema_url"}
)
"""The labels which a Collector adds."""
TARGET = "target_info"
"""The series which a Collector adds: the resource of whoever sends to it."""


class Exemplar(NamedTuple):
    """A value, and the span it leads to."""

    trace_id: str
    span_id: str
    value: float


@dataclass
class Family:
    """One metric: what is said of it, and its samples."""

    kind: str
    help: str
    unit: str
    samples: dict[Key, float] = field(default_factory=dict)
    exemplars: dict[Key, Exemplar] = field(default_factory=dict)


def exposition(*, openmetrics: bool) -> str:
    """What we show of the pools."""
    generate: Any = write_openmetrics if openmetrics else write_text
    text: bytes = generate(pools_registry())
    return text.decode()


def read(text: str) -> dict[str, Family]:
    """Read plain text or OpenMetrics, in one spelling and without what a Collector adds."""
    families = {}
    parse = parse_openmetrics if text.endswith("# EOF\n") else parse_text
    for parsed in parse(text):
        family = Family(parsed.type, parsed.documentation, parsed.unit)
        for sample in parsed.samples:
            key = sample.name, normal(sample.labels)
            assert key not in family.samples, f"twice: {key}"
            family.samples[key] = sample.value
            if sample.exemplar is not None:
                span = sample.exemplar.labels
                family.exemplars[key] = Exemplar(
                    span["trace_id"], span["span_id"], sample.exemplar.value
                )
        families[parsed.name] = family
    families.pop(TARGET, None)
    return families


def normal(labels: dict[str, str]) -> Labels:
    """Return labels in the form in which both roads must have the same.

    - `job` and `instance` say who sent it, made of `service.name` and `service.instance.id`. To
      what it scrapes from us a Prometheus adds them itself.
    - `otel_scope_*` say which library it comes from.
    - `le` is a number. In plain text a Collector writes `1`, as Go does; in OpenMetrics it writes
      `1.0`, as we always do, and as Prometheus 3 stores both.
    """
    kept = {name: value for name, value in labels.items() if name not in ADDED}
    if kept.get("le", "+Inf") != "+Inf":
        kept["le"] = str(float(kept["le"]))
    return frozenset(kept.items())
