"""A small HTTP server of this process, for what other servers ask of us."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Self

Answer = tuple[int, bytes]
"""A status, and a text."""


class Pages:
    """Answers requests by what `answer` returns for their path and body; from its own threads."""

    def __init__(self, answer: Callable[[str, bytes], Answer], host: str, port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                status, text = answer(self.path, self.rfile.read(length))
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                # What is asked in OTLP is answered in it.
                self.send_header("Content-Type", self.headers.get("Content-Type", "text/plain"))
                self.end_headers()
                self.wfile.write(text)

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = False
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.address = f"{host}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
