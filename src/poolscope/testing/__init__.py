"""What the tests of poolscope are made of, for the tests of its users as well."""

from poolscope.testing.laws import Replay
from poolscope.testing.ledger import FakeConnection, Ledger
from poolscope.testing.loop import DeadlockError, VirtualLoop, clock, run_virtual

__all__ = [
    "DeadlockError",
    "FakeConnection",
    "Ledger",
    "Replay",
    "VirtualLoop",
    "clock",
    "run_virtual",
]
