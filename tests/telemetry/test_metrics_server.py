import errno
import gzip
import logging
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families as parse_text

from poolscope.histogram import Exemplar
from poolscope.telemetry import catalog
from poolscope.telemetry.prometheus import start_metrics_server
from poolscope.telemetry.server import http as metrics_server
from tests.telemetry.series import of_families, parse_openmetrics, pools_registry, scrape
from tests.telemetry.traffic import fake_source

POOL = "db_client_connection_pool_name"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Broken:
    """A collector of the application's."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def describe(self) -> list[Family]:
        return []

    def collect(self) -> Iterator[Family]:
        raise self._error


@pytest.fixture
def url() -> Iterator[str]:
    with fake_source("orders"), start_metrics_server(port=0) as server:
        yield server.url


def get(url: str, **headers: str) -> tuple[str, bytes]:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as reply:
        return reply.headers["Content-Type"], reply.read()


# What it answers


def test_plain_text_is_served_where_the_handle_says(url: str) -> None:
    kind, body = get(url)
    assert kind.startswith("text/plain")
    series = of_families(parse_text(body.decode()))
    assert {dict(labels).get(POOL) for _, labels in series} == {"orders", None}


def test_openmetrics_is_served_to_those_who_ask_for_it(url: str) -> None:
    kind, body = get(url, Accept=OPENMETRICS)
    assert kind.startswith("application/openmetrics-text")
    assert len(list(parse_openmetrics(body.decode()))) == len(catalog.METRICS)
    assert body.endswith(b"# EOF\n")


def test_exemplars_are_served_with_openmetrics_only() -> None:
    with fake_source("orders") as source, start_metrics_server(port=0) as server:
        source.metrics.wait.record(0.03)
        source.metrics.wait.exemplify(Exemplar(0.03, 1_700_000_000_000_000_000, 1, 2))
        openmetrics, plain = get(server.url, Accept=OPENMETRICS)[1], get(server.url)[1]
    (line,) = [line for line in openmetrics.decode().splitlines() if " # {" in line]
    assert line.partition(" # ")[2] == (
        f'{{span_id="{2:016x}",trace_id="{1:032x}"}} 0.03 1700000000.0'
    )
    assert b"trace_id" not in plain


def test_compressed_text_is_served_to_those_who_ask_for_it(url: str) -> None:
    _, body = get(url, **{"Accept-Encoding": "gzip"})
    assert b"db_client_connection_max" in gzip.decompress(body)


def test_one_metric_is_served_to_those_who_ask_for_it(url: str) -> None:
    _, body = get(f"{url}?name[]=poolscope_pools")
    assert [line for line in body.splitlines() if line[:1] != b"#"] == [b"poolscope_pools 1.0"]


def test_an_answer_says_its_length_so_that_half_of_it_is_not_taken_for_the_whole(url: str) -> None:
    with urllib.request.urlopen(url, timeout=5) as reply:
        assert int(reply.headers["Content-Length"]) == len(reply.read())


@pytest.mark.parametrize("error", [RuntimeError("password"), OSError("password")])
def test_a_collector_of_the_application_that_raises_gives_a_server_error(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    registry.register(Broken(error))
    with start_metrics_server(port=0, registry=registry) as server:
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(server.url)
        caught.value.close()
    assert caught.value.code == 500
    (record,) = caplog.records
    assert type(error).__name__ in record.getMessage()
    assert "password" not in caplog.text


# Where it listens


def test_by_default_it_listens_on_this_machine_only() -> None:
    with start_metrics_server(port=0) as server:
        assert server.url == f"http://127.0.0.1:{server.port}/metrics"


def test_a_port_in_use_is_named_and_nothing_is_left() -> None:
    registry = CollectorRegistry()
    with start_metrics_server(port=0) as server:
        place = f"127.0.0.1 port {server.port}: Address already in use"
        with pytest.raises(OSError, match=place) as caught:
            start_metrics_server(port=server.port, registry=registry)
    assert caught.value.errno == errno.EADDRINUSE
    assert scrape(registry) == []


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_cannot_be_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match=f"between 0 and 65535: got {port}"):
        start_metrics_server(port=port)


# Which registry


def test_a_given_registry_gets_a_collector_for_as_long_as_it_is_served() -> None:
    registry = CollectorRegistry()
    with start_metrics_server(port=0, registry=registry) as server:
        assert b"db_client_connection_max" in get(server.url)[1]
    assert scrape(registry) == []


def test_a_registry_that_has_a_collector_keeps_it() -> None:
    registry = pools_registry()
    with start_metrics_server(port=0, registry=registry) as server:
        assert get(server.url)[1].count(b"# TYPE db_client_connection_max ") == 1
    assert len(scrape(registry)) == len(catalog.METRICS)


# Clients that keep it waiting, and its end


def test_after_close_nothing_is_left_and_the_port_is_free() -> None:
    before = set(threading.enumerate())
    server = start_metrics_server(port=0)
    get(server.url)
    server.close()
    server.close()
    for thread in set(threading.enumerate()) - before:
        # One that has just answered may need a moment.
        thread.join(1)
    assert set(threading.enumerate()) == before
    with pytest.raises(urllib.error.URLError):
        get(server.url)
    start_metrics_server(port=server.port).close()


def test_a_silent_client_delays_neither_others_nor_close() -> None:
    server = start_metrics_server(port=0)
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        get(server.url)  # so that the server has seen the other one
        server.close()
        assert client.recv(1) == b""


def test_a_silent_client_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "REQUEST_TIMEOUT", 0.01)
    with (
        start_metrics_server(port=0) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as client,
    ):
        assert client.recv(1) == b""


def test_a_client_that_goes_away_is_no_matter_for_the_log(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with fake_source("orders"), start_metrics_server(port=0) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
            client.sendall(b"GET /metrics HTTP/1.0\r\n")
            # Closed with a reset, so that the server fails in the middle of reading.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        get(server.url)
    assert capfd.readouterr().err == ""
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
