"""Serves a study to browsers on this machine and stores the answers as they come, one JSON line each.

Bound to 127.0.0.1 alone. Only the page, the pictures that study.json lists and two small services are known: `next`
(the lowest number without an answer) and `answers`. Everything else, the key above all, is not found; requests under
another host name are refused, so no foreign page can reach the study through a reader's browser.
"""

import json
import sys
import threading
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from magic_insert.config.schema import StudyConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import append_jsonl, read_json, read_jsonl
from magic_insert.evaluation.study_answers import check_answer

HOST = "127.0.0.1"
MAX_BODY = 4096
POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class StudyHandler(BaseHTTPRequestHandler):
    """Answers one request for the study in `folder`."""

    server_version = "magic-insert"
    sys_version = ""
    timeout = 30

    server: "StudyServer"

    def __init__(self, folder: Path, study: dict[str, Any], lock: threading.Lock, *arguments: Any) -> None:
        self.folder, self.study, self.lock = folder, study, lock
        super().__init__(*arguments)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the answers themselves are the record."""

    def _is_local(self) -> bool:
        port = self.server.server_port
        if self.headers.get("Host") in (f"{HOST}:{port}", f"localhost:{port}"):
            return True
        self._reply(HTTPStatus.FORBIDDEN, b"expected this machine's own name", "text/plain")
        return False

    def _reply(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        """The page, a picture, or the next free number."""
        if not self._is_local():
            return
        path = self.path.split("?", 1)[0]
        folder, _, name = path.removeprefix("/").rpartition("/")
        if path in ("/", "/index.html"):
            self._reply(HTTPStatus.OK, (self.folder / "index.html").read_bytes(), "text/html; charset=utf-8")
        elif folder == "pictures" and name in self.study["pictures"]:
            self._reply(HTTPStatus.OK, (self.folder / "pictures" / name).read_bytes(), "image/png")
        elif path == "/next":
            self._reply(HTTPStatus.OK, json.dumps({"rater": self._next_rater()}).encode(), "application/json")
        else:
            self._reply(HTTPStatus.NOT_FOUND, b"not found", "text/plain")

    def do_POST(self) -> None:
        """Stores an answer."""
        if not self._is_local():
            return
        length = self.headers.get("Content-Length", "")
        if self.path != "/answers" or self.headers.get("Content-Type") != "application/json":
            self._reply(HTTPStatus.NOT_FOUND, b"not found", "text/plain")
            return
        if not length.isdecimal() or int(length) > MAX_BODY:
            self._reply(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"expected a short answer", "text/plain")
            self.close_connection = True
            return
        try:
            body = json.loads(self.rfile.read(int(length)))
            answer = check_answer(body, self.study["study"], self.study["forms"], "this answer")
        except (UserError, ValueError) as error:  # ValueError: not JSON, or not UTF-8
            self._reply(HTTPStatus.BAD_REQUEST, str(error).encode(), "text/plain; charset=utf-8")
            return
        with self.lock:
            append_jsonl(self.folder / "answers.jsonl", answer)
        self._reply(HTTPStatus.OK, b"{}", "application/json")

    def _next_rater(self) -> int:
        path = self.folder / "answers.jsonl"
        with self.lock:
            begun = {row["rater"] for row in read_jsonl(path)} if path.is_file() else set()
        free = (number for number in range(len(self.study["forms"])) if number not in begun)
        return next(free, 0)


class StudyServer(ThreadingHTTPServer):
    """Serves each request in a thread that ends with the process."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up (it left the page) is no error; anything else is told as usual."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def study_server(folder: Path, port: int) -> StudyServer:
    """A server for the study in `folder`, bound and not yet serving; port 0 takes any free one.

    Raises:
        UserError: no study there, or the port is taken.
    """
    study = read_json(folder / "study.json")
    handler = partial(StudyHandler, folder, study, threading.Lock())
    try:
        return StudyServer((HOST, port), handler)
    except OSError as error:
        raise UserError(f"expected port {port} to be free, got {error.strerror}; set port=0") from error


def run_serve(cfg: StudyConfig) -> None:
    """Serves the study in `cfg.out` until stopped; prints the address first."""
    with study_server(Path(cfg.out), cfg.port) as server:
        print(f"http://{HOST}:{server.server_address[1]}/", flush=True)
        server.serve_forever()
