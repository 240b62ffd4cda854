"""The configurations of the repository, as they are needed on this machine and at a speed.

They are changed in nothing but addresses and durations: it is them that are tried.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from grafana.kit import rules
from grafana.kit.settings import load, seconds, written
from stack.prometheus import CONFIG

_ROOT = Path(__file__).parent.parent
_PACED = re.compile(
    r"^(\s*(?:scrape_interval|evaluation_interval|group_wait|group_interval|repeat_interval"
    r"|flush_timeout|collection_interval): )(\d\w*)$",
    re.MULTILINE,
)


def prometheus(
    addresses: Mapping[str, str], scraped: Mapping[str, Mapping[str, str]], speed: float
) -> dict[str, str]:
    """Return the files of Prometheus by their paths; `scraped` are the labels of each target."""
    targets = [{"targets": [each], "labels": labels} for each, labels in scraped.items()]
    files = {
        CONFIG: _adapted(f"grafana/{CONFIG}", addresses),
        "prometheus/targets/pools.yaml": json.dumps(targets),
    }
    for name, text in rules.build(load(), speed).items():
        # JSON is YAML.
        files[f"rules/{name}"] = json.dumps(text)
    return {path: _paced(text, speed) for path, text in files.items()}


def alertmanager(addresses: Mapping[str, str], speed: float) -> str:
    """Return the configuration of Alertmanager."""
    return _paced(_adapted("grafana/alertmanager/alertmanager.yaml", addresses), speed)


def collector(name: str, speed: float) -> str:
    """Return one of the configurations of the Collector, whose addresses are variables."""
    return _paced(_adapted(f"otel-collector/{name}", {}), speed)


def _adapted(path: str, addresses: Mapping[str, str]) -> str:
    """Put addresses of this machine in the place of those of docker-compose."""
    text = (_ROOT / path).read_text()
    for theirs, ours in addresses.items():
        if theirs not in text:
            raise ValueError(f"{path} names no {theirs} any more; stack/configs.py expects it")
        text = text.replace(theirs, ours)
    return text


def _paced(text: str, speed: float) -> str:
    def faster(match: re.Match[str]) -> str:
        return match[1] + written(seconds(match[2]) / speed)

    return _PACED.sub(faster, text)
