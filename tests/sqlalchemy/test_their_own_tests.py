"""SQLAlchemy's own tests of QueuePool are run on ours. They are fetched, and not kept here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sdists import source_of

NO_EMPTY_RECORDS = (
    "A QueuePool keeps the record of a connection that was closed, and counts it as idle; of ours "
    "nothing is left, and the next request makes another."
)
AT_ONCE = "Idle connections that are given up are closed at once, and not at their next checkout."
# What cannot hold, by test: the rest must.
EXCEPTIONS = {
    "test_pool.py::QueuePoolTest::test_connrec_invalidated_within_checkout_no_race": (
        "It replaces a private method that ours does not call."
    ),
    "test_pool.py::QueuePoolTest::test_dispose_closes_pooled": (
        "A connection that is out at dispose() is closed when it comes back, as the documentation "
        "of Engine.dispose() wants it; the test shows that a QueuePool keeps it."
    ),
    "test_pool.py::QueuePoolTest::test_fifo": (
        "Of idle connections the last used is reused first, always: then the others can go."
    ),
    "test_pool.py::QueuePoolTest::test_invalidate_close_interrupted": NO_EMPTY_RECORDS,
    "test_pool.py::QueuePoolTest::test_invalidate_interrupted_before_close": NO_EMPTY_RECORDS,
    "test_pool.py::QueuePoolTest::test_recycle": (
        "It sets the wall clock forward; lifetimes are measured by one that cannot be set."
    ),
    "test_pool.py::QueuePoolTest::test_recycle_on_soft_invalidate": NO_EMPTY_RECORDS,
    "test_pool.py::QueuePoolTest::test_reset_interrupted_detaches_fairy": NO_EMPTY_RECORDS,
    "test_reconnect.py::MockReconnectTest::test_reconnect": AT_ONCE,
    "test_reconnect.py::PrePingMockTest::test_ping_not_on_reconnect": NO_EMPTY_RECORDS,
}
ASYNC_EXCEPTIONS = {
    "test_reconnect.py::MockReconnectTest::test_reconnect": AT_ONCE,
    "test_reconnect.py::PrePingMockTest::test_ping_not_on_reconnect": NO_EMPTY_RECORDS,
    "test_reconnect.py::CursorErrTest::test_cursor_shutdown_in_initialize": (
        "It uses the pool for threads on a running event loop, counts warnings, and ours warns."
    ),
    "test_reconnect.py::RecycleTest::test_basic": (
        "It sets the private `_recycle` of a pool that is open."
    ),
}


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Run some of their tests, with the SQLAlchemy that is installed, and our pools in it."""
    options = ["-p", "substitute", "-p", "no:cacheprovider", "-o", "addopts=", "-q", "--tb=short"]
    return subprocess.Popen(
        [sys.executable, "-s", "-m", "pytest", *options, "--maxfail=99", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent / "plugin")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def failures(run: "subprocess.Popen[str]") -> tuple[set[str], str]:
    output, _ = run.communicate(timeout=200)
    assert re.search(r"^\d+ failed, \d+ passed", output, re.M), output
    found = re.findall(r"^(?:FAILED|ERROR) test/\w+/(\S+)", output, re.M)
    return {re.sub(r"_sqlite\+aiosqlite_\w+(?=::)", "", name) for name in found}, output


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_their_tests_of_queue_pool_hold_for_ours(tmp_path: Path) -> None:
    their_tests = source_of("sqlalchemy", "sqlalchemy")
    pool, reconnect = "test/engine/test_pool.py", "test/engine/test_reconnect.py"
    url = f"sqlite+aiosqlite:///{tmp_path}/their.db"
    slow = "race or hanging or notify"  # which sleep for half of the time
    runs = [
        start(their_tests, pool, "-k", slow),
        start(their_tests, pool, "-k", f"not ({slow})"),
        start(their_tests, reconnect, "test/engine/test_logging.py"),
        start(their_tests, "--dburi", url, "test/ext/asyncio", reconnect),
    ]
    ends = [failures(run) for run in runs]
    output = "".join(text for _, text in ends)
    assert set().union(*(found for found, _ in ends[:-1])) == EXCEPTIONS.keys(), output
    assert ends[-1][0] == ASYNC_EXCEPTIONS.keys(), output
    passed = map(int, re.findall(r"failed, (\d+) passed", output))
    assert sum(passed) > 500
