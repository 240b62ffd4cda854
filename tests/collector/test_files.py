"""What the files of otel-collector/ say, and that a real Collector takes them."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from poolscope.telemetry import catalog
from tests.collector.files import FOLDER, ROOT, SETS, Config, components, pipelines, read, variables

NOT_BUILT = {("receivers", "postgresql")}
"""In the image of the Collector, but not to be had from every proxy of Go modules."""

each_set = pytest.mark.parametrize("files", SETS.values(), ids=SETS)


def test_every_file_is_started_somehow() -> None:
    started = {name for names in SETS.values() for name in names}
    assert started == {path.name for path in FOLDER.glob("*.yaml")}


@each_set
def test_the_memory_limiter_comes_first(files: tuple[str, ...]) -> None:
    for name, pipeline in pipelines(read(*files)).items():
        assert pipeline["processors"][0] == "memory_limiter", name


@each_set
def test_pipelines_name_what_is_defined(files: tuple[str, ...]) -> None:
    config = read(*files)
    for pipeline in pipelines(config).values():
        for kind, names in pipeline.items():
            assert set(names) <= {*config.get(kind, {}), *config.get("connectors", {})}
    assert set(config["service"]["extensions"]) == set(config["extensions"])


def test_nothing_is_defined_that_nobody_uses() -> None:
    for files in SETS.values():
        alone = read(files[-1])
        used = {name for p in pipelines(alone).values() for names in p.values() for name in names}
        kinds = ("receivers", "processors", "exporters", "connectors")
        assert {name for kind in kinds for name in alone.get(kind, {})} <= used


@each_set
def test_queues_are_on_disk_and_tries_are_repeated(files: tuple[str, ...]) -> None:
    config = read(*files)
    sending = {name for p in pipelines(config).values() for name in p["exporters"]}
    for name in sending & set(config["exporters"]) - {"prometheus_remote_write"}:
        exporter = config["exporters"][name]
        assert exporter["sending_queue"]["storage"] == "file_storage"
        assert exporter["retry_on_failure"]["max_elapsed_time"] == "30m"


def test_a_gateway_keeps_no_metrics_that_an_agent_believes_delivered() -> None:
    writer = read("config.gateway.yaml")["exporters"]["prometheus_remote_write"]
    assert writer["remote_write_queue"] == writer["retry_on_failure"] == {"enabled": False}


def test_retries_end_when_prometheus_takes_nothing_so_old() -> None:
    prometheus = yaml.safe_load((ROOT / "grafana/prometheus/prometheus.yaml").read_text())
    window = prometheus["storage"]["tsdb"]["out_of_order_time_window"]
    exporter = read("config.yaml")["exporters"]["otlp_http/prometheus"]
    assert exporter["retry_on_failure"]["max_elapsed_time"] == window


def test_a_gateway_makes_the_labels_that_prometheus_makes() -> None:
    prometheus = yaml.safe_load((ROOT / "grafana/prometheus/prometheus.yaml").read_text())
    writer = read("config.gateway.yaml")["exporters"]["prometheus_remote_write"]
    promoted = prometheus["otlp"]["promote_resource_attributes"]
    assert writer["resource_constant_labels"] == {"included": promoted}


def test_span_metrics_have_seconds_in_the_buckets_of_use_time() -> None:
    histogram = read("config.yaml")["connectors"]["span_metrics"]["histogram"]
    assert histogram["unit"] == "s"
    scale = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
    parsed = [re.fullmatch(r"(\d+)(\D+)", each) for each in histogram["explicit"]["buckets"]]
    seconds = tuple(int(each[1]) * scale[each[2]] for each in parsed if each is not None)
    assert seconds == pytest.approx(catalog.USE_BUCKETS)


def test_the_readme_tells_every_variable_and_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`)? *\|", (FOLDER / "README.md").read_text(), re.M)
    told = {name: {default or None} for name, default in rows}
    found = {name: {default or None for default in each} for name, each in variables().items()}
    assert told == found


def test_prometheus_scrapes_the_port_of_the_collectors_own_metrics() -> None:
    text = (ROOT / "grafana/prometheus/prometheus.yaml").read_text()
    assert f"otel-collector:{variables()['METRICS_PORT'].pop()}" in text


# With the real one


@pytest.mark.servers
@each_set
def test_a_collector_has_all_components_and_none_by_an_old_name(
    collector_binary: Path, files: tuple[str, ...]
) -> None:
    output = subprocess.check_output([collector_binary, "components"], text=True)
    has = {
        (kind, name)
        for kind, each in yaml.safe_load(output).items()
        if isinstance(each, list)
        for name in (component["name"] for component in each if "name" in component)
    }
    assert set(components(read(*files))) - NOT_BUILT <= has


@pytest.mark.servers
@each_set
def test_a_collector_takes_the_files(
    collector_binary: Path, tmp_path: Path, files: tuple[str, ...]
) -> None:
    config = _with_what_is_built(read(*files))
    path = tmp_path / "config.yaml"
    # JSON is YAML.
    path.write_text(json.dumps(config))
    # The folder of the queue must be one that can be made.
    environment = {"STORAGE_DIRECTORY": str(tmp_path / "queue")}
    merged = [f"--config={path}"]
    as_they_are = [f"--config={FOLDER / name}" for name in files]
    for options in [merged] if "postgresql" in str(files) else [merged, as_they_are]:
        done = subprocess.run(
            [collector_binary, "validate", *options],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")


def _with_what_is_built(config: Config) -> Config:
    if config["receivers"].pop("postgresql", None):
        pipelines(config)["metrics/postgresql"]["receivers"] = ["otlp"]
    return config
