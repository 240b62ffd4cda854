"""The whole of it on one machine, without Docker: `python -m stack`."""
