"""`poolscope dashboards push`, against a server that answers as Grafana does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from poolscope.cli import main
from poolscope.cli.dashboards.address import parse_root
from poolscope.cli.dashboards.grafana import Server
from poolscope.cli.dashboards.push import Options, run
from tests.cli.grafana import TOKEN, Grafana, serving
from tests.cli.pages import Capture, closed_port


@pytest.fixture
def grafana(monkeypatch: pytest.MonkeyPatch) -> Iterator[Grafana]:
    monkeypatch.setenv("GRAFANA_TOKEN", TOKEN)
    monkeypatch.setenv("no_proxy", "*")
    with serving() as server:
        yield server


@pytest.fixture
def boards(tmp_path: Path) -> Path:
    """Two boards, one with variables as ours have them."""
    write(tmp_path / "detail.json", uid="pool-detail", title="Detail", id=7, templating=VARIABLES)
    write(tmp_path / "fleet.json", uid="pool-fleet", title="Fleet")
    (tmp_path / "notes.txt").write_text("no board")
    return tmp_path


VARIABLES = {
    "list": [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "current": {}},
        {"name": "traces", "type": "datasource", "query": "tempo", "current": {}},
        {"name": "job", "type": "query", "query": "prometheus", "current": {}},
    ]
}


def write(path: Path, **board: Any) -> None:
    path.write_text(json.dumps(board))


def push(grafana: Grafana, *arguments: object) -> int:
    return main(["dashboards", "push", "--url", grafana.url, *map(str, arguments)])


def complaint(capsys: Capture) -> str:
    """What is said on stderr; the token is never."""
    out, err = capsys.readouterr()
    assert TOKEN not in out + err
    assert "Traceback" not in err
    return err


def test_boards_are_saved_into_a_folder_which_is_made(
    grafana: Grafana, boards: Path, capsys: Capture
) -> None:
    assert push(grafana, "--boards", boards, "--folder", "Connection pools") == 0
    assert list(grafana.boards) == ["pool-detail", "pool-fleet"]
    assert grafana.folders["f2"] == "Connection pools"
    assert set(grafana.places.values()) == {"f2"}
    assert grafana.boards["pool-detail"]["id"] is None
    assert capsys.readouterr().out.splitlines() == [
        "  made the folder Connection pools",
        "  Detail: saved, /d/pool-detail/x",
        "  Fleet: saved, /d/pool-fleet/x",
        "2 boards saved",
    ]


@pytest.mark.parametrize("wanted", ["f1", "Databases"])
def test_a_folder_is_found_by_its_title_or_uid(wanted: str, grafana: Grafana, boards: Path) -> None:
    assert push(grafana, "--boards", boards, "--folder", wanted) == 0
    assert set(grafana.places.values()) == {"f1"}
    assert list(grafana.folders) == ["f1"]


def test_without_a_folder_boards_are_at_the_top(grafana: Grafana, boards: Path) -> None:
    assert push(grafana, "--boards", boards) == 0
    assert set(grafana.places.values()) == {None}


def test_the_bundled_boards_are_sent_if_no_others_are_named(grafana: Grafana) -> None:
    assert push(grafana) == 0
    assert {"pool-detail", "pool-fleet", "pool-slo", "pool-collector"} <= set(grafana.boards)


@pytest.mark.parametrize("wanted", ["prom-1", "Metrics"])
def test_boards_start_with_the_datasource_that_is_named(
    wanted: str, grafana: Grafana, boards: Path
) -> None:
    assert push(grafana, "--boards", boards, "--datasource", wanted) == 0
    variables = grafana.boards["pool-detail"]["templating"]["list"]
    assert [variable["current"] for variable in variables] == [
        {"text": "Metrics", "value": "prom-1"},
        {},
        {},
    ]


def test_a_datasource_may_have_any_name(grafana: Grafana, boards: Path) -> None:
    grafana.datasources["p2"] = ("Metrics / new? 100 %", "prometheus")
    assert push(grafana, "--boards", boards, "--datasource", "Metrics / new? 100 %") == 0
    variable = grafana.boards["pool-detail"]["templating"]["list"][0]
    assert variable["current"]["value"] == "p2"


def test_an_editor_who_may_not_see_datasources_names_one_by_uid(
    grafana: Grafana, boards: Path
) -> None:
    grafana.may_look_at_datasources = False
    assert push(grafana, "--boards", boards, "--datasource", "hidden") == 0
    variable = grafana.boards["pool-detail"]["templating"]["list"][0]
    assert variable["current"] == {"text": "hidden", "value": "hidden"}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [("nowhere", "there is no datasource nowhere"), ("tempo", "datasource tempo is no Prometheus")],
)
def test_a_datasource_that_boards_cannot_use_stops_all(
    wanted: str, said: str, grafana: Grafana, boards: Path, capsys: Capture
) -> None:
    assert push(grafana, "--boards", boards, "--datasource", wanted) == 1
    assert said in complaint(capsys)
    assert grafana.boards == {}


def test_a_board_that_is_there_is_only_replaced_when_asked_to(
    grafana: Grafana, boards: Path, capsys: Capture
) -> None:
    write(boards / "slo.json", uid="pool-slo", title="SLO")
    assert push(grafana, "--boards", boards) == 0
    grafana.boards.pop("pool-slo")
    assert push(grafana, "--boards", boards) == 1
    said = complaint(capsys)
    assert "detail.json: the board is there already" in said
    assert "replace it with --overwrite" in said
    assert "2 of 3 boards were not saved" in said
    assert grafana.boards["pool-detail"]["version"] == 1
    assert "pool-slo" in grafana.boards
    assert push(grafana, "--boards", boards, "--overwrite") == 0
    assert grafana.boards["pool-detail"]["version"] == 2


def test_a_title_that_is_taken_is_named(grafana: Grafana, boards: Path, capsys: Capture) -> None:
    grafana.instead = [(412, {"status": "name-exists", "message": "taken"}, {})]
    assert push(grafana, "--boards", boards) == 1
    assert "detail.json: the folder has another board of this title" in complaint(capsys)


def test_a_dry_run_only_looks(grafana: Grafana, boards: Path, capsys: Capture) -> None:
    options = ["--boards", boards, "--folder", "New", "--datasource", "Metrics", "--dry-run"]
    assert push(grafana, *options) == 0
    assert {asked.partition(" ")[0] for asked in grafana.asked} == {"GET"}
    assert capsys.readouterr().out.splitlines() == [
        "  would make the folder New",
        "  Detail: would be new",
        "  Fleet: would be new",
        "2 boards checked, nothing sent",
    ]


def test_a_dry_run_tells_of_boards_that_are_there(
    grafana: Grafana, boards: Path, capsys: Capture
) -> None:
    assert push(grafana, "--boards", boards) == 0
    assert push(grafana, "--boards", boards, "--dry-run") == 1
    assert "detail.json: the board is there already" in complaint(capsys)
    assert push(grafana, "--boards", boards, "--dry-run", "--overwrite") == 0
    assert "Detail: would replace the one that is there" in capsys.readouterr().out
    assert grafana.boards["pool-detail"]["version"] == 1


# What goes wrong


def test_a_wrong_token_is_told_without_saying_it(
    grafana: Grafana, boards: Path, capsys: Capture
) -> None:
    assert push(grafana, "--boards", boards, "--token", "glsa_wrong") == 1
    said = complaint(capsys)
    assert "does not know this token" in said
    assert "GRAFANA_TOKEN" in said
    assert "glsa_wrong" not in said
    assert grafana.boards == {}


def test_what_the_server_says_is_shown_without_the_token(
    grafana: Grafana, boards: Path, capsys: Capture
) -> None:
    grafana.instead = [(403, {"message": f"no rights\x1b for Bearer {TOKEN}"}, {})]
    assert push(grafana, "--boards", boards, "--folder", "Databases") == 1
    said = complaint(capsys)
    assert "this token may not do that" in said
    assert "(no rights? for Bearer ...)" in said
    assert "role Editor" in said


@pytest.mark.parametrize("token", [None, "", "two words", "new\nline", "naïve"])
def test_a_token_that_is_none_is_not_sent(
    token: str | None, grafana: Grafana, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRAFANA_TOKEN")
    if token is not None:
        monkeypatch.setenv("GRAFANA_TOKEN", token)
    assert push(grafana) == 2
    said = complaint(capsys)
    assert "set GRAFANA_TOKEN" in said
    assert not token or token not in said
    assert grafana.asked == []


def test_a_token_from_a_file_may_end_with_a_newline(
    grafana: Grafana, boards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFANA_TOKEN", f"{TOKEN}\n")
    assert push(grafana, "--boards", boards) == 0


def test_a_folder_that_vanishes_meanwhile_is_named(
    grafana: Grafana, boards: Path, capsys: Capture
) -> None:
    grafana.instead = [(200, [{"uid": "gone", "title": "Gone"}], {})]
    assert push(grafana, "--boards", boards, "--folder", "Gone") == 1
    assert "detail.json: " in (said := complaint(capsys))
    assert "answered 400 (folder not found)" in said


def test_what_is_busy_is_asked_again_when_it_says(grafana: Grafana, boards: Path) -> None:
    grafana.instead = [
        (503, b"starting", {}),
        (429, {}, {"Retry-After": "7"}),
        (429, {}, {"Retry-After": "86400"}),
    ]
    pauses: list[float] = []
    assert run(server(grafana, pauses), Options(boards=boards)) == 0
    assert pauses == [0.5, 7, 30]
    assert grafana.boards["pool-detail"]["version"] == 1


def test_what_stays_busy_is_given_up(grafana: Grafana, boards: Path, capsys: Capture) -> None:
    grafana.instead = [(503, b"starting", {})] * 4
    pauses: list[float] = []
    options = Options(boards=boards, folder="Databases")
    assert run(server(grafana, pauses), options) == 1
    assert pauses == [0.5, 1, 2]
    assert "nothing was sent: 127.0.0.1" in (said := complaint(capsys))
    assert "answered 503" in said


def test_a_board_whose_saving_is_in_doubt_is_not_sent_twice(
    grafana: Grafana, boards: Path, capsys: Capture
) -> None:
    (boards / "fleet.json").unlink()
    grafana.mute.set()
    pauses: list[float] = []
    assert run(server(grafana, pauses, timeout=0.1), Options(boards=boards)) == 1
    assert grafana.asked == ["POST /api/dashboards/db"]
    assert pauses == []
    said = complaint(capsys)
    assert "gave no answer within 0.1 s; it may have been saved" in said


def test_questions_without_an_answer_are_asked_again(
    grafana: Grafana, boards: Path, capsys: Capture
) -> None:
    grafana.mute.set()
    pauses: list[float] = []
    options = Options(boards=boards, folder="Databases")
    assert run(server(grafana, pauses, timeout=0.05), options) == 1
    assert grafana.asked == ["GET /api/folders"] * 4
    assert "gave no answer within 0.05 s; give --timeout more" in complaint(capsys)


@pytest.mark.parametrize("folder", [None, "x"])
def test_where_nothing_listens_is_said(folder: str | None, boards: Path, capsys: Capture) -> None:
    (boards / "fleet.json").unlink()
    pauses: list[float] = []
    port = closed_port()
    here = Server(url=f"http://127.0.0.1:{port}", token=TOKEN, pause=pauses.append)
    assert run(here, Options(boards=boards, folder=folder)) == 1
    assert f"nothing listens at 127.0.0.1:{port}; start Grafana" in complaint(capsys)
    assert pauses == [0.5, 1, 2]


def test_the_token_is_not_taken_elsewhere(grafana: Grafana, boards: Path, capsys: Capture) -> None:
    with serving() as other:
        grafana.instead = [(302, b"", {"Location": f"{other.url}/login?key=x"})] * 3
        assert push(grafana, "--boards", boards, "--folder", "Databases") == 1
        assert other.asked == []
    said = complaint(capsys)
    assert "sends us elsewhere to http://127.0.0.1; give --url" in said
    assert "key=x" not in said


@pytest.mark.parametrize("answer", [b"<html>hello</html>", 1, [1], [{"uid": "f1"}], b"", [None]])
def test_whoever_is_no_grafana_is_told(
    answer: Any, grafana: Grafana, boards: Path, capsys: Capture
) -> None:
    grafana.instead = [(200, answer, {})]
    assert push(grafana, "--boards", boards, "--folder", "Databases") == 1
    assert "is --url the root of a Grafana?" in complaint(capsys)
    assert grafana.boards == {}


def test_a_file_that_is_no_board_stops_all(grafana: Grafana, boards: Path, capsys: Capture) -> None:
    (boards / "broken.json").write_text("{")
    assert push(grafana, "--boards", boards) == 1
    assert "broken.json: no board of Grafana" in complaint(capsys)
    assert grafana.asked == []


@pytest.mark.parametrize(("name", "said"), [("", "no boards"), ("nowhere", "not read")])
def test_a_folder_without_boards_is_named(
    name: str, said: str, grafana: Grafana, tmp_path: Path, capsys: Capture
) -> None:
    assert push(grafana, "--boards", tmp_path / name) == 1
    assert said in complaint(capsys)


def test_certificates_that_cannot_be_read_are_named(
    grafana: Grafana, boards: Path, capsys: Capture
) -> None:
    assert push(grafana, "--boards", boards, "--cafile", boards / "none.pem") == 1
    assert "none.pem: not read (No such file or directory)" in complaint(capsys)


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("http://host:3000", "http://host:3000"),
        ("https://host/grafana/", "https://host/grafana"),
        ("https://[::1]:3000/", "https://[::1]:3000"),
    ],
)
def test_the_root_of_a_grafana_may_have_a_path(text: str, root: str) -> None:
    assert parse_root(text) == root


@pytest.mark.parametrize(
    "text",
    ["host:3000", "ftp://host", "http://", "http://admin:secret@host", "http://h/?secret=1", "h t"],
)
def test_what_is_no_root_is_refused_and_not_repeated(text: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["dashboards", "push", "--url", text])
    assert "secret" not in capsys.readouterr().err


def server(grafana: Grafana, pauses: list[float], timeout: float = 5.0) -> Server:
    return Server(url=grafana.url, token=TOKEN, timeout=timeout, pause=pauses.append)
