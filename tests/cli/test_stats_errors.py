"""What `poolscope stats` says when it cannot, and what it never says."""

import shutil
import socket
import ssl
import subprocess
import threading
import time
from base64 import b64encode
from contextlib import suppress
from pathlib import Path

import pytest

from poolscope.cli import main
from poolscope.cli.stats.address import parse_address
from poolscope.telemetry.prometheus import start_metrics_server
from tests.cli.pages import Capture, Handler, Pages, closed_port, page, serving, shown


def complaint(capsys: Capture, *arguments: object) -> str:
    """The only line, on stderr, of a command that fails."""
    assert main(["stats", *map(str, arguments)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("poolscope stats: ")
    assert err.count("\n") == 1
    return err.removeprefix("poolscope stats: ").rstrip()


@pytest.mark.parametrize("mode", [[], ["--json"], ["--watch"]])
def test_where_nothing_listens_is_said_in_one_line(mode: list[str], capsys: Capture) -> None:
    port = closed_port()
    assert complaint(capsys, f"localhost:{port}", *mode) == (
        f"localhost:{port}: nothing listens there; "
        "start the program that serves metrics, or check the port"
    )


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (404, "answered 404 Not Found; name the path of its metrics, as http://host:port/path"),
        (401, "answered 401 Unauthorized; write http://user:password@host:port"),
        (500, "answered 500 Internal Server Error; look at the log of the program there"),
        (204, "answered 204 No Content; look at the log of the program there"),
        (599, "answered 599; look at the log of the program there"),
    ],
)
def test_an_answer_that_is_no_success_is_named(status: int, said: str, capsys: Capture) -> None:
    with serving(Pages("" if status == 204 else "no", status=status)) as server:
        assert complaint(capsys, server.port) == f"localhost:{server.port}: {said}"


@pytest.mark.parametrize(
    "text", ["<html><body>Hello</body></html>", '{"status": "ok"}', "ok", "5", "\x00\x01", "a{} b"]
)
@pytest.mark.parametrize("kind", ["text/html", "application/openmetrics-text"])
def test_an_answer_that_is_no_metrics_is_named(text: str, kind: str, capsys: Capture) -> None:
    with serving(Pages(text, kind=kind)) as server:
        said = complaint(capsys, server.port)
    assert said == (
        f"localhost:{server.port}: its answer is no text of metrics; name the path of its metrics"
    )


def test_metrics_without_pools_are_named(capsys: Capture) -> None:
    with start_metrics_server(port=0) as server:
        said = complaint(capsys, server.url)
    assert said.startswith(f"127.0.0.1:{server.port}: it shows no open pool; ")


def test_no_answer_is_not_waited_for(capsys: Capture) -> None:
    # The system takes the connection; nobody ever answers.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        said = complaint(capsys, port, "--timeout", "0.05")
    assert said.startswith(f"localhost:{port}: no answer within 0.05 s; ")


def test_an_openmetrics_answer_that_was_cut_off_is_named(capsys: Capture) -> None:
    with serving(Pages(page(max=4), kind="application/openmetrics-text")) as server:
        assert "its answer is no text of metrics" in complaint(capsys, server.port)


