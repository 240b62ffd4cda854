"""A worker of Celery with Redis as broker and for results. It knows nothing of poolscope."""

import os

from celery import Celery

app = Celery("shop", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])


@app.task
def greet(name: str) -> str:
    return f"hello {name}"
