"""A small HTTP server for pages of this machine: `route` finds what answers a request, everything else is not found.

Bound to this machine alone. Requests under another host name, or from a page of another origin, are refused, so that no
foreign page reaches it through a reader's browser.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import parse_json

HOST = "127.0.0.1"
MAX_BODY = 4096
POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Reply:
    """What a browser gets: a body of a `kind` (its media type)."""

    body: bytes
    kind: str = "application/json"
    status: HTTPStatus = HTTPStatus.OK


# Answers one request from its JSON body (None for GET); raises UserError for a body that does not fit.
Answer = Callable[[Any], Reply]
Route = Callable[[str, str], Answer | None]


class PageServer(ThreadingHTTPServer):
    """Answers each request in a thread that ends with the process; bound at once, serving from `serve_forever` on.

    Args:
        route: from method ("GET", "POST") and path to what answers there, or None.
        port: 0 takes any free one.

    Raises:
        UserError: the port is taken.
    """

    daemon_threads = True
    request_queue_size = 512  # browsers that ask at the same time wait in line instead of being reset

    def __init__(self, route: Route, port: int) -> None:
        self.route = route
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise UserError(f"expected port {port} to be free, got {error.strerror}; set port=0") from error

    @property
    def address(self) -> str:
        """What a person opens."""
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up (it left the page) is no error; anything else is printed as usual."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version, timeout = "magic-insert", "", 30
    server: PageServer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what is stored is the record."""

    def do_GET(self) -> None:
        self._send(self._answer("GET"))

    def do_POST(self) -> None:
        self._send(self._answer("POST"))

    def _answer(self, method: str) -> Reply:
        names = [f"{host}:{self.server.server_port}" for host in (HOST, "localhost")]
        origin = self.headers.get("Origin")
        if self.headers.get("Host") not in names or origin not in (
            None,
            *(f"http://{name}" for name in names),
        ):
            return _line(HTTPStatus.FORBIDDEN, "expected this machine's own name")
        answer = self.server.route(method, self.path.split("?", 1)[0])
        # A form of a foreign page cannot send JSON without asking first.
        if answer is None or (method == "POST" and self.headers.get("Content-Type") != "application/json"):
            return _line(HTTPStatus.NOT_FOUND, "not found")
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True
            return _line(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {MAX_BODY} bytes")
        try:
            return answer(
                parse_json(self.rfile.read(int(length)), "the request") if method == "POST" else None
            )
        except UserError as error:
            return _line(HTTPStatus.BAD_REQUEST, str(error))

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(reply.body)


def _line(status: HTTPStatus, text: str) -> Reply:
    return Reply(text.encode(), "text/plain; charset=utf-8", status)
