"""A plugin for the test runs of redis-py and valkey-py: the server is a Redis at any port.

Where their tests of pools for asyncio name no port, they mean that of `--default-port`.
"""

from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--default-port", type=int)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    conftests = session.config.pluginmanager.get_plugins()
    valkey_conftest = next((c for c in conftests if hasattr(c, "default_valkey_url")), None)
    if valkey_conftest is not None:
        from valkey.asyncio import Connection

        ask = valkey_conftest._get_info
        valkey_conftest._get_info = lambda url: as_valkey(ask(url))
    else:
        from redis.asyncio import Connection
    Connection.__init__.__kwdefaults__["port"] = session.config.option.default_port


def as_valkey(info: dict[str, Any]) -> dict[str, Any]:
    """Give the version under the name that a Valkey has for it."""
    return {"valkey_version": info["redis_version"], **info}
