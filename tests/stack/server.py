"""Servers of `stack/` whose log is shown where a test fails."""

from stack.server import Server, ServerError, answers, free_ports, get

__all__ = ["Server", "ServerError", "Shown", "answers", "free_ports", "get"]


class Shown(Server):
    """Prints at the end what the log says, which pytest shows for tests that fail."""

    def close(self) -> None:
        print(f"--- log of {self.name} ---\n{self.log}")
        super().close()
