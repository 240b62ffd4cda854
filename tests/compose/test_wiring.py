"""Whether the services and their configurations name each other rightly."""

import json
import re
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import pytest

from examples.load import SCENARIOS
from poolscope.telemetry import catalog
from tests.compose.files import ROOT, TEXT, mounts, raw_services, services, yaml_at

LISTENS = {
    "postgres": {5432},
    "orders-1": {8000},
    "orders-2": {8000},
    "otel-collector": {4317, 4318, 8888, 13133},
    "prometheus": {9090},
    "alertmanager": {9093},
    "webhook-sink": {8080},
    "tempo": {3200, 4317},
    "grafana": {3000},
}
CONFIGURATIONS = [
    "grafana/prometheus/prometheus.yaml",
    "grafana/alertmanager/alertmanager.yaml",
    "grafana/provisioning/datasources/datasources.yaml",
    "grafana/tempo/tempo.yaml",
    "otel-collector/config.yaml",
    "otel-collector/config.postgresql.yaml",
]
PLACE = re.compile(r"(?<![\w.-])([a-z][\w-]*(?:\.[\w-]+)*):(\d{4,5})(?!\d)")
OURSELVES = {"localhost"}
VARIABLE = re.compile(r"\$\{env:(\w+)(?::-([^}]*))?\}")
"""Of the Collector's configurations."""


def without_comments(text: str) -> str:
    return re.sub(r"(^|\s)#.*", "", text)


