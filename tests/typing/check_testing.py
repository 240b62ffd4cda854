"""Read by mypy alone: what a type checker must see."""

from typing import assert_type

from poolscope.testing.postgres import PostgresServer


def a_server_is_its_own_context(server: PostgresServer) -> None:
    with server as entered:
        assert_type(entered, PostgresServer)
        assert_type(entered.dsn, str)
