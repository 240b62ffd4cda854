"""What docker-compose.yml, .env and the Dockerfile say, as Compose and the builder read them."""

import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "examples/Dockerfile").read_text()
PROBED = {"otel-collector", "tempo"}
"""Services whose images have nothing that a health check could run."""

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def environment() -> dict[str, str]:
    """The variables of .env."""
    lines = (ROOT / ".env").read_text().splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return dict(pairs)


def variables() -> Iterator[tuple[str, str | None]]:
    """Names and defaults of all variables that docker-compose.yml asks for."""
    for match in _VARIABLE.finditer(TEXT):
        yield match[1], match[2]


def compose() -> dict[str, Any]:
    """The file with variables filled in from .env and their defaults alone."""
    given = environment()
    text = _VARIABLE.sub(lambda match: given.get(match[1], match[2] or ""), TEXT)
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def raw_services() -> dict[str, dict[str, Any]]:
    """The services with variables as they are written."""
    services: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
    return services


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def is_asked(service: dict[str, Any]) -> bool:
    """Whether the service has a health check, be it that of the Dockerfile."""
    check = service.get("healthcheck")
    if check is None:
        return "build" in service and "\nHEALTHCHECK" in DOCKERFILE
    return not check.get("disable", False)


def mounts(service: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Source, target and mode of each volume."""
    for volume in service.get("volumes", []):
        source, target, *mode = volume.split(":")
        yield source, target, mode[0] if mode else "rw"


def block(name: str) -> str:
    """The lines of a service, with the comment above it."""
    lines = TEXT.splitlines()
    start = lines.index(f"  {name}:")
    end = start + 1
    while end < len(lines) and (not lines[end].strip() or lines[end].startswith("    ")):
        end += 1
    return "\n".join(lines[start:end])


def yaml_at(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each with its arguments on one line."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    return [
        (word, rest)
        for word, _, rest in (line.partition(" ") for line in text.splitlines())
        if word
    ]


def copies() -> Iterator[tuple[list[str], str]]:
    """Sources and target of each COPY."""
    for word, rest in instructions():
        if word == "COPY":
            *sources, target = shlex.split(rest)
            yield sources, target


def reaches_the_builder(path: str) -> bool:
    """Whether .dockerignore lets a file through: the last line that fits decides."""
    taken = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#") and _fits(path, line.removeprefix("!")):
            taken = line.startswith("!")
    return taken


def _fits(path: str, pattern: str) -> bool:
    parts = path.split("/")
    heads = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    if pattern.startswith("**/"):
        return any(fnmatch(part, pattern.removeprefix("**/")) for part in parts)
    # A * does not go beyond a slash.
    return any(head.count("/") == pattern.count("/") and fnmatch(head, pattern) for head in heads)
