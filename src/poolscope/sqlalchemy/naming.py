"""What a pool is called, and what it connects to: told by its engine, without its secrets."""

from __future__ import annotations

from pathlib import PurePath
from types import FrameType

from sqlalchemy import URL, Engine
from sqlalchemy.pool import Pool

from poolscope.connectors import urls
from poolscope.target import Target


def address(pool: Pool, frame: FrameType | None) -> URL | None:
    """Return the URL of the engine which asks a pool for a connection in this frame.

    An engine knows its pool, a pool does not know its engine; only the call leads back.
    """
    caller = frame.f_locals.get("self") if frame is not None else None
    if isinstance(caller, Engine) and caller.pool is pool and isinstance(caller.url, URL):
        return caller.url
    return None  # asked without an engine, or by one that a test made up


def target(url: URL) -> Target:
    """Return what a URL of SQLAlchemy's connects to, as far as telemetry may know."""
    try:
        plain = url.set(username=None, password=None).render_as_string()
        return urls.read(plain).target
    except Exception:  # a URL of a dialect nobody here knows; its parts are known all the same
        return Target(None, url.host, url.port, url.database)


def name(url: URL, target: Target) -> str:
    """Return host, port and database; of a file its name alone."""
    if target.system == "sqlite":
        return PurePath((target.namespace or ":memory:").removeprefix("file:")).name
    host = target.address or url.get_backend_name()
    if ":" in host:
        host = f"[{host}]"
    if target.port is not None:
        host = f"{host}:{target.port}"
    return f"{host}/{target.namespace}" if target.namespace else host
