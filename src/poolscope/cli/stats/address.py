"""Where metrics are read: what people write, as a URL. What may be secret is never shown."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit, urlunsplit

PATH = "/metrics"
"""The path that is read where none is given."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to read, and what to call the place: neither name nor repr has secrets."""

    name: str
    """Host and port, and the path if it is not the usual one."""
    url: str = field(repr=False)
    """Without user and password; a query may be a secret too."""
    authorization: str | None = field(repr=False)


def parse_address(text: str) -> Address:
    """Read a URL, `host:port`, or a port of this machine; the path is `/metrics` if not given.

    Raises:
        ValueError: it is none of these; the message has no user, password or query.
    """
    is_port = text.partition("/")[0].isdecimal()
    full = f"http://localhost:{text}" if is_port else text if "://" in text else f"http://{text}"
    try:
        return _address(full)
    except ValueError:
        place = text.rpartition("@")[2].partition("?")[0]
        what = "this" if "=" in place else repr(place)
        raise ValueError(
            f"not understood: {what}; write http://host:port/metrics, host:port or a port; "
            "in a password percent-encode all but letters and digits"
        ) from None


def _address(url: str) -> Address:
    """Raise a ValueError, of any text, for what is no URL of HTTP."""
    parts = urlsplit(url)
    host, port, place = parts.hostname, parts.port, parts.netloc.rpartition("@")[2]
    if parts.scheme not in ("http", "https") or not host or port == 0 or not host.isprintable():
        raise ValueError("not a place that HTTP can reach")
    # One that is not written as %40 ends a password that began before; a part would be shown.
    if "@" in parts.path + parts.query + parts.fragment or " " in host:
        raise ValueError("not a URL")
    path = PATH if parts.path in ("", "/") else quote(parts.path, safe="/%:!$&'()*+,;=~")
    query = quote(parts.query, safe="/?%:!$&'()*+,;=~[]")
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {b64encode(pair.encode()).decode()}"
    name = place if path == PATH else place + path
    return Address(name, urlunsplit((parts.scheme, place, path, query, "")), authorization)
