"""Where the servers are which `make stack-tools` builds."""

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


def find_tool(name: str) -> Path:
    """Find a binary; where it has not been built skip the test, or fail it where CI is set."""
    # An absolute path replaces what it is joined to.
    path = _ROOT / (os.environ.get("POOLSCOPE_TOOLS") or ".tools") / name
    if path.is_file():
        return path
    message = f"{name} is not in {path.parent}: run make stack-tools"
    if "CI" in os.environ:
        pytest.fail(message)
    pytest.skip(message)
