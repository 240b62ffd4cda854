from benchmarks import foreign
from benchmarks.plan import Plan, make_plan
from benchmarks.server import Server
from poolscope import registry
from poolscope.testing.postgres import PostgresServer
from tests.support import run


def quick() -> Plan:
    return make_plan(quick=True, rounds=2, seed=1)


def test_without_a_server_an_engine_on_sqlite_is_observed_alone() -> None:
    (section,) = run(foreign.measure(Server(None, "not wanted"), quick()))
    assert [row[0] for row in section.rows] == ["SQLAlchemy engine, QueuePool"]
    assert [goal.limit for goal in section.goals] == [1.35]
    assert set(section.missing.values()) == {"not wanted"}


def test_pools_of_every_kind_are_measured_as_they_come_and_observed(
    postgres: PostgresServer,
) -> None:
    (section,) = run(foreign.measure(Server(postgres.dsn), quick()))
    assert [row[0] for row in section.rows] == [kind.name for kind in foreign.KINDS]
    assert [goal.limit for goal in section.goals] == [1.35, 1.3, 1.05, 1.3]
    assert (section.unchecked, section.missing) == ([], {})
    assert registry.live() == []
