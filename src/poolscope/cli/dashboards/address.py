"""Where a Grafana is: what people write, as the start of a URL without secrets."""

from __future__ import annotations

from urllib.parse import quote, urlsplit


def parse_root(text: str) -> str:
    """Return the root of a Grafana without a slash at the end.

    Raises:
        ValueError: it is no URL of HTTP, or has more than a path; the message repeats nothing.
    """
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port == 0 or parts.scheme not in ("http", "https") or not host.isprintable():
        raise ValueError("not understood; write the root of the Grafana, as https://host:port/path")
    if "@" in parts.netloc:
        raise ValueError("a user and password are not taken; set GRAFANA_TOKEN")
    if parts.query or parts.fragment or " " in host:
        raise ValueError("not the root of a Grafana: leave out what is after the path")
    path = quote(parts.path.rstrip("/"), safe="/%")
    return f"{parts.scheme}://{parts.netloc}{path}"
