"""Pools for ASGI applications, and whether they are ready to serve."""

from poolscope.asgi.middleware import ConnectionPoolMiddleware
from poolscope.asgi.readiness import Readiness, readiness

__all__ = ["ConnectionPoolMiddleware", "Readiness", "readiness"]
