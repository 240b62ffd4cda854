"""The pages of several addresses, got side by side, each within the same time."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from threading import Thread
from urllib.error import HTTPError, URLError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from poolscope.cli.stats.address import Address

ACCEPT = "text/plain;version=0.0.4"
"""What is asked for. OpenMetrics is understood too, but whoever reads it has to be strict."""

OPENMETRICS = "application/openmetrics-text"

LONGEST = 64 * 2**20
"""Bytes of an answer, at most."""


class Problem(Exception):
    """Why an address shows no pools, in one sentence with the remedy."""

    def __init__(self, address: str, what: str, remedy: str) -> None:
        """Say what is wrong where."""
        super().__init__(f"{address}: {what}; {remedy}")
        self.address = address
        self.what = what
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Page:
    """An answer, and when it came by the clock of the `Fetcher`."""

    body: bytes
    openmetrics: bool
    time: float


class Fetcher:
    """Gets pages directly, as Prometheus does: the environment's proxies are not used."""

    def __init__(
        self, timeout: float, cafile: str | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Trust the authorities of a PEM file, by default those of the system.

        Raises:
            OSError: the file cannot be read.
        """
        self._timeout = timeout
        self._clock = clock
        secure = HTTPSHandler(context=ssl.create_default_context(cafile=cafile))
        self._opener = build_opener(ProxyHandler({}), secure)

    def fetch(self, addresses: Iterable[Address]) -> dict[Address, Page | Problem]:
        """Get all pages, in the order of the addresses, within the timeout."""
        futures = {address: self._begin(address) for address in addresses}
        # A socket's timeout bounds neither the DNS nor a server that sends a byte now and then.
        wait(futures.values(), self._timeout)
        return {
            address: future.result() if future.done() else self._late(address)
            for address, future in futures.items()
        }

    def _begin(self, address: Address) -> Future[Page | Problem]:
        """Start a daemon thread: one that hangs must not keep the program from ending."""
        future: Future[Page | Problem] = Future()

        def work() -> None:
            try:
                future.set_result(self._get(address))
            except Problem as problem:
                future.set_result(problem)
            except BaseException as error:  # whoever waits is told
                future.set_exception(error)

        Thread(target=work, name="poolscope-stats", daemon=True).start()
        return future

    def _get(self, address: Address) -> Page:
        request = Request(address.url, headers={"Accept": ACCEPT})
        if address.authorization:
            # Not to be told to where the answer may lead.
            request.add_unredirected_header("Authorization", address.authorization)
        try:
            with self._opener.open(request, timeout=self._timeout) as reply:
                if reply.status != HTTPStatus.OK:
                    raise _refused(address, reply.status)
                body = reply.read(LONGEST + 1)
                openmetrics = reply.headers.get_content_type() == OPENMETRICS
        except HTTPError as error:
            error.close()
            raise _refused(address, error.code) from None
        except TimeoutError:
            raise self._late(address) from None
        except (OSError, HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            if isinstance(reason, TimeoutError):
                raise self._late(address) from None
            raise Problem(address.name, *_explain(reason)) from None
        if len(body) > LONGEST:
            raise Problem(
                address.name,
                f"its answer has more than {LONGEST >> 20} MB",
                "is it a metrics page?",
            )
        return Page(body, openmetrics, self._clock())

    def _late(self, address: Address) -> Problem:
        what = f"no answer within {self._timeout:g} s"
        return Problem(address.name, what, "look at the program there, or give --timeout more")


def _refused(address: Address, status: int) -> Problem:
    """Say what a status means. The server's own words are not printed: they may hold anything."""
    try:
        what = f"answered {status} {HTTPStatus(status).phrase}"
    except ValueError:
        what = f"answered {status}"
    remedy = "look at the log of the program there"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        remedy = "write http://user:password@host:port"
    elif status == HTTPStatus.NOT_FOUND:
        remedy = "name the path of its metrics, as http://host:port/path"
    return Problem(address.name, what, remedy)


def _explain(reason: object) -> tuple[str, str]:
    """Say what an error means, and what to do about it."""
    match reason:
        case ssl.SSLCertVerificationError():
            what = f"its certificate is not trusted ({reason.verify_message})"
            return what, "name the authority's certificate with --cafile"
        case ssl.SSLError():
            return "it speaks no TLS that we understand", "try http:// instead of https://"
        case socket.gaierror() | UnicodeError():
            return "there is no such host", "check the name"
        case ConnectionRefusedError():
            return (
                "nothing listens there",
                "start the program that serves metrics, or check the port",
            )
        case HTTPException() | ConnectionResetError():
            return "it does not answer in HTTP", "check the port, and whether it is https://"
        case OSError(strerror=str(words)):
            return f"it cannot be reached ({words})", "check the host and the network"
    return "it cannot be reached", "check the host and the network"
