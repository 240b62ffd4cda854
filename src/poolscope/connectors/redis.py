"""Redis by redis-py, for threads: clients of one connection each."""

from __future__ import annotations

from threading import RLock
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.connection import parse_url
from redis.exceptions import RedisError
from redis.retry import Retry

from poolscope.connectors.recipe import Recipe
from poolscope.connectors.redis_options import check_url, explain, parameters, refuse_unless_quiet
from poolscope.connectors.sockets import shut_down
from poolscope.connectors.urls import Address
from poolscope.functions import prompt


class Client(Redis):
    """A client whose commands and pipelines share one connection, one after the other."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.pipelines = Pipelines(self)
        self.single_connection_lock = RLock()  # that of redis-py is none before 6.4, or no R

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command, and return its reply; other threads wait meanwhile."""
        with self.single_connection_lock:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: Any = True, shard_hint: Any = None) -> Pipeline:
        """Return a pipeline on this client's own connection."""
        pipeline = super().pipeline(transaction, shard_hint)
        pipeline.connection_pool = self.pipelines  # type: ignore[assignment]
        return pipeline


class Pipelines:
    """What a pipeline takes for a connection pool: the client's own connection, locked."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.at_work = 0

    def get_connection(self, *_: Any, **__: Any) -> Any:
        """Wait until no other thread uses the connection, and return it."""
        self._client.single_connection_lock.acquire()
        self.at_work += 1
        return self._client.connection

    def release(self, _: Any) -> None:
        """Let others use it."""
        self.at_work -= 1
        self._client.single_connection_lock.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client.connection_pool, name)


def recipe(address: Address, connect_timeout: float | None, options: dict[str, Any]) -> Recipe:
    """Return what opens `redis.Redis` clients; options are those of its `from_url`."""
    check_url(parse_url, address)
    options = parameters(address, connect_timeout, options)

    def connect() -> Any:
        # By itself a client connects anew when a connection is lost, and the pool never knows.
        retry = {"retry": Retry(NoBackoff(), 0)}
        try:
            return Client.from_url(address.url, single_connection_client=True, **(retry | options))
        except RedisError as error:
            explain(error)
            raise

    return address.recipe(connect, _check, _reset, _close, _close)  # which says no goodbye


def _is_connected(client: Client) -> bool:
    connection: Any = client.connection
    if hasattr(connection, "is_connected"):  # since redis-py 8
        return bool(connection.is_connected)
    return connection is not None and connection._sock is not None


@prompt(shut_down)
def _check(client: Client) -> bool:
    if not _is_connected(client):
        return False
    connection: Any = client.connection
    with client.single_connection_lock:  # below commands, which cost a quarter more
        connection.send_command("PING")
        connection.read_response()
    return True


@prompt(shut_down)
def _reset(client: Client) -> None:
    idle = client.single_connection_lock.acquire(blocking=False)
    if idle:
        client.single_connection_lock.release()
    refuse_unless_quiet(_is_connected(client), not idle or client.pipelines.at_work > 0)
    # A reply nobody has read would be taken for the answer to the next borrower's command.
    assert client.connection is not None
    refuse_unless_quiet(True, client.connection.can_read(0))


def _close(client: Client) -> None:
    client.close()
