"""A program whose main thread is interrupted all the time: `interrupted.py VARIANT SECONDS SEED`.

See test_interrupts. The signal comes every 200 us or so; its handler raises. The program ends
with status 0 if nothing was lost, and prints what it did as a line of JSON.
"""

import _thread
import gc
import json
import logging
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from poolscope import ConnectionPoolSettings, SyncConnectionPool
from poolscope.errors import PoolError
from poolscope.functions import prompt
from tests.threads.real import Connection, RealLedger, Recorder, check_metrics, until

PERIOD = 200e-6


class TimeIsUp(Exception):
    """What celery and rq raise in a handler."""


# Who is struck in the first step of giving back loses the connection: it is closed, with a word.
logging.getLogger("poolscope").setLevel(logging.ERROR)

raised = 0
struck = 0
came_out = 0
quiet = True
"""The handler does not raise: the books are being checked."""
swallowed: list[Any] = []
program: "Program"


def count_and_raise(kind: type[BaseException], *_: Any) -> None:
    global raised
    if quiet:
        return
    raised += 1
    raise kind


def by_exception(signum: int, frame: Any) -> None:
    count_and_raise(TimeIsUp)


def by_interrupt(signum: int, frame: Any) -> None:
    count_and_raise(KeyboardInterrupt)


def by_sigint(signum: int, frame: Any) -> None:
    """Have Python's own handler raise, which leaves no trace."""
    global raised
    if not quiet:
        raised += 1
        _thread.interrupt_main()


class Limit:
    """A handler that is no function."""

    def __call__(self, signum: int, frame: Any) -> None:
        count_and_raise(TimeIsUp)


answers: Counter[str] = Counter()
busy = False


def use_the_pool(signum: int, frame: Any) -> None:
    """Do what handlers better leave to others: it succeeds, or says why it does not."""
    global busy, raised
    if quiet or busy:
        return
    busy = True
    raised += 1
    pool = program.pool
    try:
        assert pool.stats().max_size == 3
        assert pool.get_metrics().to_dict()["max_connections"] == 3
        repr(pool)
        with pool.connection(0.0005 * (raised % 2)) as connection:
            connection.use()
        connection = pool.acquire(0.0)
        pool.release(connection)
        answers["success"] += 1
    except PoolError as error:
        answers[type(error).__name__] += 1
    finally:
        busy = False


HANDLERS: dict[str, Any] = {
    "exception": by_exception,
    "keyboard": by_interrupt,
    "sigint": by_sigint,
    "partial": partial(count_and_raise, TimeIsUp),
    "object": Limit(),
    "user": use_the_pool,
}
MODES = ("plain", "careful", "prompt", "inline", "crowded")


class StruckLedger(RealLedger):
    """Its factory is interrupted, too: what it wrote down before it is never more than it did."""

    def open(self) -> Connection:
        self._step("open")
        connection = Connection(self)
        self._enter(connection)
        return connection


class Program:
    def __init__(self, mode: str, seed: int) -> None:
        self.mode = mode
        self.random = random.Random(seed)
        self.ledger = StruckLedger(tolerant=True)
        careful = mode in ("careful", "prompt")
        mark: Callable[[Any], Any] = prompt() if mode == "prompt" else lambda f: f
        ledger = self.ledger
        self.ending = threading.Event()
        self.pool: SyncConnectionPool[Connection] = SyncConnectionPool(
            ledger.open,
            ConnectionPoolSettings(
                min_size=0, max_size=3, max_lifetime=0.05, name="struck", retry_delay=0.001,
                connect_timeout=1,
                validate_timeout=1,
                close_timeout=1,
            ),
            mark(lambda c: ledger.validate(c)) if careful else None,
            ledger.close,
            reset_func=mark(lambda c: ledger.reset(c)) if careful else None,
            connect_inline=mode == "inline",
        )  # fmt: skip
        self.recorder = Recorder(self.pool)
        self.pool.bus.subscribe(lambda event: sum(range(20)))
        self.done: Counter[str] = Counter()

    # What the main thread does, again and again

    def borrow(self) -> None:
        with self.pool.connection() as connection:
            connection.use()

    def borrow_for_long(self) -> None:
        with self.pool.connection() as connection:
            connection.use(lambda: time.sleep(0.0005))

    def borrow_by_hand(self) -> None:
        held: list[Connection] = []
        try:
            # In one step: nobody but us can lose it from here on.
            held.append(self.pool.acquire())
            held[0].use()
        finally:
            global quiet
            quiet = True  # whoever gives back by hand has to see to it that this is reached
            try:
                if held:
                    self.pool.release(held[0])
            finally:
                quiet = False

    def fail(self) -> None:
        with self.pool.connection():
            raise ConnectionResetError

    def renew(self) -> None:
        self.pool.drain()

    def hold_all(self) -> None:
        with self.pool.connection(), self.pool.connection(0.002):
            pass

    def do_something(self) -> None:
        deeds = [self.borrow, self.borrow, self.borrow, self.borrow_for_long, self.borrow_by_hand,
                 self.fail, self.renew, self.hold_all]  # fmt: skip
        deed = self.random.choice(deeds)
        self.done[deed.__name__] += 1
        deed()

    # What others do meanwhile

    def compete(self) -> None:
        while not self.ending.is_set():
            try:
                with self.pool.connection() as connection:
                    connection.use(lambda: time.sleep(0.0003))
            except PoolError:
                pass
            time.sleep(0.0002)

    def go(self, seconds: float) -> None:
        global came_out, quiet, struck
        crowd = 4 if self.mode == "crowded" else 1
        others = [threading.Thread(target=self.compete, daemon=True) for _ in range(crowd)]
        for thread in others:
            thread.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            before, came = raised, False
            try:
                quiet = False
                self.do_something()
            except (KeyboardInterrupt, TimeIsUp):
                quiet = came = True
            except (PoolError, ConnectionError):
                pass
            quiet = True
            # Several may strike before one comes out, and one while another error is on its way.
            struck += raised > before
            came_out += came
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.ending.set()
        for thread in others:
            thread.join(10)
            assert not thread.is_alive(), "a thread hangs"

    def check(self) -> None:
        gc.collect()
        pool = self.pool
        until(lambda: pool.stats().in_use == 0 and pool.stats().waiting == 0)
        leases = [pool.connection(5) for _ in range(3)]
        for lease in leases:
            lease.__enter__().use()
        assert pool.stats().in_use == 3
        for lease in leases:
            lease.__exit__(None, None, None)
        pool.close()
        until(lambda: not threading.enumerate()[1:])
        replay = self.recorder.check(pool.stats())
        check_metrics(pool, replay)
        self.ledger.audit()
        assert pool.bus.failures == 0


def main(name: str, mode: str, seconds: float, seed: int) -> None:
    sys.setswitchinterval(1e-4)
    sys.unraisablehook = swallowed.append
    signal.signal(signal.SIGALRM, HANDLERS[name])
    global program
    program = Program(mode, seed)
    signal.setitimer(signal.ITIMER_REAL, PERIOD, PERIOD)
    program.go(seconds)
    program.check()
    lost = [str(each.object) for each in swallowed]
    report = {"raised": raised, "struck": struck, "came_out": came_out, "swallowed": lost}
    report |= {"answers": answers, "done": program.done}
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
