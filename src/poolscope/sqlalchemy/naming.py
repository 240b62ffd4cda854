"""What a pool is called, and what it connects to: told by its engine, without its secrets."""

from __future__ import annotations

from pathlib import PurePath
from types import FrameType

from sqlalchemy import URL, Engine
from sqlalchemy.pool import Pool

from poolscope.connectors import urls
from poolscope.target import Target

_ASKS = Engine.raw_connection.__code__
"""What calls a pool for an engine. Of other frames the locals are left alone: looking at them
would keep them alive."""


def address(pool: Pool, frame: FrameType | None) -> URL | None:
    """Return the URL of the engine which asks a pool for a connection in this frame.

    An engine knows its pool, a pool does not know its engine; only the call leads back.
    """
    if frame is None or frame.f_code is not _ASKS:
        return None
    engine: Engine = frame.f_locals["self"]
    # Tests may have made up the URL.
    return engine.url if engine.pool is pool and isinstance(engine.url, URL) else None


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
