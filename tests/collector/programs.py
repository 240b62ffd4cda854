"""Programs that send what there is to send, through setup_telemetry() and with variables only."""

from tests.telemetry.programs import run_well

CANARY = "hunter2"
"""In everything that nobody is to read."""

JOB = "store/shop"
IDENTITY = {
    "OTEL_SERVICE_NAME": "shop",
    "OTEL_RESOURCE_ATTRIBUTES": "service.namespace=store,service.instance.id=one"
    f",deployment.environment.name=test,db.password={CANARY}",
    "OTEL_METRIC_EXPORT_INTERVAL": "60000",
}

BEGIN = """
import asyncio
from opentelemetry import metrics, trace
from opentelemetry.trace import StatusCode
from poolscope import ConnectionPool, ConnectionPoolSettings, PoolTimeoutError
from poolscope.telemetry.setup import setup_telemetry

telemetry = setup_telemetry(logs=False)
tracer = trace.get_tracer("app")
settings = ConnectionPoolSettings(name="orders", max_size=1, acquire_timeout=0.05)

async def request(pool):
    with tracer.start_as_current_span("request"):
        async with pool.connection():
            pass

async def refusal(pool):
    with tracer.start_as_current_span("refusal"):
        async with pool.connection():
            try:
                await pool.acquire()
            except PoolTimeoutError:
                pass
"""
REQUESTS = (
    BEGIN
    + """
async def main():
    async with ConnectionPool(object, settings) as pool:
        await request(pool)
        await refusal(pool)
        assert telemetry.force_flush()

asyncio.run(main())
"""
)
TWICE = (
    BEGIN
    + """
async def main():
    async with ConnectionPool(object, settings) as pool:
        for _ in range(2):
            await request(pool)
            assert telemetry.force_flush()

asyncio.run(main())
"""
)
TRACES = (
    BEGIN
    + """
async def main():
    async with ConnectionPool(object, settings) as pool:
        for _ in range(32):
            await request(pool)
        assert telemetry.force_flush()

asyncio.run(main())
"""
)
WAITS = (
    BEGIN
    + """
async def hold(pool):
    async with pool.connection():
        await asyncio.sleep(0.1)

async def main():
    async with ConnectionPool(object, settings) as pool:
        holder = asyncio.create_task(hold(pool))
        await asyncio.sleep(0)
        with tracer.start_as_current_span("patient"):
            await pool.release(await pool.acquire(timeout=10))
        await holder
        assert telemetry.force_flush()

asyncio.run(main())
"""
)
SECRETS = (
    BEGIN
    + f"""
secret = {CANARY!r}
url = f"postgresql://app:{{secret}}@db.internal/shop"
attributes = {{
    "db.query.text": f"select '{{secret}}'",
    "db.statement": secret,
    "db.query.parameter.name": secret,
    "user.email": secret,
    "http.request.header.authorization": f"Bearer {{secret}}",
    "app.db_password": secret,
    "url.full": f"https://shop/?q={{secret}}",
    "target": url,
    "words": f"host=db password={{secret}} dbname=shop",
    "kept": "yes",
}}
with tracer.start_as_current_span(f"connect {{url}}", attributes=attributes) as span:
    span.add_event("exception", attributes | {{"exception.message": f"no {{url}}"}})
    span.set_status(StatusCode.ERROR, f"password={{secret}}, {{url}}")
    metrics.get_meter("app").create_histogram("till", "s").record(
        0.1, attributes | {{"db.client.connection.pool.name": url, "network.peer.port": 40_001}}
    )
with tracer.start_as_current_span("GET /healthz", attributes={{"url.path": "/healthz"}}):
    pass
assert telemetry.force_flush()
"""
)


def run(text: str, endpoint: str, protocol: str = "grpc", **variables: str) -> None:
    """Run a program to its end; all that it has sent has been taken then."""
    run_well(text, protocol=protocol, endpoint=endpoint, **(IDENTITY | variables))
