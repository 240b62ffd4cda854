"""What redis.asyncio and redis have in common."""

from __future__ import annotations

from ssl import SSLCertVerificationError
from typing import Any

from poolscope.connectors.recipe import Unfit
from poolscope.connectors.urls import Address, refusal


def parameters(
    address: Address, connect_timeout: float | None, options: dict[str, Any]
) -> dict[str, Any]:
    """Return what to connect with besides the URL: of that, options go before defaults."""
    defaults: dict[str, Any] = {"socket_connect_timeout": connect_timeout}
    if address.scheme != "unix":
        defaults["socket_keepalive"] = True
    in_url = address.options.keys() - options.keys()
    return {name: value for name, value in (defaults | options).items() if name not in in_url}


def check_url(parse: Any, address: Address) -> None:
    """Raise ValueError if the driver cannot read the URL."""
    try:
        parse(address.url)
        return
    except ValueError:
        pass  # and is forgotten: its text may hold parts of the URL
    raise refusal("redis-py cannot read it")


def explain(error: BaseException) -> None:
    """Note below an error of a connect what can be done, if the certificate is not trusted."""
    if isinstance(error.__cause__ or error.__context__, SSLCertVerificationError):
        error.add_note(
            "The server's certificate was not signed by an authority known here, or is for another "
            "host. Name the file of the authority, as in rediss://…?ssl_ca_certs=/etc/ssl/ca.pem, "
            "or the host as the certificate does."
        )


def refuse_unless_quiet(connected: bool, busy: bool) -> None:
    """Raise unless a client came back as a new one is: connected, and with nobody at work."""
    if not connected:
        raise Unfit("the connection was lost or given up while it was in use")
    if busy:
        raise Unfit("the client came back in the middle of a command or a pipeline")