def texts(value: Any) -> list[str]:
    """All texts of a document, without its keys, and with the defaults of variables."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in texts(each)]
    return [VARIABLE.sub(lambda match: match[2] or "", str(value))]


def places() -> list[tuple[str, str, int]]:
    """Where somebody looks for a service, its name and its port."""
    found = [(path, text) for path in CONFIGURATIONS for text in texts(yaml_at(path))]
    for name, service in services().items():
        said = texts([service.get("environment", {}), service.get("command", [])])
        found += [(name, text) for text in said]
    return [
        (where, match[1], int(match[2])) for where, text in found for match in PLACE.finditer(text)
    ]


def test_whoever_names_another_names_a_service_and_its_port() -> None:
    wrong = [
        place
        for place in places()
        if place[1] not in OURSELVES and place[2] not in LISTENS.get(place[1], set())
    ]
    assert wrong == []
    assert {name for _, name, _ in places()} >= set(LISTENS) - {"grafana"}


def test_published_ports_are_those_that_are_listened_on() -> None:
    for name, service in services().items():
        for port in service.get("ports", []):
            assert int(port.rpartition(":")[2]) in LISTENS[name]


@pytest.mark.parametrize("name", services())
def test_each_service_listens_where_it_asks_itself(name: str) -> None:
    service = services()[name]
    for url in texts(service.get("healthcheck", {})):
        if match := re.search(r"127\.0\.0\.1:(\d+)", url):
            assert int(match[1]) in LISTENS[name]
    for option, value in pairwise(service.get("command", [])):
        if option == "--port":
            assert int(value) in LISTENS[name]


@pytest.mark.parametrize("name", services())
def test_configurations_that_a_command_names_are_mounted(name: str) -> None:
    service = services()[name]
    for argument in service.get("command", []):
        if match := re.search(r"-config[.=](?:file=)?(/\S+)", argument):
            path = PurePosixPath(match[1])
            (source,) = [
                source for source, target, _ in mounts(service) if path.is_relative_to(target)
            ]
            assert (ROOT / source / path.name).is_file()


def test_the_rules_are_where_prometheus_looks_for_them() -> None:
    (pattern,) = yaml_at("grafana/prometheus/prometheus.yaml")["rule_files"]
    targets = {source: target for source, target, _ in mounts(services()["prometheus"])}
    beside = f"{targets['./grafana/prometheus']}/{pattern}"
    assert beside.replace("/prometheus/..", "") == f"{targets['./grafana/rules']}/*.yaml"


def test_prometheus_takes_what_the_collector_pushes() -> None:
    command = services()["prometheus"]["command"]
    assert "--web.enable-otlp-receiver" in command
    assert "--enable-feature=exemplar-storage" in command


def test_the_variables_of_the_collector_are_those_it_reads() -> None:
    collector = services()["otel-collector"]
    files = [argument.rpartition("/")[2] for argument in collector["command"]]
    text = "\n".join(
        without_comments((ROOT / "otel-collector" / file).read_text()) for file in files
    )
    read = dict(VARIABLE.findall(text))
    given = set(collector["environment"]) - {"GOMEMLIMIT"}
    assert given <= set(read), "nobody reads these"
    needed = {match[1] for match in VARIABLE.finditer(text) if match[2] is None}
    assert needed <= given, "these are missing"


@pytest.mark.parametrize(
    ("name", "path"), [("orders-1", "examples/fastapi_orders.py"), ("load", "examples/load.py")]
)
def test_the_variables_of_the_example_are_those_it_reads(name: str, path: str) -> None:
    text = (ROOT / path).read_text()
    for variable in services()[name]["environment"]:
        assert variable.startswith("OTEL_") or f'"{variable}"' in text, variable


def test_the_replicas_are_told_apart_by_their_names() -> None:
    for name in ("orders-1", "orders-2"):
        attributes = services()[name]["environment"]["OTEL_RESOURCE_ATTRIBUTES"]
        assert f"service.instance.id={name}," in attributes


def test_the_scenario_is_chosen_by_the_environment() -> None:
    chosen = raw_services()["load"]["environment"]["POOLSCOPE_SCENARIO"]
    match = re.fullmatch(r"\$\{POOLSCOPE_SCENARIO:-(\w+)\}", chosen)
    assert match is not None
    assert match[1] in SCENARIOS


def test_the_pools_fit_into_the_database_but_fill_it() -> None:
    (limit,) = re.findall(r"max_connections=(\d+)", TEXT)
    orders = [each for name, each in services().items() if name.startswith("orders-")]
    promised = sum(each["environment"]["POOL_SIZE"] for each in orders)
    reserved = 3 + 4 + 1  # superusers', the Collector's, and the load's
    assert promised + reserved <= int(limit) < 2 * promised


# Grafana


def datasources() -> dict[str, dict[str, Any]]:
    found = yaml_at("grafana/provisioning/datasources/datasources.yaml")["datasources"]
    return {each["uid"]: each for each in found}


def test_datasources_have_the_uids_that_others_name() -> None:
    assert set(datasources()) == {"prometheus", "tempo", "alertmanager"}
    named = [
        uid
        for each in datasources().values()
        for uid in re.findall(r'"\w*[uU]id": "([^"]+)"', json.dumps(each["jsonData"]))
    ]
    assert sorted(named) == ["alertmanager", "prometheus", "tempo"]


def test_nobody_edits_what_is_provisioned() -> None:
    assert not any(each["editable"] for each in datasources().values())
    (provider,) = yaml_at("grafana/provisioning/dashboards/dashboards.yaml")["providers"]
    assert provider["allowUiUpdates"] is False
    assert provider["disableDeletion"] is True


def test_boards_are_mounted_where_grafana_looks_for_them() -> None:
    (provider,) = yaml_at("grafana/provisioning/dashboards/dashboards.yaml")["providers"]
    grafana = services()["grafana"]
    targets = {source: target for source, target, _ in mounts(grafana)}
    assert targets["./grafana/dashboards"] == provider["options"]["path"]
    assert targets["./grafana/provisioning"] == "/etc/grafana/provisioning"
    home = PurePosixPath(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (ROOT / "grafana/dashboards" / home.name).is_file()
    assert str(home.parent) == provider["options"]["path"]


def test_boards_name_no_datasource_but_by_a_variable() -> None:
    boards = list((ROOT / "grafana/dashboards").glob("*.json"))
    assert boards
    for path in boards:
        sources = re.findall(r'"datasource":\s*\{[^}]*"uid":\s*"([^"]*)"', path.read_text())
        literal = {uid for uid in sources if not uid.startswith("$")}
        assert literal <= {"-- Grafana --", "-- Mixed --", "-- Dashboard --", "grafana"}, path.name


def test_queries_of_traces_ask_for_metrics_that_exist() -> None:
    known = {metric.prometheus_name for metric in catalog.METRICS}
    queries = datasources()["tempo"]["jsonData"]["tracesToMetrics"]["queries"]
    for each in queries:
        for name in re.findall(r"\b(db_client_\w+)\{", each["query"]):
            assert name.removesuffix("_bucket") in known
        # One alone would be a variable of the environment.
        assert "$" not in each["query"].replace("$$", "")


def test_whoever_is_not_logged_in_only_looks() -> None:
    said = services()["grafana"]["environment"]
    assert said["GF_AUTH_ANONYMOUS_ENABLED"] == "true"
    assert said["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
