"""The driver for threads: it does what the core decides, and decides nothing itself."""
