"""`python -m stack`: run a service with its load and all that watches it, and tell what happens."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence

from examples.load import SCENARIOS
from stack.server import ServerError
from stack.topology import Stack


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until the scenario or the time is over or a signal comes; leave nothing behind."""
    options = _options(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        say("stack", "starting the servers")
        with Stack(options.scenario, options.speed, say, repeat=options.keep) as stack:
            _introduce(stack)
            stack.live(options.seconds)
            say("stack", "ending the servers")
    except ServerError as error:
        sys.exit(f"stack: {error}")


def say(who: str, what: str) -> None:
    """Print a line of what happens."""
    # In one piece, for alerts come by other threads.
    sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {who:<6} {what}\n")
    sys.stdout.flush()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stack", description=__doc__)
    parser.add_argument("--scenario", choices=SCENARIOS, default="day")
    parser.add_argument(
        "--speed", type=float, default=30, help="how many times faster than usual time goes by"
    )
    parser.add_argument("--seconds", type=float, help="end after these")
    parser.add_argument("--keep", action="store_true", help="repeat the scenario until Ctrl-C")
    return parser.parse_args(arguments)


def _introduce(stack: Stack) -> None:
    addresses = {
        "Prometheus": stack.prometheus.url,
        "Alertmanager": stack.alertmanager.url,
        "Collector, OTLP by gRPC": stack.collector.grpc_endpoint,
        "Collector, OTLP by HTTP": stack.collector.http_endpoint,
        "Traces by their id": f"http://{stack.traces.address}/api/traces/…",
    }
    addresses |= {replica.name: f"{replica.url}/metrics" for replica in stack.replicas}
    for name, address in addresses.items():
        say("stack", f"{name:<24} {address}")


def _leave(*_: object) -> None:
    """End in order, and be disturbed no more."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(0)


if __name__ == "__main__":
    main()
