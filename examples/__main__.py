"""`python -m examples fastapi`: serve an example; the servers it needs and nobody named, it starts.

Settings come from the environment: HOST, PORT, DATABASE_URL, REDIS_URL, POOL_SIZE, POOL_TIMEOUT.
"""

import argparse
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from types import ModuleType

from poolscope.testing.postgres import PostgresServer
from poolscope.testing.redis import RedisServer
from poolscope.testing.server import PrivateServer, ServerError

SERVERS: dict[str, type[PrivateServer]] = {
    "DATABASE_URL": PostgresServer,
    "REDIS_URL": RedisServer,
}
NEEDS = {
    "fastapi": ["DATABASE_URL"],
    "flask": ["DATABASE_URL"],
    "starlette": ["DATABASE_URL", "REDIS_URL"],
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal comes; leave with status 0 then."""
    options = _options(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        with ExitStack() as stack:
            listener = stack.enter_context(_listen(options.host, options.port))
            for variable in NEEDS[options.example]:
                if not os.environ.get(variable):
                    print(f"no {variable}: starting a private server", flush=True)
                    os.environ[variable] = stack.enter_context(SERVERS[variable]()).url
            example = import_module(f"examples.{options.example}_orders")
            host, port = listener.getsockname()[:2]
            print(f"serving http://{host}:{port}/orders", flush=True)
            _serve(example, listener)
    except ServerError as error:
        sys.exit(f"examples: {error}")
    except ModuleNotFoundError as error:
        sys.exit(f"examples: {error.name} is not installed; pip install 'poolscope[examples]'")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples", description="Serve an example.")
    parser.add_argument("example", choices=NEEDS)
    parser.add_argument("--host", default=os.environ.get("HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=os.environ.get("PORT", "0"), help="0 for any")
    return parser.parse_args(arguments)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except OSError as error:
        why = os.strerror(error.errno or 0)
        sys.exit(f"examples: cannot listen on {host}:{port} ({why}); choose another --port")


def _serve(example: ModuleType, listener: socket.socket) -> None:
    if threads := getattr(example, "THREADS", None):
        import waitress

        waitress.create_server(example.app, sockets=[listener], threads=threads).run()
    else:
        import uvicorn

        config = uvicorn.Config(
            example.app, lifespan="on", log_level="warning", timeout_graceful_shutdown=5
        )
        uvicorn.Server(config).run(sockets=[listener])


def _leave(*_: object) -> None:
    """End in order, and be disturbed no more."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(0)


if __name__ == "__main__":
    main()
