"""Orders over HTTP: Flask, SQLAlchemy's engine on psycopg, and our pool beneath it.

    DATABASE_URL=postgresql://user:password@host/shop \
        gunicorn --worker-class gthread --threads 16 examples.flask_orders:app

`python -m examples flask` serves it by waitress, with a PostgreSQL of its own.
"""

import atexit
import os
from typing import Any, cast

from flask import Flask, Response, jsonify, request
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder
from sqlalchemy import create_engine, func, make_url, select, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from poolscope.errors import PoolError
from poolscope.sqlalchemy import ObservedPool
from poolscope.telemetry.logs import log_pools
from poolscope.telemetry.prometheus import PoolCollector
from poolscope.telemetry.setup import setup_telemetry

NAME = os.environ.get("OTEL_SERVICE_NAME", "orders-flask")
THREADS = int(os.environ.get("THREADS", "16"))
POOL_SIZE = int(os.environ.get("POOL_SIZE", "10"))

engine = create_engine(
    make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg"),
    poolclass=ObservedPool,
    name="orders",
    pool_size=POOL_SIZE,
    max_overflow=0,
    pool_timeout=float(os.environ.get("POOL_TIMEOUT", "2")),
    # Two threads never wait, so that /healthz and /metrics answer in the worst of times.
    max_waiting=max(1, THREADS - POOL_SIZE - 2),
    pool_pre_ping=True,
    leak_threshold=10,
    connect_args={"application_name": NAME, "connect_timeout": 5},
)
sessions = sessionmaker(engine, expire_on_commit=False)
REGISTRY.register(PoolCollector())


class Base(DeclarativeBase):
    """What the tables belong to."""


class Order(Base):
    """An order in the database."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    quantity: Mapped[int]

    def as_dict(self) -> dict[str, Any]:
        """Return what clients get."""
        return {"id": self.id, "item": self.item, "quantity": self.quantity}


def create_app() -> Flask:
    """Begin with tables and telemetry; at exit, unsent telemetry is sent and connections close."""
    if any(variable.startswith("OTEL_") for variable in os.environ):
        setup_telemetry(NAME)
    else:
        log_pools()
    atexit.register(engine.dispose)
    with engine.begin() as connection:
        # Workers that start together would both try to create the tables.
        connection.execute(text("select pg_advisory_xact_lock(4)"))
        Base.metadata.create_all(connection)
    return Flask(__name__)


app = create_app()


@app.errorhandler(PoolError)
@app.errorhandler(DBAPIError)
def unavailable(error: PoolError | DBAPIError) -> tuple[Response, int, dict[str, str]]:
    """Answer 503 in the pool's own words; those of a driver may hold secrets."""
    if isinstance(error, DataError | IntegrityError | ProgrammingError):
        raise error  # a bug of this service
    said = str(error) if isinstance(error, PoolError) else "the database cannot be reached"
    return jsonify(detail=said), 503, {"Retry-After": "1"}


@app.get("/orders")
def list_orders() -> Response:
    """Return the latest orders."""
    limit = min(request.args.get("limit", 20, type=int), 100)
    with sessions() as session:
        latest = session.scalars(select(Order).order_by(Order.id.desc()).limit(limit))
        return jsonify([order.as_dict() for order in latest])


@app.post("/orders")
def create_order() -> tuple[Response, int]:
    """Take an order."""
    match request.get_json():
        case {"item": str(item), "quantity": int(quantity)} if item and 0 < quantity <= 1000:
            order = Order(item=item[:80], quantity=quantity)
        case _:
            return jsonify(detail="an order has an item, and a quantity from 1 to 1000"), 422
    with sessions.begin() as session:
        session.add(order)
    return jsonify(order.as_dict()), 201


@app.get("/report")
def report() -> Response:
    """Return what was ordered of each item, by a query as slow as was asked for."""
    seconds = min(request.args.get("seconds", 1.0, type=float), 30.0)
    sums = select(Order.item, func.sum(Order.quantity)).group_by(Order.item)
    with sessions() as session:
        session.execute(select(func.pg_sleep(seconds)))
        return jsonify(dict(session.execute(sums).tuples().all()))


@app.get("/healthz")
def healthz() -> Response:
    """Tell whether to send requests here; a saturated pool works, so it is ready."""
    stats = cast(ObservedPool, engine.pool).stats()
    if stats is None or stats.in_use < stats.max_size:
        with engine.connect():  # the pre-ping asks the database
            pass
    return jsonify(ready=True)


@app.get("/metrics")
def metrics() -> Response:
    """Show all metrics of this process; with exemplars to whom they are of use."""
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(REGISTRY), content_type=content_type)
