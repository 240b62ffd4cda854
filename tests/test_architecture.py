import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "poolscope"

# Bottom up. A name stands for a module or a folder; the longest name that fits a module counts.
LAYERS = {
    "words": [
        "_version",
        "errors",
        "events",
        "faults",
        "functions",
        "histogram",
        "reasons",
        "settings",
        "stats",
        "strain",
        "target",
        "telemetry.catalog",
    ],
    "core": ["core"],
    "wires": ["buffer", "bus", "registry"],
    "aggregator": ["metrics", "tally"],
    "engine": ["engine"],
    "engines": ["aio", "threads"],
    "connectors": ["connectors"],
    "drivers": ["base_pool", "pool", "sync_pool"],
    "subscribers": ["diagnostics", "telemetry"],
    "foreign pools": ["instrument"],
    "edges": [
        "__init__",
        "__main__",
        "asgi",
        "assets",
        "cli",
        "manager",
        "opening",
        "sqlalchemy",
        "testing",
    ],
}
HEIGHTS = {layer: height for height, layer in enumerate(LAYERS)}

# These know events and stats, never a pool.
LISTENERS = {"aggregator", "subscribers", "foreign pools"}
POOLS = {"core", "engine", "engines", "connectors", "drivers"}

# The core decides; the drivers wait, lock and read the clock for it.
CLOSED_TO_CORE = {"asyncio", "threading", "time"}

LONGEST_MODULE = 300
LONGEST_FUNCTION = 45


def layer_of(module: str) -> str | None:
    fitting = [
        (len(name), layer)
        for layer, names in LAYERS.items()
        for name in names
        if module == name or module.startswith(f"{name}.")
    ]
    return max(fitting)[1] if fitting else None


def module_name(path: str) -> str:
    name = path.removesuffix(".py").replace("/", ".")
    return name.removesuffix(".__init__")


def imports(tree: ast.AST, path: str, modules: set[str]) -> Iterator[tuple[int, str]]:
    """Yield line and absolute name of each module that a file imports."""
    folders = ["poolscope", *path.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = folders[: len(folders) + 1 - node.level] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{source}.{alias.name}"
                is_module = name.removeprefix("poolscope.") in modules
                yield node.lineno, name if is_module else source


def broken_rule(module: str, imported: str) -> str | None:
    layer = layer_of(module)
    if layer == "core" and imported.partition(".")[0] in CLOSED_TO_CORE:
        return "the core knows neither clock, lock nor event loop"
    if imported.partition(".")[0] != "poolscope":
        return None
    target = imported.removeprefix("poolscope").removeprefix(".") or "__init__"
    target_layer = layer_of(target)
    if layer is None or target_layer is None:
        return None
    if layer in LISTENERS and target_layer in POOLS:
        return f"{layer} know events and stats, never a pool ({target_layer})"
    same_folder = module == top_folder(target) or top_folder(module) == top_folder(target)
    if layer == target_layer and (same_folder or layer == "edges"):
        return None
    if HEIGHTS[target_layer] >= HEIGHTS[layer]:
        return f"{layer} import only from layers below their own, not from {target_layer}"
    return None


def top_folder(module: str) -> str:
    return module.partition(".")[0] if "." in module else ""


def violations(sources: dict[str, str]) -> list[str]:
    """Judge a package, given as the texts of its files by path."""
    modules = {module_name(path) for path in sources}
    found = []
    for path, text in sources.items():
        module = module_name(path)
        if layer_of(module) is None:
            found.append(
                f"src/poolscope/{path}:1: {module} has no layer; "
                "add it to one of LAYERS in tests/test_architecture.py"
            )
        for line, imported in imports(ast.parse(text), path, modules):
            if rule := broken_rule(module, imported):
                found.append(f"src/poolscope/{path}:{line}: {module} imports {imported}: {rule}")
    return found


def too_long(path: str, text: str) -> Iterator[str]:
    length = len(text.splitlines())
    if length > LONGEST_MODULE:
        yield f"src/poolscope/{path}:1: {length} lines, more than {LONGEST_MODULE}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield (
                    f"src/poolscope/{path}:{node.lineno}: {node.name} has {length} lines, "
                    f"more than {LONGEST_FUNCTION}"
                )


def package_sources() -> dict[str, str]:
    return {
        path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def test_every_module_imports_only_what_its_layer_may() -> None:
    found = violations(package_sources())
    assert not found, "\n".join(found)


def test_modules_and_functions_are_short() -> None:
    found = [fault for path, text in package_sources().items() for fault in too_long(path, text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("bus.py", "import poolscope.pool", "wires import only from layers below"),
        ("bus.py", "\nfrom poolscope.pool import ConnectionPool", "bus.py:2: bus imports"),
        ("bus.py", "from poolscope import pool", "not from drivers"),
        ("bus.py", "from poolscope import ConnectionPool", "not from edges"),
        ("bus.py", "from . import pool", "not from drivers"),
        ("bus.py", "if TYPE_CHECKING:\n    from poolscope.pool import X", "bus.py:2:"),
        ("bus.py", "def late():\n    from poolscope.pool import X", "bus.py:2:"),
        ("core/slot.py", "from ..bus import EventBus", "not from wires"),
        ("core/slot.py", "import time", "neither clock, lock nor event loop"),
        ("core/slot.py", "from asyncio.locks import Lock", "neither clock, lock nor event loop"),
        ("metrics.py", "from poolscope.core.slot import Slot", "never a pool"),
        ("telemetry/logs.py", "from poolscope.pool import ConnectionPool", "never a pool"),
        ("telemetry/logs.py", "from poolscope.diagnostics.leaks import X", "not from subscribers"),
        ("instrument/redis.py", "import poolscope.connectors.redis", "never a pool"),
        ("pool.py", "from poolscope.telemetry.setup import X", "not from subscribers"),
        ("new_idea.py", "", "add it to one of LAYERS in tests/test_architecture.py"),
    ],
)
def test_the_checker_sees_a_violation(path: str, text: str, expected: str) -> None:
    (fault,) = violations({"pool.py": "", path: text})
    assert expected in fault


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("pool.py", "from poolscope.metrics import ConnectionPoolMetrics"),
        ("pool.py", "import asyncio, time\nfrom poolscope.connectors import postgres"),
        ("core/slot.py", "from .ticket import Ticket\nfrom poolscope.errors import PoolError"),
        ("telemetry/setup.py", "from poolscope.telemetry import catalog, logs"),
        ("tally.py", "from poolscope.telemetry import catalog"),
        ("cli/__init__.py", "from poolscope.testing.postgres import PostgresServer"),
        ("__init__.py", "from poolscope.pool import ConnectionPool"),
    ],
)
def test_the_checker_lets_pass_what_is_allowed(path: str, text: str) -> None:
    others = {"telemetry/catalog.py": "", "telemetry/logs.py": ""}
    assert violations(others | {path: text}) == []


def test_the_checker_names_what_is_too_long() -> None:
    function = "async def endless():\n" + "    pass\n" * LONGEST_FUNCTION
    assert list(too_long("pool.py", function)) == [
        "src/poolscope/pool.py:1: endless has 46 lines, more than 45"
    ]
    assert list(too_long("pool.py", "\n" * 301)) == [
        "src/poolscope/pool.py:1: 301 lines, more than 300"
    ]
