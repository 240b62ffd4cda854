"""What the middleware is given, read into what its pools are made from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from poolscope.faults import shown
from poolscope.settings import ConnectionPoolSettings

DATABASE = "database"
REDIS = "redis"

_OWN = ("required", "readiness_path", "driver_options", "redis_options")
_SETTINGS = tuple(
    field.name
    for field in fields(ConnectionPoolSettings)
    if field.name not in ("name", "target")  # the middleware and the URLs say these
)


@dataclass(frozen=True, slots=True, repr=False)  # the URLs hold secrets
class Arguments:
    """Say which pools there are, how they behave, and what their state has to do with serving."""

    urls: dict[str, str]
    """By name of the pool."""
    settings: ConnectionPoolSettings
    options: dict[str, dict[str, Any]]
    """What the driver is given besides, by name of the pool."""
    required: bool
    readiness_path: str | None


def read_arguments(
    database_url: Any = None,
    redis_url: Any = None,
    settings: ConnectionPoolSettings | None = None,
    max_connections: int = 20,
    connection_timeout: float = 5.0,
    pool_recycle: float | None = 300,
    pool_pre_ping: bool = True,
    **options: Any,
) -> Arguments:
    """Check the arguments of the middleware, which has the same ones.

    Raises:
        TypeError: there is no such option, or something is of the wrong type.
        ValueError: a setting of the pools has the wrong value.
    """
    _refuse_unknown(options)
    own = {name: options.pop(name) for name in _OWN if name in options}
    if settings is None:
        never = pool_recycle is None or pool_recycle == -1  # as SQLAlchemy says it
        given = {
            "max_size": max_connections,
            "acquire_timeout": connection_timeout,
            "max_lifetime": math.inf if never else pool_recycle,
            "validate_on_acquire": pool_pre_ping,
        }
        settings = ConnectionPoolSettings(**(given | options))
    elif isinstance(settings, ConnectionPoolSettings):
        settings = settings.copy(**options)
    else:
        raise TypeError(f"settings must be ConnectionPoolSettings: got a {_kind(settings)}")
    # The driver is as patient as the pool if nothing else is said.
    limit = settings.connect_timeout
    patience = {} if limit == math.inf else {"connect_timeout": limit}
    urls = {DATABASE: _url("database_url", database_url), REDIS: _url("redis_url", redis_url)}
    return Arguments(
        urls={name: url for name, url in urls.items() if url},
        settings=settings,
        options={
            DATABASE: patience | _mapping("driver_options", own.get("driver_options")),
            REDIS: patience | _mapping("redis_options", own.get("redis_options")),
        },
        required=_flag("required", own.get("required", True)),
        readiness_path=_path("readiness_path", own.get("readiness_path")),
    )


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    known = (*_OWN, *_SETTINGS)
    for name in options:
        if name in known:
            continue
        arguments = ("database_url", "redis_url", "settings", "max_connections")
        more = (*known, *arguments, "connection_timeout", "pool_recycle", "pool_pre_ping")
        near = get_close_matches(name, more, 1)
        hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}"
        raise TypeError(f"ConnectionPoolMiddleware has no option {shown(name)}; {hint}")


def _url(argument: str, value: Any) -> str:
    """Return a URL as text; that of SQLAlchemy hides its password when it is made a string."""
    render = getattr(value, "render_as_string", None)
    if callable(render):
        return str(render(hide_password=False))
    if value is None or isinstance(value, str):
        return value or ""
    # Never its value: it may be bytes, or a tuple, with the password in it.
    raise TypeError(f"{argument} must be a URL: got a {_kind(value)}")


def _mapping(argument: str, value: Any) -> dict[str, Any]:
    if value is None or isinstance(value, Mapping):
        return dict(value or {})
    raise TypeError(f"{argument} must be a dict of the driver's own options: got a {_kind(value)}")


def _flag(argument: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError(f"{argument} must be True or False: got {shown(value)}")


def _path(argument: str, value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value.startswith("/")):
        return value
    raise TypeError(f"{argument} must be a path such as /healthz: got {shown(value)}")


def _kind(value: object) -> str:
    return type(value).__name__
