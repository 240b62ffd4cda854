"""The part of Grafana's HTTP API that boards need, with answers for three in the morning."""

from __future__ import annotations

import dataclasses
import json
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

TRIES = 4
LONGEST_PAUSE = 30.0
"""Seconds, whatever a server asks for."""
_BUSY = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_GATEWAY = {HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT}
_LONGEST = 2**24
"""Bytes of an answer that are read."""

Answer = Any
"""JSON."""


class Problem(Exception):
    """Why Grafana did not do what it was asked, in one sentence with the remedy."""

    def __init__(self, what: str, remedy: str, status: int = 0, kind: str = "") -> None:
        """Keep the status of the answer, 0 if there was none, and Grafana's word for it."""
        super().__init__(f"{what}; {remedy}")
        self.status = status
        self.kind = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a Grafana is, and how to talk to it. Times are in seconds."""

    url: str
    token: str = dataclasses.field(repr=False)
    timeout: float = 10.0
    cafile: str | None = None
    pause: Callable[[float], object] = time.sleep


class Grafana:
    """Asks one Grafana; what may be asked twice without harm is asked again. Not thread-safe."""

    def __init__(self, server: Server) -> None:
        """Trust the authorities of `cafile`, a PEM file, or those of the system.

        Raises:
            OSError: the file cannot be read.
        """
        self._server = server
        self._name = urlsplit(server.url).netloc
        secure = HTTPSHandler(context=ssl.create_default_context(cafile=server.cafile))
        self._opener = build_opener(secure, _Stay())

    def get(self, path: str, *names: str) -> Answer:
        """Ask for something; `names` fill the `%s` of the path.

        Raises:
            Problem: it is not to be had.
        """
        escaped = tuple(quote(name, safe="") for name in names)
        return self._ask(Request(self._server.url + path % escaped))

    def post(self, path: str, body: Mapping[str, object]) -> Answer:
        """Send something. Asked again only where it surely was not done before.

        Raises:
            Problem: it was not done, or nobody knows.
        """
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        return self._ask(Request(self._server.url + path, data, headers))

    def _ask(self, request: Request) -> Answer:
        # Not to be told to where an answer may lead.
        request.add_unredirected_header("Authorization", f"Bearer {self._server.token}")
        request.add_header("Accept", "application/json")
        for pause in (0.5, 1.0, 2.0):
            try:
                return self._once(request)
            except _TryAgain as again:
                self._server.pause(pause if again.after is None else again.after)
        try:
            return self._once(request)
        except _TryAgain as again:
            raise again.problem from None

    def _once(self, request: Request) -> Answer:
        harmless = request.data is None
        try:
            with self._opener.open(request, timeout=self._server.timeout) as reply:
                body = reply.read(_LONGEST)
        except HTTPError as error:
            with error:
                problem = self._refused(error.code, _words(error.read(_LONGEST)), error.headers)
            if error.code in _BUSY or (harmless and error.code in _GATEWAY):
                raise _TryAgain(problem, _after(error.headers)) from None
            raise problem from None
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            problem = self._unreached(reason, harmless)
            if harmless or isinstance(reason, ConnectionRefusedError):
                raise _TryAgain(problem) from None
            raise problem from None
        try:
            return json.loads(body)
        except ValueError:
            raise Problem(
                f"{self._name} does not answer in JSON", "is --url the root of a Grafana?"
            ) from None

    def _refused(self, status: int, said: Mapping[str, Any], headers: Message) -> Problem:
        name, kind = self._name, str(said.get("status", ""))
        text = self._harmless(said.get("message"))
        match status:
            case HTTPStatus.UNAUTHORIZED:
                what = f"{name} does not know this token"
                remedy = "it may have expired: make one for a service account, in Grafana under "
                return Problem(what, remedy + "Administration, and set GRAFANA_TOKEN", status)
            case HTTPStatus.FORBIDDEN:
                what = f"this token may not do that at {name}{text}"
                return Problem(what, "give its service account the role Editor", status)
            case status if 300 <= status < 400:
                to = urlsplit(headers.get("Location", ""))
                where = f" to {to.scheme}://{to.hostname}" if to.hostname else ""
                what = f"{name} sends us elsewhere{where}"
                return Problem(what, "give --url the address it sends to, or its https://", status)
            case HTTPStatus.NOT_FOUND:
                what = f"{name} has no such thing{text}"
                return Problem(what, "is --url the root of a Grafana?", status, kind)
            case _:
                what = f"{name} answered {status}{text}"
                return Problem(what, "look at the log of Grafana", status, kind)

    def _unreached(self, reason: object, harmless: bool) -> Problem:
        name, check = self._name, "check --url and the network"
        match reason:
            case TimeoutError():
                what = f"{name} gave no answer within {self._server.timeout:g} s"
                doubt = "it may have been saved: look there, then push again with --overwrite"
                return Problem(what, "give --timeout more" if harmless else doubt)
            case ConnectionRefusedError():
                return Problem(f"nothing listens at {name}", "start Grafana, or check --url")
            case ssl.SSLCertVerificationError():
                what = f"the certificate of {name} is not trusted ({reason.verify_message})"
                return Problem(what, "name its authority's certificate with --cafile")
            case ssl.SSLError():
                return Problem(f"{name} speaks no TLS", "try http:// instead of https://")
            case OSError(strerror=str(words)):
                return Problem(f"{name} cannot be reached ({words})", check)
            case HTTPException():
                return Problem(f"{name} does not answer in HTTP", check)
        return Problem(f"{name} cannot be reached", check)

    def _harmless(self, text: object) -> str:
        """Return what the server said as the end of a sentence, without our secret."""
        if not isinstance(text, str) or not text:
            return ""
        shown = text.replace(self._server.token, "...")[:200]
        return f" ({''.join(c if c.isprintable() else '?' for c in shown)})"


def field(answer: Answer, name: str) -> str:
    """Return a text from an answer.

    Raises:
        Problem: it is not there, so whoever answered is no Grafana.
    """
    if isinstance(answer, dict) and isinstance(text := answer.get(name), str):
        return text
    raise Problem(f"an answer has no {name}", "is --url the root of a Grafana?")


class _TryAgain(Exception):
    def __init__(self, problem: Problem, after: float | None = None) -> None:
        self.problem = problem
        self.after = after


class _Stay(HTTPRedirectHandler):
    """Goes nowhere: urllib would make a GET of a POST, and take the token along."""

    def redirect_request(self, *_: object) -> None:
        """Leave the answer to be told as an error."""


def _words(body: bytes) -> Mapping[str, Any]:
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _after(headers: Message) -> float | None:
    text = headers.get("Retry-After", "")
    return min(float(text), LONGEST_PAUSE) if text.isdecimal() else None
