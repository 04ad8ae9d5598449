"""`magic-insert page`: the drag-and-drop page on this machine alone.

Bound to the loopback interface. Every address begins with a token that only the printed address has; requests under
another host name or from a page of another origin are refused; no page may load anything from elsewhere.
"""

import asyncio
import hmac
import json
import re
import secrets
import socket
import tempfile
import webbrowser
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from magic_insert.config.schema.jobs import PageConfig
from magic_insert.core.box import Box
from magic_insert.core.errors import UserError
from magic_insert.core.images import png_bytes
from magic_insert.core.jsonl import parse_json
from magic_insert.magic import Settings
from magic_insert.page.commands import file_name, words_of
from magic_insert.page.session import Result, Session, Wish, without_folders
from magic_insert.page.studio import Studio

HOST = "127.0.0.1"
MOST_BYTES = 32_000_000  # of a dropped picture
MOST_WORDS = 4096  # bytes of any other request
SESSION = re.compile(r"[0-9a-f]{8,40}")
PAUSE, PATIENCE = 0.15, 15.0  # seconds between two events, and without one
FILES = {"": "index.html", "page.js": "page.js", "page.css": "page.css"}
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass
class Guard:
    """Lets through what this machine's own page asks with the token, and marks every answer."""

    app: ASGIApp
    port: int
    token: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        names = [f"{host}:{self.port}" for host in (HOST, "localhost")]
        foreign = headers.get("host") not in names or headers.get("origin") not in (
            None,
            *(f"http://{name}" for name in names),
        )
        _, token, *rest = scope["path"].split("/", 2)
        if foreign or not hmac.compare_digest(token.encode(), self.token.encode()):
            refusal = Response("expected this machine's own page, opened by the printed address\n", 403)
            return await refusal(scope, receive, send_marked)
        await self.app({**scope, "path": f"/{''.join(rest)}", "raw_path": b""}, receive, send_marked)


def page_app(studio: Studio) -> Starlette:
    """What answers, below the token: the page, and what one browser (`session`) asks."""

    def routed(method: str, path: str, answer: Callable[[Session, Request], Any]) -> Route:
        async def endpoint(request: Request) -> Response:
            if not SESSION.fullmatch(request.path_params["session"]):
                raise HTTPException(404)
            try:
                session = studio.session(request.path_params["session"])
                made = await answer(session, request)
            except UserError as error:
                return JSONResponse({"trouble": without_folders(str(error))}, 400)
            return made if isinstance(made, Response) else JSONResponse(made)

        return Route(f"/{{session}}/{path}", endpoint, methods=[method])

    async def events(session: Session, request: Request) -> Response:
        return StreamingResponse(event_stream(studio, session), media_type="text/event-stream")

    async def upload(session: Session, request: Request) -> Any:
        kind, name = request.query_params.get("kind", ""), request.query_params.get("name", "picture.png")
        if kind not in ("subject", "scene"):
            raise UserError(f"expected kind to be subject or scene, got {kind!r}")
        content = await body_of(request, MOST_BYTES)
        return (await run_in_threadpool(studio.upload, session, content, name, kind)).told()

    async def picture(session: Session, request: Request) -> Response:
        item = studio.item(session, request.path_params["id"])
        if "file" in request.query_params:
            return FileResponse(item.path, filename=item.path.name)
        return shown(item.view)

    async def drop(session: Session, request: Request) -> Any:
        given = parse_json(await body_of(request, MOST_WORDS), "the request")
        wish = wish_of(studio, session, given)
        task = await run_in_threadpool(studio.drop, session, wish, given.get("instead"))
        return task.told()

    async def cancel(session: Session, request: Request) -> Any:
        studio.cancel(session, request.path_params["id"])
        return {}

    async def step(session: Session, request: Request) -> Response:
        task = session.tasks.get(request.path_params["id"])
        return shown(task.view if task else None)

    async def result(session: Session, request: Request) -> Response:
        found, part = result_of(session, request), request.path_params["part"]
        if part == "view":
            return shown(found.view)
        if part == "truth":
            return shown(None if found.verdict is None else found.verdict.truth)
        name = Path(file_name(found.wish))
        if part in ("png", "json"):
            return FileResponse(found.file.with_suffix(f".{part}"), filename=f"{name.stem}.{part}")
        if part in ("ora", "psd"):
            layered = found.file.with_suffix(f".{part}")
            await asyncio.wrap_future(studio.call(lambda: studio.drop_of(found).save(layered)))
            return FileResponse(layered, filename=f"{name.stem}.{part}")
        if part in ("subject", "shade", "light"):
            drop = await asyncio.wrap_future(studio.call(lambda: studio.drop_of(found)))
            if part not in drop.layers:
                raise HTTPException(404)
            return Response(png_bytes(drop.layers[part].pixels), media_type="image/png")
        raise HTTPException(404)

    async def keep(session: Session, request: Request) -> Any:
        return (await run_in_threadpool(studio.keep_as_scene, session, result_of(session, request))).told()

    def static(request: Request) -> Response:
        name = FILES.get(request.path_params.get("file", ""))
        if name is None:
            raise HTTPException(404)
        content = resources.files("magic_insert.page").joinpath("static", name).read_bytes()
        return Response(content, media_type=KINDS[Path(name).suffix])

    return Starlette(
        routes=[
            Route("/", static),
            Route("/{file}", static),
            routed("GET", "events", events),
            routed("POST", "items", upload),
            routed("GET", "items/{id}", picture),
            routed("POST", "drops", drop),
            routed("DELETE", "tasks/{id}", cancel),
            routed("GET", "tasks/{id}", step),
            routed("GET", "results/{id}/{part}", result),
            routed("POST", "results/{id}/scene", keep),
        ]
    )


