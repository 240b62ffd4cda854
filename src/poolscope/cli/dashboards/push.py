"""Send boards: find the folder and the datasource, save each board, say what happened."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from poolscope._version import __version__
from poolscope.assets import KitMissingError, files
from poolscope.cli.dashboards.grafana import Grafana, Problem, Server, field

Board = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to send, and how."""

    folder: str | None = None
    """Title or uid; one that is not there is made. None is the top."""
    datasource: str | None = None
    """Name or uid of the Prometheus that boards show at first; None is Grafana's default."""
    boards: Path | None = None
    """A folder of JSON files instead of the bundled boards."""
    overwrite: bool = False
    dry_run: bool = False


def run(server: Server, options: Options) -> int:
    """Return the exit status: 1 if a board was not saved, or in a dry run would not be."""
    try:
        boards = _boards(options.boards)
        grafana = Grafana(server)
    except (KitMissingError, ValueError) as error:
        return _complain(str(error))
    except OSError as error:
        why = error.strerror or type(error).__name__
        return _complain(f"{error.filename or server.cafile}: not read ({why}); check the path")
    try:
        place = _folder(grafana, options)
        if options.datasource is not None:
            uid, name = _datasource(grafana, options.datasource)
            for board in boards.values():
                _show(board, uid, name)
    except Problem as problem:
        return _complain(f"nothing was sent: {problem}")
    failed = 0
    for path, board in boards.items():
        try:
            print(f"  {board['title']}: {_save(grafana, board, place, options)}", flush=True)
        except Problem as problem:
            failed += 1
            _complain(f"{path}: {problem}")
    if failed:
        return _complain(f"{failed} of {len(boards)} boards were not saved")
    print(f"{len(boards)} boards {'checked, nothing sent' if options.dry_run else 'saved'}")
    return 0


def _boards(folder: Path | None) -> dict[str, Board]:
    """Return boards by the names of their files."""
    if folder is None:
        paths = [p for t, p in files("grafana").items() if t.suffix == ".json"]
    else:
        paths = sorted(folder.iterdir())
    boards = {path.name: _board(path) for path in paths if path.suffix == ".json"}
    if not boards:
        raise ValueError(f"no boards: {folder or 'this installation'} has no *.json of Grafana")
    return boards


def _board(path: Path) -> Board:
    try:
        board = json.loads(path.read_bytes())
    except ValueError:
        board = None
    match board:
        case {"uid": str(), "title": str()}:
            return {**board, "id": None}  # an id is that of another Grafana
    raise ValueError(f"{path}: no board of Grafana, which has a uid and a title; export it anew")


def _folder(grafana: Grafana, options: Options) -> str | None:
    """Return the uid of the folder, None for the top or for one that a dry run does not make."""
    wanted = options.folder
    if wanted is None:
        return None
    folders = grafana.get("/api/folders?limit=1000")
    for folder in folders if isinstance(folders, list) else [folders]:
        if wanted in (field(folder, "uid"), field(folder, "title")):
            return field(folder, "uid")
    if options.dry_run:
        print(f"  would make the folder {wanted}")
        return None
    made = grafana.post("/api/folders", {"title": wanted})
    print(f"  made the folder {wanted}")
    return field(made, "uid")


def _datasource(grafana: Grafana, wanted: str) -> tuple[str, str]:
    """Return uid and name of a datasource that boards can use."""
    for path in ("/api/datasources/uid/%s", "/api/datasources/name/%s"):
        try:
            found = grafana.get(path, wanted)
        except Problem as problem:
            if problem.status == HTTPStatus.FORBIDDEN:
                return wanted, wanted  # an Editor need not be allowed to look
            if problem.status != HTTPStatus.NOT_FOUND:
                raise
        else:
            if field(found, "type") != "prometheus":
                what = f"the datasource {wanted} is no Prometheus"
                raise Problem(what, "name one that speaks its language")
            return field(found, "uid"), field(found, "name")
    raise Problem(
        f"there is no datasource {wanted}", "give --datasource the name or uid of a Prometheus"
    )


def _show(board: Board, uid: str, name: str) -> None:
    """Have a board start with this datasource."""
    for variable in board.get("templating", {}).get("list", []):
        if variable.get("type") == "datasource" and variable.get("query") == "prometheus":
            variable["current"] = {"text": name, "value": uid}


def _save(grafana: Grafana, board: Board, folder: str | None, options: Options) -> str:
    if options.dry_run:
        return _would(grafana, board, options)
    body: dict[str, object] = {
        "dashboard": board,
        "message": f"poolscope {__version__}",
        "overwrite": options.overwrite,
    }
    if folder is not None:
        body["folderUid"] = folder
    try:
        saved = grafana.post("/api/dashboards/db", body)
    except Problem as problem:
        if problem.status != HTTPStatus.PRECONDITION_FAILED:
            raise
        raise _conflict(problem) from None
    return f"saved, {field(saved, 'url')}"


def _would(grafana: Grafana, board: Board, options: Options) -> str:
    try:
        grafana.get("/api/dashboards/uid/%s", board["uid"])
    except Problem as problem:
        if problem.status == HTTPStatus.NOT_FOUND:
            return "would be new"
        raise
    if not options.overwrite:
        raise _conflict(Problem("", "", kind="version-mismatch"))
    return "would replace the one that is there"


def _conflict(problem: Problem) -> Problem:
    if problem.kind == "name-exists":
        remedy = "name another --folder, or rename the other board"
        return Problem("the folder has another board of this title", remedy)
    if problem.kind == "version-mismatch":
        remedy = "replace it with --overwrite; its history keeps what was there"
        return Problem("the board is there already, maybe changed by somebody", remedy)
    return problem


def _complain(text: str) -> int:
    print(f"poolscope dashboards push: {text}", file=sys.stderr)
    return 1
