"""The server for `/metrics`: a registry of prometheus-client over HTTP or HTTPS.

One daemon thread accepts, another answers each client. Whatever a client may draw out, the TLS
handshake too, happens in the thread of its own and has a deadline.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from types import TracebackType
from typing import Any, Self

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.registry import Collector

from poolscope.faults import where

logger = logging.getLogger("poolscope")

REQUEST_TIMEOUT = 10.0
"""Seconds a client may stay silent before its thread is freed."""

PATIENCE = 1.0
"""Seconds `close()` waits for answers that are being made."""


class MetricsServer:
    """A running server. Use it as a context manager, or call `close()`."""

    def __init__(
        self,
        port: int,
        addr: str,
        registry: CollectorRegistry,
        collector: Collector,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Bind, add the collector where none like it is, and begin to serve.

        Raises:
            OSError: the address cannot be bound; `errno` says why.
        """
        self._server = _bound(addr, port, registry, tls)
        self._registry = registry
        self._collector = collector if _added(collector, registry) else None
        host, self.port = self._server.server_address[:2]
        """The port it listens on."""
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        name = everywhere.get(str(host), str(host))
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://{f'[{name}]' if ':' in name else name}:{self.port}/metrics"
        """Where this machine can read it."""
        # The interval bounds how long close() takes.
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="poolscope-metrics", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving, hang up on clients, and end the threads. May be called again."""
        collector, self._collector = self._collector, None
        if collector is not None:
            self._registry.unregister(collector)
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def _added(collector: Collector, registry: CollectorRegistry) -> bool:
    """Add a collector; return whether that was needed."""
    try:
        registry.register(collector)
    except ValueError:
        return False
    return True


def _bound(
    addr: str, port: int, registry: CollectorRegistry, tls: ssl.SSLContext | None
) -> _Server:
    try:
        infos = socket.getaddrinfo(addr, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = infos[0]
        return _Server(family, address, registry, tls)
    except OSError as error:
        what = f"cannot serve metrics at {addr} port {port}: {error.strerror}"
        raise OSError(error.errno, f"{what}. Choose another port, or 0 for any free one") from None


class _Server(ThreadingTCPServer):
    """One thread per client; remembers whom it talks to, so that it can hang up.

    Not an `http.server.HTTPServer`: that looks its own name up in the DNS, which may hang.
    """

    allow_reuse_address = True
    request_queue_size = 64

    def __init__(
        self,
        family: socket.AddressFamily,
        address: Any,
        registry: CollectorRegistry,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.address_family = family
        self.app = make_wsgi_app(registry)
        self._tls = tls
        self._clients: dict[Any, threading.Thread] = {}
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        request, client_address = super().get_request()
        if self._tls is not None:
            # Nothing is sent or awaited yet: this is the thread that accepts.
            request = self._tls.wrap_socket(
                request, server_side=True, do_handshake_on_connect=False
            )
        return request, client_address

    def process_request(self, request: Any, client_address: Any) -> None:
        target, args = self.process_request_thread, (request, client_address)
        thread = threading.Thread(target=target, args=args, name="poolscope-scrape", daemon=True)
        self._clients[request] = thread
        thread.start()

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(REQUEST_TIMEOUT)
        if isinstance(request, ssl.SSLSocket):
            request.do_handshake()
        super().finish_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self._clients.pop(request, None)

    def server_close(self) -> None:
        super().server_close()
        clients = list(self._clients.items())
        for request, _ in clients:
            with contextlib.suppress(OSError):  # it may just have gone by itself
                # Not SSLSocket.shutdown: after that, its thread might write what is secret in
                # plain text.
                socket.socket.shutdown(request, socket.SHUT_RDWR)
        deadline = time.monotonic() + PATIENCE
        for _, thread in clients:
            thread.join(max(0.0, deadline - time.monotonic()))

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients go away in the middle; the application's stderr is no place to say so.
        if (error := sys.exception()) is not None:
            logger.debug("a request for metrics failed: %s", where(error))


class _Handler(BaseHTTPRequestHandler):
    """Answers one request, also when a collector of the application's raises."""

    server: _Server

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "HTTP_ACCEPT": self.headers.get("Accept", ""),
            "HTTP_ACCEPT_ENCODING": self.headers.get("Accept-Encoding", ""),
        }
        headers: list[tuple[str, str]] = []
        try:
            (body,) = self.server.app(environ, lambda _status, given: headers.extend(given))
        except Exception as error:
            logger.error("the metrics could not be collected: %s", where(error))
            self.send_error(500)
            return
        self.send_response(200)
        # With its length, no client takes half an answer for a whole one.
        for header in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: requests are not the application's log."""
