from tests.stack.conftest import collector_binary, prometheus_binary

__all__ = ["collector_binary", "prometheus_binary"]
