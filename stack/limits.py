"""What the Collector's receiver `postgresql` would tell of the server, for one built without it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

_MOST = "select current_setting('max_connections')::int"
_OPEN = """
select datname, count(*) from pg_stat_activity where datname is not null group by datname
"""


@contextmanager
def told_limits(url: str, endpoint: str, seconds: float) -> Iterator[None]:
    """Send, so often, how many connections a PostgreSQL takes and has, under the receiver's names.

    `endpoint` takes OTLP by HTTP.
    """
    resource = Resource(
        {
            "service.name": "postgresql",
            "service.instance.id": "postgresql",
            "server.address": urlsplit(url).hostname or "",
        }
    )
    exporter = OTLPMetricExporter(f"{endpoint}/v1/metrics")
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=seconds * 1000)
    with psycopg.connect(url, autocommit=True) as connection:

        def most(_: CallbackOptions) -> Iterator[Observation]:
            yield Observation(_rows(connection, _MOST)[0][0])

        def backends(_: CallbackOptions) -> Iterator[Observation]:
            for database, count in _rows(connection, _OPEN):
                yield Observation(count, {"postgresql.database.name": database})

        provider = MeterProvider([reader], resource, shutdown_on_exit=False)
        meter = provider.get_meter("stack")
        meter.create_observable_gauge("postgresql.connection.max", [most], "{connections}")
        meter.create_observable_up_down_counter("postgresql.backends", [backends], "1")
        try:
            yield
        finally:
            provider.shutdown()


def _rows(connection: psycopg.Connection[Any], query: str) -> list[Any]:
    return connection.execute(query.encode()).fetchall()