def shown(view: tuple[bytes, str] | None) -> Response:
    """A picture of the page; not found while there is none."""
    if view is None:
        raise HTTPException(404)
    return Response(view[0], media_type=view[1], headers={"Cache-Control": "private, max-age=3600"})


def result_of(session: Session, request: Request) -> Result:
    """The result that the address names."""
    found = session.results.get(request.path_params["id"])
    if found is None:
        raise HTTPException(404)
    return found


async def body_of(request: Request, most: int) -> bytes:
    """The body, read no further than allowed; more is refused with 413 before it is received."""
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


def wish_of(studio: Studio, session: Session, given: Any) -> Wish:
    """What the browser asks for; raises `UserError` where it is not what the page would send."""
    box, knobs, kind = given.get("box"), given.get("knobs", {}), given.get("kind")
    whole = isinstance(box, list) and len(box) == 4 and all(type(number) is int for number in box)
    plain = isinstance(knobs, dict) and all(isinstance(value, str | int | float) for value in knobs.values())
    if not whole or not plain or kind not in ("preview", "full"):
        raise UserError("expected kind, box=[x, y, w, h] in whole pixels and plain knobs, got something else")
    subject, scene = (studio.item(session, given.get(part), part) for part in ("subject", "scene"))
    return Wish(kind, subject, scene, Box(*box), knobs)


async def event_stream(studio: Studio, session: Session) -> AsyncIterator[str]:
    """All that the browser is told, now and after every change, as Server-Sent Events."""
    changed, loop = asyncio.Event(), asyncio.get_running_loop()

    def wake() -> None:
        loop.call_soon_threadsafe(changed.set)

    with studio.lock:
        session.changed.add(wake)
    try:
        while not studio.stopped:
            changed.clear()
            yield f"data: {json.dumps(studio.told(session))}\n\n"
            await asyncio.sleep(PAUSE)
            try:
                await asyncio.wait_for(changed.wait(), PATIENCE)
            except TimeoutError:
                yield ":\n\n"
    finally:
        with studio.lock:
            session.changed.discard(wake)


class Server(uvicorn.Server):
    """Ends the open streams of events first, so that no browser keeps it waiting."""

    def __init__(self, config: uvicorn.Config, studio: Studio) -> None:
        super().__init__(config)
        self.studio = studio

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called when the server is to end."""
        self.studio.close()
        await super().shutdown(sockets)


@dataclass
class PageServer:
    """The page on a bound port; `address` is what a person opens."""

    server: uvicorn.Server
    bound: socket.socket
    address: str
    studio: Studio

    def serve(self) -> None:
        """Answers until stopped."""
        self.server.run(sockets=[self.bound])

    def stop(self) -> None:
        """Ends `serve`, from another thread."""
        self.server.should_exit = True


@contextmanager
def page_server(settings: Settings, out: Path, port: int) -> Any:
    """The studio and its server, not yet serving; dropped pictures and results are removed at the end.

    Raises:
        UserError: the port is taken, or weights are missing.
    """
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOST, port))
    except OSError as error:
        bound.close()
        raise UserError(f"expected port {port} to be free, got {error.strerror}; set port=0") from error
    port, token = bound.getsockname()[1], secrets.token_urlsafe(16)
    with tempfile.TemporaryDirectory(prefix="magic-insert-page-") as folder:
        studio = Studio(settings, words_of(settings), out, Path(folder))
        app = Guard(page_app(studio), port, token)
        options = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=1, backlog=1024
        )
        try:
            yield PageServer(Server(options, studio), bound, f"http://{HOST}:{port}/{token}/", studio)
        finally:
            studio.stop()
            bound.close()


def run_page(cfg: PageConfig) -> None:
    """Serves the page until stopped; prints the address first, and opens it where there is a browser."""
    with page_server(Settings.of(cfg), Path(cfg.out), cfg.port) as server:
        print(f"{server.address}\nstop with Ctrl-C", flush=True)
        if cfg.browser:
            webbrowser.open(server.address)
        server.serve()
