"""The decisions of a pool: pure, in virtual time, without I/O, locks or user code."""
