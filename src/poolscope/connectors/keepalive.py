"""How soon a server that is gone without a word is noticed."""

LIBPQ = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""Seconds of silence, seconds between questions, and questions: a minute, in libpq's words."""
