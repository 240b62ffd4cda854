"""What to call a pool of somebody else's, so that nothing secret is in the name."""

from __future__ import annotations

from pathlib import PurePath

from poolscope.target import Target


def pool_name(given: str | None, application: str | None, target: Target | None) -> str | None:
    """Return the name given, else that of the application, else host, port and database."""
    return given or application or (label(target) if target is not None else None)


def label(target: Target) -> str | None:
    """Return `host:port/database`, of a file its name alone; None if there is nothing to say."""
    if target.system == "sqlite":
        return PurePath((target.namespace or ":memory:").removeprefix("file:")).name
    host = target.address
    if not host:
        return target.namespace or target.system
    if ":" in host:
        host = f"[{host}]"
    if target.port is not None:
        host = f"{host}:{target.port}"
    return f"{host}/{target.namespace}" if target.namespace else host