def test_a_proxy_of_the_environment_is_not_asked(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with serving(Pages(page(max=4))) as server:
        assert shown(server.port, capsys=capsys)["pools"]


def test_an_answer_that_never_ends_is_not_waited_for(capsys: Capture) -> None:
    class Dripping(Handler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while not done.wait(0.01):
                    self.wfile.write(b"#")

    done = threading.Event()
    with serving(Pages("")) as server:
        server.RequestHandlerClass = Dripping
        began = time.monotonic()
        said = complaint(capsys, server.port, "--timeout", "0.1")
        done.set()
    assert time.monotonic() - began < 5
    assert "no answer within 0.1 s" in said


def test_what_is_no_http_is_named(capsys: Capture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            with listener.accept()[0] as peer:
                peer.sendall(b"220 mail ready\r\n\r\n")
                peer.recv(1024)

        thread = threading.Thread(target=greet)
        thread.start()
        said = complaint(capsys, listener.getsockname()[1])
        thread.join()
    assert "it does not answer in HTTP; check the port" in said


def test_http_where_https_was_asked_for_is_named(capsys: Capture) -> None:
    with serving(Pages(page(max=1))) as server:
        said = complaint(capsys, f"https://127.0.0.1:{server.port}")
    assert said.endswith("it speaks no TLS that we understand; try http:// instead of https://")


def test_a_host_that_is_not_there_is_named(capsys: Capture) -> None:
    said = complaint(capsys, f"{'x' * 80}.invalid:9464")
    assert said.endswith("there is no such host; check the name")


# TLS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1, with its key in the same file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    path = tmp_path / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "1", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", path, "-out", tmp_path / "certificate.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + (tmp_path / "certificate.pem").read_text())
    return path


def test_https_is_read_with_the_authority_that_is_named(certificate: Path, capsys: Capture) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = Pages(page(max=1))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    with serving(server):
        url = f"https://127.0.0.1:{server.port}"
        assert "its certificate is not trusted (self-signed" in complaint(capsys, url)
        (pool,) = shown(url, "--cafile", certificate, capsys=capsys)["pools"]
    assert pool["address"] == f"127.0.0.1:{server.port}"


def test_a_file_of_authorities_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: Capture
) -> None:
    missing, no_pem = tmp_path / "missing", tmp_path / "no.pem"
    no_pem.write_text("hello")
    said = complaint(capsys, 9464, "--cafile", missing)
    assert said == f"{missing}: not read (No such file or directory); --cafile needs a PEM file"
    assert complaint(capsys, 9464, "--cafile", no_pem).endswith("--cafile needs a PEM file")


# Addresses and secrets


@pytest.mark.parametrize(
    ("text", "name", "url"),
    [
        ("9464", "localhost:9464", "http://localhost:9464/metrics"),
        ("9464/custom", "localhost:9464/custom", "http://localhost:9464/custom"),
        ("db:9464", "db:9464", "http://db:9464/metrics"),
        ("http://db:9464", "db:9464", "http://db:9464/metrics"),
        ("http://db:9464/", "db:9464", "http://db:9464/metrics"),
        ("HTTPS://db/app/metrics", "db/app/metrics", "https://db/app/metrics"),
        ("[::1]:9464", "[::1]:9464", "http://[::1]:9464/metrics"),
        ("http://u:p@db:1/metrics?key=s", "db:1", "http://db:1/metrics?key=s"),
    ],
)
def test_an_address_may_be_written_in_short(text: str, name: str, url: str) -> None:
    understood = parse_address(text)
    assert (understood.name, understood.url) == (name, url)


@pytest.mark.parametrize(
    "text",
    ["", "http://", "ftp://db/metrics", "db:x", "db:70000", "70000", "0", "http://[::1", "a b:1"],
)
def test_what_is_no_address_is_refused_with_the_remedy(text: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["stats", text])
    err = capsys.readouterr().err
    assert f"argument URL: not understood: {text!r}; write http://host:port/metrics" in err


def test_user_and_password_are_sent_and_never_shown(capsys: Capture) -> None:
    with serving(Pages(page(max=1, leaks=1))) as server:
        url = f"http://scraper:gehe%40im@127.0.0.1:{server.port}/metrics?token=geheim"
        assert main(["stats", url]) == 0
        assert main(["stats", url, f"http://scraper:geheim@127.0.0.1:{closed_port()}"]) == 1
        assert main(["stats", url, "--json"]) == 0
        expected = b64encode(b"scraper:gehe@im").decode()
        assert server.seen == [("/metrics?token=geheim", f"Basic {expected}")] * 3
    out, err = capsys.readouterr()
    assert "scraper" not in out + err
    assert "geheim" not in out + err
    assert "gehe" not in repr(parse_address(url))


def test_a_password_is_not_told_to_where_an_answer_leads(capsys: Capture) -> None:
    with serving(Pages(page(max=1))) as target, serving(Pages("", status=302)) as first:
        first.location = f"http://127.0.0.1:{target.port}/elsewhere"
        assert shown(f"http://u:geheim@127.0.0.1:{first.port}", capsys=capsys)["pools"]
        assert target.seen == [("/elsewhere", None)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["http://scraper:geheim@host:x"],
        ["http://scraper:ge/heim@host:1"],
        ["http://scraper:12/geheim@host:1"],
        ["http://scraper:12?geheim@host:1"],
        ["http://scraper:12#geheim@host:1"],
        ["scraper:geheim@"],
        ["9464", "--json", "http://scraper:geheim@host:1"],
        ["--watch", "http://scraper:geheim@host:1"],
        ["--timeout", "http://scraper:geheim@host:1", "9464"],
    ],
)
def test_an_error_of_usage_shows_no_password(arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["stats", *arguments])
    err = capsys.readouterr().err
    assert "heim" not in err
    assert "scraper" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--watch", "9464"], "the following arguments are required: URL"),
        (["9464", "--watch", "0"], "must be a number of seconds above 0: got '0'"),
        (["9464", "--timeout", "1e9"], "must be 86400 seconds at most: got '1e9'"),
    ],
)
def test_an_impossible_option_is_refused(arguments: list[str], said: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["stats", *arguments])
    err = capsys.readouterr().err
    assert said in err
    assert "usage: poolscope stats URL [URL ...] [--watch [SECONDS]]" in err
