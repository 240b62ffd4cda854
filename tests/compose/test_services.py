"""What docker-compose.yml says of each service."""

import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.util import find_spec

import pytest

from tests.compose.files import (
    PROBED,
    ROOT,
    TEXT,
    block,
    compose,
    environment,
    is_asked,
    mounts,
    raw_services,
    services,
    variables,
)

EACH = pytest.mark.parametrize("name", services())


def test_the_file_is_what_the_specification_of_compose_allows() -> None:
    if find_spec("check_jsonschema") is None and "CI" not in os.environ:
        pytest.skip("check-jsonschema is not installed")
    checking = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*checking, ROOT / "docker-compose.yml"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout


# Images


@EACH
def test_every_image_is_pinned_in_env_or_built_here(name: str) -> None:
    service = raw_services()[name]
    if "build" in service:
        assert service["build"]["dockerfile"] == "examples/Dockerfile"
        return
    variable = re.fullmatch(r"\$\{(\w+_IMAGE)\}", service["image"])
    assert variable is not None
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.-]*", environment()[variable[1]])


def test_env_has_images_alone_and_each_is_used() -> None:
    assert set(environment()) == {name for name, _ in variables() if name.endswith("_IMAGE")}


def test_the_versions_are_those_that_the_tests_run() -> None:
    recipe = (ROOT / "tools/stack_tools").read_text()
    manifest = (ROOT / "tools/stack/collector.yaml").read_text()
    built = dict(re.findall(r"^(prometheus|alertmanager)=([\d.]+)$", recipe, re.MULTILINE))
    built["collector"] = re.findall(r"^  version: (.+)$", manifest, re.MULTILINE)[0]
    images = environment()
    for name, version in built.items():
        assert images[f"{name.upper()}_IMAGE"].partition(":")[2].removeprefix("v") == version


# Variables


def test_every_variable_is_defined_or_has_a_default() -> None:
    given = environment()
    missing = {name for name, default in variables() if default is None and name not in given}
    assert missing == set()


def test_a_variable_has_the_same_default_everywhere() -> None:
    defaults: dict[str, set[str | None]] = {}
    for name, default in variables():
        defaults.setdefault(name, set()).add(default)
    assert {name: each for name, each in defaults.items() if len(each) > 1} == {}


def test_passwords_come_from_the_environment_alone() -> None:
    secret = re.compile(r"password|secret|token|key", re.IGNORECASE)
    for service in raw_services().values():
        for name, value in service.get("environment", {}).items():
            if secret.search(name):
                assert re.fullmatch(r"\$\{\w+:-\w+\}", value), name
            assert not re.search(r"://\w+:(?!\$\{)[^@/]+@", str(value)), name
    assert not [name for name in environment() if secret.search(name)]


# Health


@EACH
def test_every_service_has_a_health_check_or_says_why_not(name: str) -> None:
    if not is_asked(services()[name]):
        reason = r"# No healthcheck: .+|# .+\n    healthcheck: \{disable: true\}"
        assert re.search(reason, block(name)), f"{name} has no health check and says no reason"


@EACH
def test_what_a_service_waits_for_can_come_true(name: str) -> None:
    everything = services()
    for other, how in everything[name].get("depends_on", {}).items():
        target = everything[other]
        match how["condition"]:
            case "service_healthy":
                assert is_asked(target), f"{other} is never healthy"
            case "service_completed_successfully":
                assert target["restart"] == "no", f"{other} would be started again"
            case condition:
                assert condition == "service_started"
                assert not is_asked(target), f"wait for {other} to be healthy"


def test_no_service_waits_for_itself() -> None:
    waits = {name: set(each.get("depends_on", {})) for name, each in services().items()}
    assert set(TopologicalSorter(waits).static_order()) == set(waits)


def test_those_that_cannot_ask_themselves_are_asked_by_the_probe() -> None:
    everything = services()
    asked = " ".join(everything["probe"]["command"])
    unasked = {
        name
        for name, each in everything.items()
        if each.get("healthcheck") is None and not is_asked(each)
    }
    assert unasked == PROBED
    for name in PROBED:
        assert f"http://{name}:" in asked
        assert name in everything["probe"]["depends_on"]


def test_load_begins_when_all_can_be_seen() -> None:
    waits = services()["load"]["depends_on"]
    assert waits["probe"]["condition"] == "service_completed_successfully"
    assert {name for name in waits if name.startswith("orders-")} == {"orders-1", "orders-2"}


def test_a_service_does_not_wait_for_those_who_watch_it() -> None:
    waits = services()["orders-1"]["depends_on"]
    assert {name for name, how in waits.items() if how["condition"] != "service_started"} == {
        "postgres"
    }


# The machine


@EACH
def test_memory_and_logs_are_limited(name: str) -> None:
    service = services()[name]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service["logging"] == {
        "driver": "json-file",
        "options": {"max-size": "10m", "max-file": "3"},
    }
    assert service["restart"] in ("unless-stopped", "no")
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_collector_is_told_its_memory() -> None:
    collector = services()["otel-collector"]
    limit = int(collector["mem_limit"].removesuffix("m"))
    told = int(collector["environment"]["GOMEMLIMIT"].removesuffix("MiB"))
    assert 0.7 <= told / limit <= 0.8


def test_ports_are_of_this_machine_only_and_all_different() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports), ports
    published = [port.split(":")[1] for port in ports]
    assert len(set(published)) == len(published)


@EACH
def test_what_is_mounted_exists_and_is_read_only(name: str) -> None:
    declared = compose()["volumes"]
    for source, target, mode in mounts(services()[name]):
        assert target.startswith("/")
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert mode == "ro", source
        else:
            assert source in declared, source


def test_every_volume_is_used() -> None:
    used = {source for each in services().values() for source, *_ in mounts(each)}
    assert set(compose()["volumes"]) <= used


def test_nothing_of_the_machine_is_handed_in() -> None:
    for word in ("docker.sock", "network_mode: host", "pid: host", "privileged"):
        assert word not in TEXT
