"""Pools of other libraries, made to speak as ours do: all of them, or one."""

from poolscope.instrument.source import ForeignPool
from poolscope.instrument.switch import instrument, observe, uninstrument

__all__ = ["ForeignPool", "instrument", "observe", "uninstrument"]
