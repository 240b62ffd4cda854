"""What an engine connects to, and what its application is called: told without its secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from poolscope.target import Target

APPLICATION = ("application_name", "program_name")
"""Options by which applications tell PostgreSQL and MySQL what they are called."""

_SOCKETS = ("host", "unix_socket")
"""Options of the query string that may name a socket, or a host."""
_HOST = re.compile(r"(/[^@?&;=]*)|([\w.-]+)(?::([0-9]{1,5}))?")
"""The path of a socket, or name and port."""


@dataclass(frozen=True, slots=True)
class Address:
    """As much of the URL of an engine as everybody may know."""

    target: Target | None = None
    application: str | None = None

    @classmethod
    def of(cls, url: Any) -> Address:
        """Read the URL of an engine. One that is none, in a test, says nothing."""
        from sqlalchemy import URL

        if not isinstance(url, URL):
            return cls()
        try:
            return cls(_target(url), application(url.query))
        except Exception:
            return cls()


def application(options: Mapping[str, Any]) -> str | None:
    """Return what an application calls itself, if it does."""
    for name in APPLICATION:
        if isinstance(value := options.get(name), str) and value:
            return value
    return None


def _target(url: Any) -> Target:
    backend = url.get_backend_name()
    if backend == "sqlite":
        file = (url.database or "").partition("?")[0]
        return Target("sqlite", namespace=file or None)
    target = Target(_known(f"{backend}:///").system, url.host, url.port, url.database or None)
    if target.address is None:
        target = _at_option(target, url.query)
    if target.address and target.port is None and not target.address.startswith("/"):
        target = replace(target, port=_known(f"{backend}://host/").port)
    return target


def _at_option(target: Target, query: Mapping[str, Any]) -> Target:
    """Name the socket or the first host which an option of the query string names."""
    for name in _SOCKETS:
        value = query.get(name, "")
        match = _HOST.fullmatch(value if isinstance(value, str) else value[0])
        if match is not None:
            port = match[3] or query.get("port")
            number = int(port) if isinstance(port, str) and port.isdecimal() else None
            return replace(target, address=match[1] or match[2], port=number)
    return target


def _known(url: str) -> Target:
    try:
        return Target.from_url(url)
    except ValueError:
        return Target()
