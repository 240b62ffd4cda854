"""Wait until pages answer, for containers whose images have no shell to ask with.

    python -m examples.ready http://otel-collector:13133 http://tempo:3200/ready

With `--once` it only looks, as a health check does.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from http.client import HTTPException
from urllib.request import ProxyHandler, build_opener

_open = build_opener(ProxyHandler({})).open


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 once every page has answered with success, 1 if the time is over."""
    parser = argparse.ArgumentParser(prog="python -m examples.ready", description=__doc__)
    parser.add_argument("urls", nargs="+", metavar="URL")
    parser.add_argument("--seconds", type=float, default=120, help="how long to wait (120)")
    parser.add_argument("--once", action="store_true", help="do not wait")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + (0 if options.once else options.seconds)
    missing = _silent(options.urls)
    while missing and time.monotonic() < deadline:
        time.sleep(0.5)
        missing = _silent(missing)
    for url in missing:
        print(f"no success from {url}", file=sys.stderr)
    return 1 if missing else 0


def _silent(urls: Iterable[str]) -> list[str]:
    return [url for url in urls if not _answers(url)]


def _answers(url: str) -> bool:
    try:
        with _open(url, timeout=4):
            return True
    except (OSError, HTTPException):
        return False


if __name__ == "__main__":
    sys.exit(main())
