"""Sending what is left from processes that end without running exit handlers.

Children of `multiprocessing` that were forked do that, and the workers of Celery.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import ExitStack
from threading import Thread
from typing import Any

from poolscope.instrument.imports import IMPORTS
from poolscope.telemetry.setup import PATIENCE

_CELERY, _MULTIPROCESSING = "celery.signals", "multiprocessing.util"


class Leaving:
    """Has providers send what they have when such a process ends, until `close()`."""

    def __init__(self, providers: Iterable[Any]) -> None:
        """Ask to be told of the end; nothing is imported for that."""
        self._providers = [each for each in providers if hasattr(each, "force_flush")]
        self._ends = ExitStack()
        IMPORTS.when(_CELERY, self._ask_celery)
        IMPORTS.when(_MULTIPROCESSING, self._ask_multiprocessing)

    def close(self) -> None:
        """Do nothing at the end."""
        IMPORTS.forget(_CELERY)
        IMPORTS.forget(_MULTIPROCESSING)
        self._providers = []
        self._ends.close()

    def send(self, **_: Any) -> None:
        """Send what is there. A process ends in time though the endpoint hangs."""
        thread = Thread(target=self._flush, name="poolscope-leaving", daemon=True)
        thread.start()
        thread.join(PATIENCE)

    def _flush(self) -> None:
        for provider in self._providers:
            provider.force_flush(int(PATIENCE * 1000))

    def _ask_celery(self) -> None:
        ending = sys.modules[_CELERY].worker_process_shutdown
        ending.connect(self.send, weak=False)
        self._ends.callback(ending.disconnect, self.send)

    def _ask_multiprocessing(self) -> None:
        # Forgotten with us, for it is held weakly.
        sys.modules[_MULTIPROCESSING].register_after_fork(self, _in_child)


def _in_child(leaving: Leaving) -> None:
    sys.modules[_MULTIPROCESSING].Finalize(None, leaving.send, exitpriority=0)
