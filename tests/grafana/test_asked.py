"""What boards ask can be asked outside of Grafana, too."""

import subprocess
import sys

import pytest

from grafana import asked
from grafana.asked import Span

BOARDS = sorted(path.stem for path in asked.BOARDS.glob("*.json"))


@pytest.mark.parametrize("name", BOARDS)
def test_every_variable_of_a_board_has_a_value(name: str) -> None:
    board = asked.load(name)
    variables = asked.choices(board) | Span(0, 3600, 15).variables()
    for panel in asked.panels(board):
        for query in asked.queries(panel):
            assert "$" not in asked.fill(query["expr"], variables)


def test_what_is_chosen_comes_in_the_place_of_what_a_board_opens_with() -> None:
    board = asked.load("detail")
    assert asked.choices(board)["job"] == ".+"
    assert asked.choices(board, job="shop/orders")["job"] == "shop/orders"


def test_a_rate_spans_four_samples_or_more() -> None:
    assert Span(0, 3600, 15).variables()["__rate_interval"] == "1m"
    assert Span(0, 86_400, 360).variables()["__rate_interval"] == "6m15s"
    assert Span(0, 300, 1.5, interval=0.5).variables()["__rate_interval"] == "2s"


@pytest.mark.parametrize(
    ("promql", "faster"),
    [
        ("increase(x[15m]) == 0", "increase(x[30s]) == 0"),
        ("x offset 2m", "x offset 4s"),
        ("avg_over_time(x[30d:1h])", "avg_over_time(x[1d:2m])"),
        ('rate(x{le="0.1"}[$__rate_interval])', 'rate(x{le="0.1"}[$__rate_interval])'),
    ],
)
def test_windows_that_are_written_out_go_by_faster(promql: str, faster: str) -> None:
    assert asked.paced(promql, 30) == faster


def test_collapsed_panels_are_left_out_where_they_are_not_wanted() -> None:
    board = asked.load("detail")
    every, shown = ([*asked.panels(board, collapsed=c)] for c in (True, False))
    assert 0 < len(shown) < len(every)
    assert "row" not in {panel["type"] for panel in every}


def test_the_picture_says_what_it_takes() -> None:
    script = "import sys; sys.modules['matplotlib'] = None; import grafana.picture"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install --group picture" in done.stderr
