import re
from pathlib import Path
from typing import Any

import pytest

from tests.asgi.serving import serving
from tests.support import run

PAGE = Path(__file__).parents[2] / "docs" / "web.md"


def test_the_application_of_the_page_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, lifespan = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec("from contextlib import asynccontextmanager\n" + lifespan, names)
    exec(program.replace("answer)]", "answer)], lifespan=lifespan"), names)

    async def main() -> None:
        async with serving(names["app"]) as client:
            assert (await client.get("/")).json() == 42
            assert (await client.get("/healthz")).json()["ready"] is True

    run(main())
