"""All servers of the stack, connected, and what happens among them."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import urlsplit

import asyncpg

from poolscope.testing.postgres import PostgresServer
from stack import configs
from stack.alertmanager import Alertmanager
from stack.collector import Collector, has
from stack.limits import told_limits
from stack.prometheus import Prometheus
from stack.server import Server, ServerError
from stack.services import ROOT, Load, Replica, Said
from stack.traces import Traces
from stack.webhook import Told, Webhook

DATABASE = "shop"
MOST_CONNECTIONS = 30
"""That the database takes; few, so that one sees it fill."""
PUSHED = "shop/orders"
"""The job of what comes by OTLP."""
SCRAPED = "shop/orders-scraped"
"""The job of the same, asked for at /metrics: two jobs, or all would count twice."""
ENVIRONMENT = "local"

S = TypeVar("S", bound=Server)

Say = Callable[[str, str], None]
"""Tells what happens: who says it, and what."""


class Stack:
    """Two replicas of a service, their database, their load, and all that watches them.

    Everything is closed with it, also where the beginning fails. For one thread at a time.
    """

    def __init__(self, scenario: str, speed: float, say: Say, *, repeat: bool = False) -> None:
        self.speed = speed
        self.said: list[Said] = []
        """What the load said of its phases."""
        self._say = say
        self._scenario = scenario
        self._repeat = repeat

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._servers())
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def live(self, seconds: float | None = None) -> None:
        """Tell what happens until the load ends, or for so many seconds.

        Raises:
            ServerError: one of the servers has ended by itself.
        """
        deadline = time.monotonic() + seconds if seconds is not None else float("inf")
        while self.load.is_running and time.monotonic() < deadline:
            self._step()
            time.sleep(0.1)
        self._step()

    def _step(self) -> None:
        for said in self.load.hear():
            self.said.append(said)
            self._say("load", f"{said.phase} {said.event}{said.rest}")
            if (said.phase, said.event) == ("restart", "begins"):
                self._restart(self.replicas[-1])
        for server in self._watched:
            if not server.is_running:
                raise ServerError(f"{server.name} has ended; its last words:\n{server.log[-2000:]}")

    def _restart(self, replica: Replica) -> None:
        self._say("stack", f"restarting {replica.name}")
        replica.stop()
        replica.start()
        self._say("stack", f"{replica.name} is back")

    @contextmanager
    def _servers(self) -> Iterator[None]:
        with ExitStack() as stack:
            self._stack = stack
            self.traces = stack.enter_context(Traces())
            self.webhook = stack.enter_context(Webhook(self._hear_alert))
            self.postgres = stack.enter_context(_database())
            self._make()
            for server in self._watched:
                server.start()
            if not has(find("collector"), "postgresql"):
                stack.enter_context(self._told_limits())
            self.load.start()
            yield
            # What they have not sent yet still arrives.
            for server in (self.load, *self.replicas):
                server.stop()

    def _make(self) -> None:
        """Make the servers, whose addresses are then known to each other."""
        self.prometheus = self._own(Prometheus(find("prometheus"), speed=self.speed))
        receivers = {
            "PROMETHEUS": f"{self.prometheus.url}/api/v1/otlp",
            "TRACES": self.traces.endpoint,
        }
        monitored = self._database_url("postgres", "monitor")
        collector = Collector(find("collector"), receivers, self.speed, monitored)
        self.collector = self._own(collector)
        told = {"webhook-sink:8080": self.webhook.address}
        self.alertmanager = self._own(
            Alertmanager(find("alertmanager"), configs.alertmanager(told, self.speed))
        )
        service = self._service()
        self.replicas = [self._own(Replica(number, service)) for number in (1, 2)]
        self.load = self._own(Load(self._scenario, self._loading(), repeat=self._repeat))
        self.prometheus.files |= self._scraping()
        self._watched = [self.collector, self.alertmanager, self.prometheus, *self.replicas]

    def _told_limits(self) -> AbstractContextManager[None]:
        url = self._database_url("postgres", "monitor")
        return told_limits(url, self.collector.http_endpoint, max(1, 10 / self.speed))

    def _own(self, server: S) -> S:
        self._stack.callback(server.close)
        return server

    def _service(self) -> dict[str, str]:
        identity = {
            "service.namespace": "shop",
            "deployment.environment.name": ENVIRONMENT,
            "server.address": "127.0.0.1",
        }
        return {
            "DATABASE_URL": self._database_url(DATABASE, "shop"),
            "POOL_SIZE": "10",
            "POOL_TIMEOUT": "2",
            "LEAK_THRESHOLD": "5",
            "OTEL_SERVICE_NAME": "orders",
            "OTEL_RESOURCE_ATTRIBUTES": ",".join(f"{k}={v}" for k, v in identity.items()),
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector.grpc_endpoint,
            # As often as they are scraped, and soon enough for windows of seconds.
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
            "OTEL_BSP_SCHEDULE_DELAY": "500",
        }

    def _loading(self) -> dict[str, str]:
        return {
            "TARGETS": ",".join(replica.url for replica in self.replicas),
            "POOLSCOPE_SPEED": f"{self.speed:g}",
            "DATABASE_ADMIN_URL": self._database_url("postgres"),
            "DATABASE_NAME": DATABASE,
        }

    def _scraping(self) -> dict[str, str]:
        addresses = {
            "localhost:9090": self.prometheus.address,
            "alertmanager:9093": self.alertmanager.address,
            "otel-collector:8888": self.collector.metrics_address,
        }
        labels = {"job": SCRAPED, "deployment_environment_name": ENVIRONMENT}
        scraped = {each.address: labels | {"instance": each.name} for each in self.replicas}
        return configs.prometheus(addresses, scraped, self.speed)

    def _database_url(self, database: str, user: str = "") -> str:
        parts = urlsplit(self.postgres.url)
        who = f"{user}:{parts.password}@" if user else f"{parts.username}:{parts.password}@"
        return f"postgresql://{who}{parts.hostname}:{parts.port}/{database}"

    def _hear_alert(self, told: Told) -> None:
        self._say("alert", str(told))


def find(name: str) -> Path:
    """Find a binary of `make stack-tools`.

    Raises:
        ServerError: it has not been built.
    """
    # An absolute path replaces what it is joined to.
    path = ROOT / (os.environ.get("POOLSCOPE_TOOLS") or ".tools") / name
    if not path.is_file():
        raise ServerError(f"{name} is not in {path.parent}; build it with: make stack-tools")
    return path


@contextmanager
def _database() -> Iterator[PostgresServer]:
    """A PostgreSQL with the roles and the database that examples/postgres.sql makes as well."""

    async def create() -> None:
        connection = await asyncpg.connect(server.url)
        password = urlsplit(server.url).password
        await connection.execute(f"create role shop login password '{password}'")
        await connection.execute(f"create role monitor login password '{password}'")
        await connection.execute("grant pg_monitor to monitor")
        await connection.execute(f"create database {DATABASE} owner shop")
        await connection.close()

    with PostgresServer(max_connections=MOST_CONNECTIONS) as server:
        asyncio.run(create())
        yield server
