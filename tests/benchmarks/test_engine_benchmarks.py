from benchmarks import observed
from benchmarks.plan import Plan, make_plan
from benchmarks.server import Server
from poolscope.testing.postgres import PostgresServer
from tests.support import run


def quick() -> Plan:
    return make_plan(quick=True, rounds=2, seed=1)


def test_without_a_server_engines_are_compared_on_sqlite_alone() -> None:
    (section,) = run(observed.measure(Server(None, "not wanted"), quick()))
    assert [row[0] for row in section.rows] == ["engine, sqlite3"]
    assert [goal.limit for goal in section.goals] == [1.1]
    assert len(section.unchecked) == 2
    assert set(section.missing.values()) == {"not wanted"}


def test_every_kind_of_engine_is_compared_on_a_server(postgres: PostgresServer) -> None:
    (section,) = run(observed.measure(Server(postgres.dsn), quick()))
    assert [row[0] for row in section.rows] == [kind.name for kind in observed.KINDS]
    assert section.unchecked == []
    assert section.missing == {}
    own, ours = (section.data["ns_per_cycle"][name] for name in list(observed.OPENERS)[:2])
    assert len(own) == len(ours) == 2
