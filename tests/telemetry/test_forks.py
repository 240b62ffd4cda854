"""A forked child sends what is its own, as an instance of its own, and its parent goes on."""

import json
from collections import Counter
from typing import Any

import pytest

from tests.telemetry.endpoint import INSTANCE, RECEIVERS, Receiver
from tests.telemetry.faults import Proxy
from tests.telemetry.programs import run_program


def fork(*words: str, **variables: str) -> list[dict[str, Any]]:
    # Not STRICT: Python 3.12 warns of every fork beside threads.
    done = run_program("-m", "tests.telemetry.forked", *words, **variables)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def instances(receiver: Receiver) -> dict[int, str]:
    """Who sent the spans of each process: always the same instance."""
    found: dict[int, str] = {}
    for resource, span in receiver.spans():
        if span.name.startswith("request of "):
            pid = int(span.name.split()[-1])
            assert found.setdefault(pid, resource[INSTANCE]) == resource[INSTANCE]
    return found


@pytest.mark.parametrize("protocol", RECEIVERS)
@pytest.mark.parametrize("end", ["exit", "_exit"])
@pytest.mark.parametrize("moment", ["idle", "unsent"])
def test_each_process_sends_its_own_numbers_and_spans_once(
    moment: str, end: str, protocol: str
) -> None:
    with RECEIVERS[protocol]() as receiver:
        processes = fork(moment, end, protocol=protocol, endpoint=receiver.url)
    assert [process["counts"] for process in processes] == [[0, 0, 0, 0]] * 3
    by_process = instances(receiver)
    assert len(set(by_process.values())) == 3
    requests = {by_process[process["pid"]]: process["requests"] for process in processes}
    assert receiver.requests_by_instance() == requests
    spans = [span.span_id for _, span in receiver.spans()]
    assert len(spans) == len(set(spans))
    names = Counter(span.name for _, span in receiver.spans())
    assert names["pool.acquire"] == names["pool.use"] == sum(requests.values())
    for process in processes:
        assert names[f"request of {process['pid']}"] == process["requests"]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", RECEIVERS)
def test_a_child_sends_though_its_parent_was_about_to(protocol: str) -> None:
    with (
        RECEIVERS[protocol]() as receiver,
        RECEIVERS[protocol]() as silent,
        Proxy(silent, "hanging") as proxy,
    ):
        variables = {"protocol": protocol, "endpoint": proxy.url}
        processes = fork(
            "sending", "exit", receiver.url, **variables, OTEL_METRIC_EXPORT_INTERVAL="100"
        )
    by_process = instances(receiver)
    children = [process for process in processes if process["requests"] != 4]
    assert receiver.requests_by_instance() == {
        by_process[child["pid"]]: child["requests"] for child in children
    }
