"""Workers of Celery, forked before each has work, with Redis as their broker."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from poolscope.testing.redis import RedisServer
from tests.instrument.auto.programs import requests_of, running
from tests.telemetry.endpoint import INSTANCE, RECEIVERS
from tests.telemetry.programs import environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SHOP = """
import os, time
from celery import Celery
from opentelemetry import trace
from sqlalchemy import create_engine

app = Celery("shop", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
engine = create_engine("sqlite:///shop.db")

@app.task
def work():
    with trace.get_tracer("app").start_as_current_span(f"task of {os.getpid()}"):
        with engine.connect():
            time.sleep(0.02)
    return os.getpid()
"""
SEND = """
from shop import work
print(*(each.get(60) for each in [work.delay() for _ in range(20)]))
"""


@pytest.mark.parametrize("protocol", RECEIVERS)
def test_each_worker_of_celery_tells_of_its_own_pools(
    protocol: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    url = {"REDIS_URL": redis_server.url}
    command = "celery -A shop worker --concurrency 2 --loglevel WARNING"
    with RECEIVERS[protocol]() as receiver:
        with running(tmp_path, command, receiver, protocol, **url):
            sender = subprocess.run(
                [sys.executable, "-c", SEND],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                env=environment(**url),
                timeout=60,
            )
            assert sender.returncode == 0, sender.stderr
            done = Counter(map(int, sender.stdout.split()))
        instances = {
            int(span.name.split()[-1]): resource[INSTANCE]
            for resource, span in receiver.spans()
            if span.name.startswith("task of ")
        }
        assert len(set(instances.values())) == len(done) == 2
        requests = requests_of(receiver, "shop.db")
        assert {worker: requests[instance] for worker, instance in instances.items()} == done
