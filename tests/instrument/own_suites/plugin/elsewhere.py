"""A plugin for the test runs of redis-py and valkey-py: the server is a Redis at any port."""

from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--default-port", type=int, help="what their tests of pools mean by none")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    for conftest in session.config.pluginmanager.get_plugins():
        if hasattr(conftest, "default_valkey_url"):
            ask = conftest._get_info
            conftest._get_info = lambda url, ask=ask: as_valkey(ask(url))


def as_valkey(info: dict[str, Any]) -> dict[str, Any]:
    """Give the version under the name that a Valkey has for it."""
    return {"valkey_version": info["redis_version"], **info}


def pytest_runtest_setup(item: Any) -> None:
    if "test_asyncio" in item.nodeid and "::TestConnectionPool::" in item.nodeid:
        # The only ones with a server that name no port, and so mean 6379.
        defaults = item.module.Connection.__init__.__kwdefaults__
        item.usual_port = defaults["port"]
        defaults["port"] = item.config.option.default_port


def pytest_runtest_teardown(item: Any) -> None:
    if hasattr(item, "usual_port"):
        item.module.Connection.__init__.__kwdefaults__["port"] = item.usual_port
