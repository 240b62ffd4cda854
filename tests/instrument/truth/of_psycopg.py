"""psycopg_pool, for threads and for asyncio, with and without connections that stay."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import psycopg
import psycopg_pool

from tests.instrument.truth.subjects import SIZE, Subject
from tests.instrument.truth.views import PostgresView


class Psycopg(Subject):
    library = "psycopg"
    view = PostgresView
    trouble = (psycopg.Error, psycopg_pool.PoolTimeout, psycopg_pool.TooManyRequests)
    expected = Subject.expected | {"PoolTimeout", "TooManyRequests", "disturbed", "closed"}
    kind: Any = psycopg_pool.ConnectionPool
    sizes: ClassVar[dict[str, Any]] = {"min_size": 1, "max_size": SIZE, "max_idle": 0.3}

    def open(self) -> Any:
        self.farewells = {"closed": lambda connection: connection.close()}
        self.pool = self.kind(
            self.server.url,
            kwargs={"application_name": self.server.tag},
            open=False,
            max_waiting=2,
            max_lifetime=1.5,
            num_workers=2,
            **self.sizes,
        )
        return self.pool.open()

    def lease(self, patience: float) -> AbstractContextManager[Any]:
        return self.pool.connection(patience)  # type: ignore[no-any-return]

    def ask(self, connection: Any, text: str) -> Any:
        return connection.execute(text).fetchone()[0]

    def disturb(self) -> Any:
        return self.random.choice(self.deeds())()

    def deeds(self) -> list[Callable[[], Any]]:
        # Its least number stays, because whenever that rises it opens more than the most.
        most = self.random.randint(2, SIZE)
        return [self.pool.drain, self.pool.check, lambda: self.pool.resize(1, most)]

    def close(self) -> Any:
        return self.pool.close()


class PsycopgNull(Psycopg):
    expected = Psycopg.expected - {"idle"}
    kind = psycopg_pool.NullConnectionPool
    sizes: ClassVar[dict[str, Any]] = {"min_size": 0, "max_size": SIZE}

    def deeds(self) -> list[Callable[[], Any]]:
        return [lambda: self.pool.resize(0, self.random.randint(2, SIZE))]


class PsycopgInLoop(Psycopg):
    bears_all = False
    kind = psycopg_pool.AsyncConnectionPool
    in_loop = True
    expected = Psycopg.expected | {"CancelledError"}

    async def ask(self, connection: Any, text: str) -> Any:
        return (await (await connection.execute(text)).fetchone())[0]


class PsycopgNullInLoop(PsycopgNull, PsycopgInLoop):
    expected = PsycopgInLoop.expected - {"idle"}
    kind = psycopg_pool.AsyncNullConnectionPool
