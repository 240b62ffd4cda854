import logging
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from poolscope.telemetry.prometheus import start_metrics_server
from poolscope.telemetry.server import http as metrics_server
from poolscope.telemetry.server.http import MetricsServer
from tests.telemetry.certificates import Certificates
from tests.telemetry.traffic import fake_source

# Whether a client hears why depends on what it had sent when the server hung up.
REFUSED = (ssl.SSLError, ConnectionError, urllib.error.URLError)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def serve(certificates: Certificates, **options: Any) -> MetricsServer:
    """Serve by HTTPS; authorities of clients are named as the files of the certificates."""
    for name in options.keys() & {"client_cafile", "client_capath"}:
        options[name] = certificates.path(options[name])
    certfile, keyfile = certificates.path("server.pem"), certificates.path("server.key")
    return start_metrics_server(port=0, certfile=certfile, keyfile=keyfile, **options)


@pytest.fixture
def server(certificates: Certificates) -> Iterator[MetricsServer]:
    with fake_source("orders"), serve(certificates) as server:
        yield server


def get(url: str, context: ssl.SSLContext) -> bytes:
    with urllib.request.urlopen(url, timeout=5, context=context) as reply:
        body: bytes = reply.read()
        return body


def connect(server: MetricsServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=5)


# Who is served


def test_metrics_are_served_by_https(server: MetricsServer, certificates: Certificates) -> None:
    assert server.url == f"https://127.0.0.1:{server.port}/metrics"
    assert b'{db_client_connection_pool_name="orders"}' in get(
        server.url, certificates.client_context()
    )


@pytest.mark.parametrize(
    "authorities", [{"client_cafile": "ca.pem"}, {"client_capath": "authorities"}]
)
def test_a_client_with_a_certificate_is_served_where_one_is_required(
    authorities: dict[str, str], certificates: Certificates
) -> None:
    with serve(certificates, client_auth_required=True, **authorities) as server:
        assert b"poolscope_pools" in get(server.url, certificates.client_context("client"))


@pytest.mark.parametrize("certificate", [None, "stranger"])
@pytest.mark.parametrize("authorities", [{"client_cafile": "ca.pem"}, {}])
def test_a_client_without_a_certificate_that_is_trusted_is_refused(
    authorities: dict[str, str], certificate: str | None, certificates: Certificates
) -> None:
    with (
        serve(certificates, client_auth_required=True, **authorities) as server,
        pytest.raises(REFUSED),
    ):
        get(server.url, certificates.client_context(certificate))


# Clients that fail, or keep it waiting


def test_clients_that_fail_stay_off_stderr_and_out_of_the_log(
    server: MetricsServer,
    certificates: Certificates,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(REFUSED):
        get(server.url, ssl.create_default_context())  # does not trust the authority
    with connect(server) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")  # speaks no TLS
        while client.recv(1024):
            pass
    connect(server).close()  # says nothing
    get(server.url, certificates.client_context())
    assert capfd.readouterr().err == ""
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_no_metrics_are_served_in_plain_text(server: MetricsServer) -> None:
    answer = b""
    with connect(server) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        while part := client.recv(1024):
            answer += part
    assert b"orders" not in answer


def test_a_client_that_is_silent_before_the_handshake_does_not_block_others(
    server: MetricsServer, certificates: Certificates
) -> None:
    with connect(server), connect(server):
        get(server.url, certificates.client_context())


def test_a_client_that_is_silent_before_the_handshake_is_hung_up_on(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "REQUEST_TIMEOUT", 0.01)
    with connect(server) as client:
        assert client.recv(1) == b""


def test_close_hangs_up_on_clients_before_and_after_the_handshake(
    server: MetricsServer, certificates: Certificates
) -> None:
    context = certificates.client_context()
    with (
        connect(server) as silent,
        context.wrap_socket(connect(server), server_hostname="127.0.0.1") as shaken,
    ):
        get(server.url, context)  # so that the server has seen both
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < metrics_server.PATIENCE
        assert silent.recv(1) == b""
        assert shaken.recv(1) == b""


# Wrong arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"certfile": "x"}, "certfile needs keyfile"),
        ({"keyfile": "x"}, "keyfile needs certfile"),
        ({"client_auth_required": True}, "client certificates need HTTPS"),
        ({"client_cafile": "x"}, "client certificates need HTTPS"),
        ({"client_capath": "x"}, "client certificates need HTTPS"),
        (
            {"certfile": "x", "keyfile": "x", "client_cafile": "x"},
            "set client_auth_required=True",
        ),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with start_metrics_server(port=0) as taken, pytest.raises(ValueError, match=message):
        # Were it to bind first, it would say that the port is taken.
        start_metrics_server(port=taken.port, **options)


@pytest.mark.parametrize(
    ("certfile", "keyfile"),
    [("missing.pem", "server.key"), ("server.pem", "client.key"), ("server.key", "server.key")],
)
def test_a_certificate_that_cannot_be_used_is_named(
    certfile: str, keyfile: str, certificates: Certificates
) -> None:
    with pytest.raises(OSError, match=rf"cannot load certfile .*{certfile}.* with keyfile "):
        start_metrics_server(
            port=0, certfile=certificates.path(certfile), keyfile=certificates.path(keyfile)
        )


@pytest.mark.parametrize(
    "authorities",
    [{"client_cafile": "missing.pem"}, {"client_cafile": "ca.key"}, {"client_capath": "missing"}],
)
def test_authorities_that_cannot_be_used_are_named(
    authorities: dict[str, str], certificates: Certificates
) -> None:
    (name,) = authorities.values()
    with pytest.raises(OSError, match=f"authorities of clients from .*{name}"):
        serve(certificates, client_auth_required=True, **authorities)


def test_an_encrypted_key_is_refused_instead_of_asking_somebody_at_the_terminal(
    certificates: Certificates,
) -> None:
    with pytest.raises(ValueError, match="keyfile is encrypted"):
        start_metrics_server(
            port=0,
            certfile=certificates.path("server.pem"),
            keyfile=certificates.path("encrypted.key"),
        )


def test_files_may_be_given_as_paths(certificates: Certificates) -> None:
    class Path(os.PathLike[str]):
        def __init__(self, name: str) -> None:
            self._name = name

        def __fspath__(self) -> str:
            return certificates.path(self._name)

    with start_metrics_server(
        port=0, certfile=Path("server.pem"), keyfile=Path("server.key")
    ) as server:
        assert server.url.startswith("https://")
