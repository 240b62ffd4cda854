import pytest
from opentelemetry.metrics import NoOpMeter
from opentelemetry.semconv._incubating.attributes import db_attributes
from opentelemetry.semconv._incubating.metrics import db_metrics
from opentelemetry.semconv.attributes import error_attributes

from poolscope.telemetry import catalog


class Recorder(NoOpMeter):
    """Notes what the factories of the semantic conventions create."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self.created: dict[str, tuple[str, str]] = {}

    def create_counter(self, name, unit="", description=""):  # type: ignore[no-untyped-def]
        self.created[name] = ("counter", unit)

    def create_up_down_counter(self, name, unit="", description=""):  # type: ignore[no-untyped-def]
        self.created[name] = ("updowncounter", unit)

    def create_histogram(self, name, unit="", description="", **_):  # type: ignore[no-untyped-def]
        self.created[name] = ("histogram", unit)


def published() -> dict[str, tuple[str, str]]:
    """Instrument and unit of every `db.client.connection.*` metric; the deprecated are not."""
    meter = Recorder()
    for name, create in vars(db_metrics).items():
        if name.startswith("create_db_client_connection_"):
            create(meter)
    return meter.created


def test_the_catalogue_is_that_of_the_semantic_conventions() -> None:
    ours = {
        metric.name: (metric.kind, metric.unit)
        for metric in catalog.METRICS
        if metric.name.startswith("db.")
    }
    assert len(ours) == 9
    assert ours == published()


def test_attributes_and_states_are_those_of_the_semantic_conventions() -> None:
    assert catalog.POOL_NAME == db_attributes.DB_CLIENT_CONNECTION_POOL_NAME
    assert catalog.STATE == db_attributes.DB_CLIENT_CONNECTION_STATE
    assert catalog.ERROR_TYPE == error_attributes.ERROR_TYPE
    states = db_attributes.DbClientConnectionStateValues
    assert {catalog.STATE_IDLE, catalog.STATE_USED} == {state.value for state in states}


@pytest.mark.parametrize("metric", catalog.METRICS, ids=lambda metric: metric.name)
def test_a_metric_has_what_its_instrument_needs(metric: catalog.Metric) -> None:
    assert metric.help
    assert metric.attributes[:1] == (() if metric is catalog.POOLS else (catalog.POOL_NAME,))
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert sorted(set(metric.buckets)) == list(metric.buckets)


def test_the_bound_of_the_service_level_objective_is_a_bucket_edge() -> None:
    assert 0.1 in catalog.WAIT_BUCKETS
