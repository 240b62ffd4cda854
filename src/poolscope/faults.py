"""What can be said of an error, or of a wrong value, without its text: it may hold a secret."""

from __future__ import annotations

import re
import signal
import threading
import traceback
from collections.abc import Callable
from errno import ECONNREFUSED, ETIMEDOUT
from functools import partial
from types import CodeType
from typing import Any, TypeVar

from poolscope.reasons import ConnectFault

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

_AUTH_STATES = "28"
"""SQLSTATE class: invalid authorization specification (PostgreSQL documentation, appendix A)."""
_AUTH_ERRNOS = frozenset({1044, 1045, 1698, 3118})
"""MySQL and MariaDB: access denied, and account locked."""
_AUTH_WORDS = ("auth", "password", "accessdenied", "credential")
_TEXTS = {
    ConnectFault.AUTH: r"authentication failed|access denied|login failed|wrongpass|noauth"
    r"|no password supplied|no pg_hba\.conf entry|invalid username"
    r'|role "[^"]*" (does not exist|is not permitted to log in)',
    ConnectFault.REFUSED: rf"connection refused|err(no|or) {ECONNREFUSED}\b",
    ConnectFault.TIMEOUT: rf"timeout expired|timed out|err(no|or) {ETIMEDOUT}\b",
}
_PATTERNS = {fault: re.compile(text, re.IGNORECASE) for fault, text in _TEXTS.items()}
_HARMLESS = re.compile(r"[\w ./+-]{,20}")
"""A text that cannot be a DSN."""
_LONGEST_CHAIN = 20
"""Errors looked at: a chain may be a circle."""


def classify(error: BaseException) -> ConnectFault:
    """Tell what kind of failure an error of a factory is, whatever it is.

    Types and codes are looked at first, of the error and of what caused it; only then texts, since
    some drivers put everything into one type. A text is read here and kept nowhere.
    """
    chain = _chain(error)
    for judge in (_by_type, _by_text):
        for each in chain:
            if (fault := _judgement(judge, each)) is not None:
                return fault
    return ConnectFault.OTHER


def runs_handlers() -> bool:
    """Tell whether Python runs signal handlers in this thread: in the main thread alone it does."""
    return threading.current_thread() is threading.main_thread()


def is_interrupt(error: BaseException) -> bool:
    """Tell whether an error came up in this thread because a signal handler raised it."""
    return runs_handlers() and was_raised_by_handler(error)


def was_raised_by_handler(error: BaseException) -> bool:
    """Tell whether a signal handler raised an error, in whatever thread.

    `KeyboardInterrupt` counts as such wherever it was raised: Python's own leaves no trace.
    """
    if isinstance(error, KeyboardInterrupt):
        return True
    handlers = {_code(signal.getsignal(each)) for each in signal.valid_signals()}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _code(handler: Any) -> CodeType | None:
    """Return the code that runs when a handler is called, if it is written in Python."""
    while isinstance(handler, partial):
        handler = handler.func
    method = handler if hasattr(handler, "__code__") else type(handler).__call__
    code: CodeType | None = getattr(method, "__code__", None)
    return code


def where(error: BaseException) -> str:
    """Return what kind of error was raised, and where; not its text, which may hold a secret."""
    frames = traceback.extract_tb(error.__traceback__)
    places = "".join(f"\n  {f.filename}:{f.lineno} in {f.name}" for f in frames)
    return type(error).__name__ + places


def without_frames(error: E) -> E:
    """Note where an error was raised, and let go of the frames: they keep alive who is there."""
    error.add_note(where(error))
    for each in _chain(error):
        each.__traceback__ = None
    return error


def shown(value: object) -> str:
    """Return a wrong value as a message may repeat it: one that may be a DSN by its type alone."""
    kind = type(value)  # exactly, for subclasses print what they like
    if kind in (bool, int, float, type(None)) or (kind is str and _HARMLESS.fullmatch(str(value))):
        return repr(value)
    return f"a {kind.__name__}"


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and all that led to it, the nearest first."""
    chain = [error]
    for each in chain:  # which grows meanwhile
        if len(chain) >= _LONGEST_CHAIN:
            break
        chain += _judgement(_causes, each) or ()
    return chain[:_LONGEST_CHAIN]


def _causes(error: BaseException) -> list[BaseException]:
    """Return what an error was raised from, and the members of a group."""
    cause = error.__cause__
    if cause is None and not error.__suppress_context__:
        cause = error.__context__
    members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return [each for each in (cause, *members) if each is not None]


def _judgement(judge: Callable[[BaseException], T], error: BaseException) -> T | None:
    try:
        return judge(error)
    except BaseException:  # an error of somebody else's may not even print
        return None


def _by_type(error: BaseException) -> ConnectFault | None:
    code = error.args[0] if error.args and isinstance(error.args[0], int) else None
    os_code = code if isinstance(error, OSError) else None
    if isinstance(error, TimeoutError) or os_code == ETIMEDOUT:
        return ConnectFault.TIMEOUT
    if isinstance(error, ConnectionRefusedError) or os_code == ECONNREFUSED:
        return ConnectFault.REFUSED
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str) and state.startswith(_AUTH_STATES):
        return ConnectFault.AUTH
    name = type(error).__name__.lower()
    if code in _AUTH_ERRNOS or any(word in name for word in _AUTH_WORDS):
        return ConnectFault.AUTH
    return ConnectFault.TIMEOUT if "timeout" in name else None


def _by_text(error: BaseException) -> ConnectFault | None:
    text = str(error)
    return next((fault for fault, each in _PATTERNS.items() if each.search(text)), None)
