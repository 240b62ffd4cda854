"""Measure poolscope beside other pools: `python -m benchmarks`, or `make bench`."""
