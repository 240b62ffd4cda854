"""A server that speaks the part of Grafana's HTTP API which boards are pushed by."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "glsa_secret0123456789"
Reply = tuple[int, Any]


class Grafana(ThreadingHTTPServer):
    """Keeps folders and boards, with versions; `instead` answers the next requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.folders = {"f1": "Databases"}
        self.datasources = {"prom-1": ("Metrics", "prometheus"), "tempo": ("Traces", "tempo")}
        self.boards: dict[str, dict[str, Any]] = {}
        self.places: dict[str, str | None] = {}
        self.asked: list[str] = []
        self.may_look_at_datasources = True
        self.instead: list[tuple[int, Any, dict[str, str]]] = []
        self.mute = threading.Event()
        """Set while requests get no answer."""
        self.over = threading.Event()

    def reply(self, method: str, path: str, body: Any) -> Reply:
        match method, path.split("/")[2:]:
            case "GET", ["folders"]:
                return 200, [{"uid": u, "title": t, "id": 1} for u, t in self.folders.items()]
            case "POST", ["folders"]:
                uid = f"f{len(self.folders) + 1}"
                self.folders[uid] = body["title"]
                return 200, {"uid": uid, "title": body["title"]}
            case "GET", ["datasources", key, name]:
                return self._datasource(key, unquote(name))
            case "GET", ["dashboards", "uid", uid]:
                board = self.boards.get(uid)
                return (200, {"dashboard": board}) if board else (404, {"message": "not found"})
            case "POST", ["dashboards", "db"]:
                return self._save(**body)
        return 404, {"message": "Not found"}

    def _datasource(self, key: str, wanted: str) -> Reply:
        if not self.may_look_at_datasources:
            return 403, {"message": "You'll need additional permissions: datasources:read"}
        for uid, (name, kind) in self.datasources.items():
            if wanted == {"uid": uid, "name": name}[key]:
                return 200, {"uid": uid, "name": name, "type": kind}
        return 404, {"message": "Data source not found"}

    def _save(
        self, dashboard: dict[str, Any], message: str, overwrite: bool, folderUid: str | None = None
    ) -> Reply:
        if folderUid is not None and folderUid not in self.folders:
            return 400, {"message": "folder not found", "status": "not-found"}
        uid = dashboard["uid"]
        before = self.boards.get(uid)
        if before and not overwrite and before["version"] != dashboard.get("version"):
            text = "The dashboard has been changed by someone else"
            return 412, {"status": "version-mismatch", "message": text}
        version = before["version"] + 1 if before else 1
        self.boards[uid] = dashboard | {"version": version}
        self.places[uid] = folderUid
        return 200, {"status": "success", "uid": uid, "version": version, "url": f"/d/{uid}/x"}


class Handler(BaseHTTPRequestHandler):
    server: Grafana

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: Any) -> None:
        server, path = self.server, urlsplit(self.path).path
        server.asked.append(f"{self.command} {path}")
        if server.mute.is_set():
            server.over.wait()
            return
        headers: dict[str, str] = {}
        if server.instead:
            status, answer, headers = server.instead.pop(0)
        elif self.headers["Authorization"] != f"Bearer {TOKEN}":
            status, answer = 401, {"message": f"Invalid API key {self.headers['Authorization']}"}
        else:
            status, answer = server.reply(self.command, path, body)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Grafana]:
    with Grafana() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()
