"""URLs taken apart: what all may see of them, and what only the driver may."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from poolscope.connectors.recipe import Recipe
from poolscope.target import Target

SYSTEMS = ("postgresql", "mysql", "mariadb", "redis", "sqlite")

_SCHEME = re.compile(r"(\w+(?:\+\w+)?)://.*", re.DOTALL)
_REDIS_SOCKET = re.compile(r"unix://(?:[^/?#@]*@)?(/[^?#@]*)(?:\?([^#@]*))?", re.IGNORECASE)
_SOCKET_OPTIONS = {"postgresql": "host", "mysql": "unix_socket", "mariadb": "unix_socket"}
"""Options of the query string which name the socket of a server."""
_SOCKET = re.compile(r"/[^@?&;=]*")


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """A URL that was read, with its secrets."""

    url: str
    scheme: str
    target: Target
    user: str | None = None
    password: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    """What the query string says."""

    def recipe(
        self,
        factory: Callable[[], Any],
        validate_func: Callable[[Any], Any],
        reset_func: Callable[[Any], Any],
        close_func: Callable[[Any], Any],
        terminate_func: Callable[[Any], Any] | None = None,
    ) -> Recipe:
        """Return the functions with what may be told of this address."""
        name = _name(self.target) or self.scheme.partition("+")[0]
        functions = factory, validate_func, reset_func, close_func, terminate_func
        return Recipe(*functions, self.target, name)


def read(url: str) -> Address:
    """Read a URL.

    Raises:
        ValueError: it is no URL of a known kind; the message does not repeat it.
    """
    if not isinstance(url, str):
        raise ValueError(f"a pool needs a URL such as postgresql://host/shop: got a {_kind(url)}")
    url = url.strip()
    if (match := _SCHEME.fullmatch(url)) is None:
        raise refusal("it does not begin with a scheme and ://")
    scheme = match[1].lower()
    if scheme == "unix":
        return _read_redis_socket(url)
    if "+" in scheme and not _is_known(scheme):
        return Address(url, scheme, Target())  # of a dialect that only SQLAlchemy knows
    return _read(url, scheme, Target.from_url(url))


def refusal(why: str) -> ValueError:
    """Return what to raise for a URL; `why` repeats nothing of it."""
    known = ", ".join(f"{scheme}://" for scheme in (*SYSTEMS, "rediss", "unix"))
    return ValueError(
        f"this URL cannot be used: {why}. Known are {known} and SQLAlchemy's with a driver, such "
        "as postgresql+asyncpg://; special characters in user and password must be quoted"
    )


def _kind(value: object) -> str:
    return type(value).__name__


def _is_known(scheme: str) -> bool:
    try:
        Target.from_url(f"{scheme.partition('+')[0]}:///")
    except ValueError:
        return False
    return True


def _read(url: str, scheme: str, target: Target) -> Address:
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        user, password = parts.username, parts.password
    except ValueError:
        parts = None
    if parts is None:  # outside the handler, whose error may hold what is secret
        raise refusal("its parts cannot be told apart")
    return Address(
        url,
        scheme,
        _at_socket(target, options),
        None if user is None else unquote(user),
        None if password is None else unquote(password),
        options,
    )


def _at_socket(target: Target, options: dict[str, str]) -> Target:
    """Name the socket which an option of the query string names."""
    socket = options.get(_SOCKET_OPTIONS.get(target.system or "", ""), "")
    return replace(target, address=socket, port=None) if _SOCKET.fullmatch(socket) else target


def _read_redis_socket(url: str) -> Address:
    if (match := _REDIS_SOCKET.fullmatch(url)) is None:
        raise refusal("a Redis socket is written as unix:///path?db=0")
    options = dict(parse_qsl(match[2] or ""))
    number = options.get("db", "0")
    target = Target("redis", unquote(match[1]), None, number if number.isdecimal() else None)
    return Address(url, "unix", target, options=options)


def _name(target: Target) -> str | None:
    """Return host, port and database; of a file its name alone; None if nothing is known."""
    if target.system == "sqlite":
        return PurePath((target.namespace or ":memory:").removeprefix("file:")).name or None
    host = target.address or target.system
    if host is None:
        return None
    if ":" in host:
        host = f"[{host}]"
    if target.port is not None:
        host = f"{host}:{target.port}"
    return f"{host}/{target.namespace}" if target.namespace else host
