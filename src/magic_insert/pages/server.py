"""An HTTP server for pages of this machine, for the study and for drag and drop: Starlette behind a guard.

Bound to the loopback interface alone. Requests under another host name or from a page of another origin are refused, so
that no foreign page reaches it through a reader's browser; a page may ask for a token in every address, too.
"""

import hmac
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import parse_json

HOST = "127.0.0.1"
MAX_BODY = 4096  # bytes of a request that is no picture
WAITING = 1024  # browsers that ask at the same time wait in line instead of being reset
IDLE = 300  # seconds that a connection stays open unused, so that none is closed under a request
ABSOLUTE = re.compile(r"(?<![\w./-])/(?:[^\s/,;:'\"]+/)+")  # the folders of an absolute path
COMMON = "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
INLINE = f"default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; {COMMON}"
STRICT = f"default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; {COMMON}"


@dataclass
class Guard:
    """Lets through what this machine's own page asks, under the token if there is one, and marks every answer."""

    app: ASGIApp
    port: int
    token: str
    policy: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                own = [(name, value) for name, value in self.marks.items() if name not in given]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        names = [f"{host}:{self.port}" for host in (HOST, "localhost")]
        origins = (None, *(f"http://{name}" for name in names))
        token, path = "", scope["path"]
        if self.token:
            token, _, path = path.removeprefix("/").partition("/")
            path = f"/{path}"
        known = hmac.compare_digest(token.encode(), self.token.encode())
        if headers.get("host") not in names or headers.get("origin") not in origins or not known:
            refusal = Response("expected this machine's own page, opened by the printed address\n", 403)
            return await refusal(scope, receive, send_marked)
        await self.app({**scope, "path": path, "raw_path": path.encode()}, receive, send_marked)

    @property
    def marks(self) -> Mapping[bytes, bytes]:
        """Headers of every answer, unless it has its own."""
        return {
            b"content-security-policy": self.policy.encode(),
            b"x-content-type-options": b"nosniff",
            b"referrer-policy": b"no-referrer",
            b"cross-origin-resource-policy": b"same-origin",
            b"cache-control": b"no-store",
        }


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, at_end: Callable[[], None]) -> None:
        super().__init__(config)
        self.at_end = at_end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.at_end()
        await super().shutdown(sockets)


class PageServer:
    """Answers with `routes` on a port of this machine; bound at once, serving from `serve` on.

    Args:
        port: 0 takes any free one.
        policy: the Content-Security-Policy, INLINE or STRICT.
        token: what every address begins with; empty for none.
        at_end: called when the server is to end, before open answers are cut off.

    Raises:
        UserError: the port is taken.
    """

    def __init__(
        self,
        routes: Sequence[BaseRoute],
        port: int,
        *,
        policy: str = INLINE,
        token: str = "",
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._bound = socket.socket()
        self._bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._bound.bind((HOST, port))
            self._bound.listen(WAITING)
        except OSError as error:
            self._bound.close()
            raise UserError(f"expected port {port} to be free, got {error.strerror}; set port=0") from error
        self.port = self._bound.getsockname()[1]
        self.address = f"http://{HOST}:{self.port}/" + (f"{token}/" if token else "")
        app = Starlette(routes=routes, exception_handlers={UserError: refused})
        options = uvicorn.Config(
            Guard(app, self.port, token, policy),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=1,
            timeout_keep_alive=IDLE,
            backlog=WAITING,
        )
        self._server = _Server(options, at_end)

    def __enter__(self) -> "PageServer":
        return self

    def __exit__(self, *error: Any) -> None:
        self._bound.close()

    def serve(self) -> None:
        """Answers until stopped."""
        self._server.run(sockets=[self._bound])

    def stop(self) -> None:
        """Ends `serve`, from another thread."""
        self._server.should_exit = True


async def refused(request: Request, error: Exception) -> Response:
    """What a browser is told of input that does not fit."""
    return JSONResponse({"trouble": without_folders(str(error))}, 400)


async def body_of(request: Request, most: int = MAX_BODY) -> bytes:
    """The body, read no further than allowed; a longer one is refused with 413."""
    declared = request.headers.get("content-length", "0")
    content = bytearray()
    if declared.isdecimal() and int(declared) <= most:
        async for block in request.stream():
            content += block
            if len(content) > most:
                break
        else:
            return bytes(content)
    raise HTTPException(413, f"expected at most {most} bytes", headers={"Connection": "close"})


async def json_of(request: Request) -> dict[str, Any]:
    """The JSON object that a page sent; not found for another media type, which a form of a foreign page could send.

    Raises:
        UserError: it is no object.
    """
    if request.headers.get("content-type") != "application/json":
        raise HTTPException(404)
    found = parse_json(await body_of(request), "the request")
    if not isinstance(found, dict):
        raise UserError(f"expected a JSON object in the request, got {type(found).__name__}")
    return found


def without_folders(value: Any) -> Any:
    """JSON values without the folders of this machine: of an absolute path its last name stays."""
    if isinstance(value, Mapping):
        return {key: without_folders(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(entry) for entry in value]
    return ABSOLUTE.sub("", value) if isinstance(value, str) else value
