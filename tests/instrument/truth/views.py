"""What a real server shows of the connections of one pool, and how it ends them."""

from abc import ABC, abstractmethod
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg
import pymysql
import redis

from poolscope.testing.server import PrivateServer

HELD = "held"
"""What a connection bears at the server while a caller holds it."""


class View(ABC):
    """Asks a server by a connection of its own. Its pool's connections bear `tag` there."""

    server: str
    """The fixture of it."""
    mark: str
    """What a caller sends to show that it holds a connection; it is answered by its number."""
    unmark: str
    """What it sends before it gives it back."""
    nap: str
    """What takes the server a moment."""

    def __init__(self, server: PrivateServer, tag: str) -> None:
        self.url = server.url
        self.place = urlsplit(server.url)
        self.tag = tag
        self.asking = self.connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.asking.close()

    @abstractmethod
    def connect(self) -> Any: ...

    @abstractmethod
    def seen(self) -> dict[int, bool]:
        """Return the numbers of the pool's connections, and whether a caller shows to hold it."""

    @abstractmethod
    def kill(self, number: int) -> None: ...


class PostgresView(View):
    """By application name, and by the query that was the last."""

    server = "postgres"
    mark = f"select pg_backend_pid() as {HELD}"
    unmark = "select 'free'"
    nap = "select pg_sleep({:.4f})"

    def connect(self) -> Any:
        return psycopg.connect(self.url, autocommit=True)

    def seen(self) -> dict[int, bool]:
        rows = self.asking.execute(
            "select pid, query like %s from pg_stat_activity where application_name = %s",
            [f"%as {HELD}%", self.tag],
        )
        return dict(rows.fetchall())

    def kill(self, number: int) -> None:
        self.asking.execute("select pg_terminate_backend(%s)", [number])


class MariadbView(View):
    """By database, and by a lock that the caller has."""

    server = "mariadb_server"
    mark = f"select connection_id(), get_lock(concat('{HELD}', connection_id()), 0)"
    unmark = "select release_all_locks()"
    nap = "select sleep({:.4f})"

    def connect(self) -> Any:
        access: dict[str, Any] = {"user": self.place.username, "password": self.place.password}
        port = self.place.port or 0
        asking = pymysql.connect(host="127.0.0.1", port=port, **access, autocommit=True)
        with asking.cursor() as cursor:
            cursor.execute(f"create database if not exists `{self.tag}`")
        return asking

    def seen(self) -> dict[int, bool]:
        with self.asking.cursor() as cursor:
            cursor.execute(
                "select id, is_used_lock(concat(%s, id)) is not null"
                " from information_schema.processlist where db = %s",
                [HELD, self.tag],
            )
            return {number: bool(held) for number, held in cursor.fetchall()}

    def kill(self, number: int) -> None:
        with self.asking.cursor() as cursor:
            try:
                cursor.execute("kill %s", [number])
            except pymysql.MySQLError as error:
                if error.args[0] != 1094:  # it is gone already
                    raise


class RedisView(View):
    """By name, which a caller changes while it holds a connection."""

    server = "redis_server"
    mark, unmark = HELD, "free"
    nap = "blpop truth {:.4f}"

    def connect(self) -> Any:
        return redis.Redis.from_url(self.url, single_connection_client=True, retry=None)

    def seen(self) -> dict[int, bool]:
        names = {self.tag: False, f"{self.tag}-{HELD}": True}
        rows = self.asking.client_list(_type="normal")
        return {int(row["id"]): names[row["name"]] for row in rows if row["name"] in names}

    def kill(self, number: int) -> None:
        self.asking.client_kill_filter(_id=str(number))
