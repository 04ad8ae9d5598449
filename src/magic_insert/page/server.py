"""`magic-insert page`: drag and drop on this machine alone, behind a token that only the printed address has."""

import asyncio
import json
import re
import secrets
import webbrowser
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from magic_insert.config.schema.jobs import PageConfig
from magic_insert.core.box import Box
from magic_insert.core.errors import UserError, require_known
from magic_insert.core.images import png_bytes
from magic_insert.core.jsonl import scratch_folder
from magic_insert.magic import Settings
from magic_insert.page.session import Result, Session, Wish, file_name, words_of
from magic_insert.page.studio import Studio
from magic_insert.pages.server import STRICT, PageServer, body_of, json_of

MOST_BYTES = 32_000_000  # of a dropped picture
SESSION = re.compile(r"[0-9a-f]{8,40}")
PAUSE, PATIENCE = 0.1, 15.0  # seconds between two events, and without one
FILES = {"": "index.html", "page.js": "page.js", "page.css": "page.css"}
LAYERED = ("ora", "psd")
FILE_PARTS, LAYER_PARTS = ("png", "json", *LAYERED), ("subject", "shade", "light")
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


class Answers:
    """What answers one browser (`session`): a method for each path of `routes`, and the page's own files."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    @property
    def routes(self) -> list[Route]:
        """Every path of the page."""
        paths = (
            ("GET", "events", self.events),
            ("POST", "items", self.upload),
            ("GET", "items/{id}", self.picture),
            ("DELETE", "items/{id}", self.hide),
            ("POST", "drops", self.drop),
            ("DELETE", "tasks/{id}", self.cancel),
            ("GET", "tasks/{id}", self.step),
            ("GET", "results/{id}/{part}", self.result),
            ("POST", "results/{id}/scene", self.keep),
        )
        return [Route("/", static), Route("/{file}", static), *(self._route(*path) for path in paths)]

    def _route(self, method: str, path: str, answer: Callable[[Session, Request], Any]) -> Route:
        async def endpoint(request: Request) -> Response:
            if not SESSION.fullmatch(request.path_params["session"]):
                raise HTTPException(404)
            made = await answer(self.studio.session(request.path_params["session"]), request)
            return made if isinstance(made, Response) else JSONResponse(made)

        return Route(f"/{{session}}/{path}", endpoint, methods=[method])

    async def events(self, session: Session, request: Request) -> Response:
        """The state now and after every change."""
        return StreamingResponse(event_stream(self.studio, session), media_type="text/event-stream")

    async def upload(self, session: Session, request: Request) -> Any:
        """Takes a picture of the user's own."""
        kind, name = request.query_params.get("kind", ""), request.query_params.get("name", "picture.png")
        require_known("kind", kind, ("subject", "scene"))
        content = await body_of(request, MOST_BYTES)
        return (await run_in_threadpool(self.studio.upload, session, content, name, kind)).told()

    async def picture(self, session: Session, request: Request) -> Response:
        """A picture of the shelves as it is shown, or with `?file` as it came."""
        item = self.studio.item(session, request.path_params["id"])
        if "file" in request.query_params:
            # Its name is the user's, and says nothing about its type.
            return FileResponse(item.path, filename=item.path.name, media_type="application/octet-stream")
        return shown(item.view)

    async def hide(self, session: Session, request: Request) -> Any:
        """Takes a picture of the user's own off the shelf."""
        self.studio.hide(session, request.path_params["id"])
        return {}

    async def drop(self, session: Session, request: Request) -> Any:
        """Asks for a result."""
        given = await json_of(request)
        wish = wish_of(self.studio, session, given)
        return (await run_in_threadpool(self.studio.drop, session, wish, given.get("instead"))).told()

    async def cancel(self, session: Session, request: Request) -> Any:
        """Ends a task."""
        self.studio.cancel(session, request.path_params["id"])
        return {}

    async def step(self, session: Session, request: Request) -> Response:
        """What a task has drawn so far."""
        task = session.tasks.get(request.path_params["id"])
        return shown(task.view if task else None)

    async def result(self, session: Session, request: Request) -> Response:
        """A part of a result: `view`, a layer, a file to download, or the truth of the Toybox."""
        found, part = result_of(session, request), request.path_params["part"]
        if part == "view":
            return shown(found.view)
        if part in FILE_PARTS:
            file = found.file.with_suffix(f".{part}")
            if part in LAYERED:
                await self._worker(session, lambda: self.studio.drop_of(found).save(file))
            return FileResponse(file, filename=f"{Path(file_name(found.wish)).stem}.{part}")
        if part in LAYER_PARTS:
            drop = await self._worker(session, lambda: self.studio.drop_of(found))
            if part in drop.layers:
                return Response(png_bytes(drop.layers[part].pixels), media_type="image/png")
        if part == "truth":
            verdict = await self._worker(session, lambda: self.studio.judge(session, found))
            return shown(None if verdict is None else verdict.truth)
        raise HTTPException(404)

    async def keep(self, session: Session, request: Request) -> Any:
        """Puts a result on the shelf of scenes."""
        found = result_of(session, request)
        return (await run_in_threadpool(self.studio.keep_as_scene, session, found)).told()

    async def _worker(self, session: Session, work: Callable[[], Any]) -> Any:
        return await asyncio.wrap_future(self.studio.call(work, session))


def static(request: Request) -> Response:
    """A file of the page itself."""
    name = FILES.get(request.path_params.get("file", ""))
    if name is None:
        raise HTTPException(404)
    content = resources.files("magic_insert.page").joinpath("static", name).read_bytes()
    return Response(content, media_type=KINDS[Path(name).suffix])


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


def wish_of(studio: Studio, session: Session, given: dict[str, Any]) -> Wish:
    """What the browser asks for; raises `UserError` where it is not what the page would send."""
    box, knobs, kind = given.get("box", []), given.get("knobs", {}), str(given.get("kind"))
    whole = isinstance(box, list) and len(box) == 4 and all(type(number) is int for number in box)
    plain = isinstance(knobs, dict) and all(isinstance(value, str | int | float) for value in knobs.values())
    names = (given.get("subject"), given.get("scene"), given.get("instead") or "")
    named = all(isinstance(name, str) for name in names)
    if not (whole and plain and named) or kind not in ("preview", "full"):
        raise UserError(
            "expected kind, subject, scene, box=[x, y, w, h] in whole pixels and plain knobs, got something else"
        )
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


@contextmanager
def page_server(settings: Settings, port: int) -> Iterator[tuple[PageServer, Studio]]:
    """The server, not yet serving, and what is behind it; dropped pictures and results are removed at the end.

    Raises:
        UserError: the port is taken, or weights are missing.
    """
    with scratch_folder("magic-insert-page") as folder:
        studio = Studio(settings, words_of(settings), folder)
        token = secrets.token_urlsafe(16)
        try:
            with PageServer(
                Answers(studio).routes, port, policy=STRICT, token=token, at_end=studio.close
            ) as server:
                yield server, studio
        finally:
            studio.stop()


def run_page(cfg: PageConfig) -> None:
    """Serves the page until stopped; prints the address first, and opens it where there is a browser."""
    with page_server(Settings.of(cfg), cfg.port) as (server, _):
        print(f"{server.address}\nstop with Ctrl-C", flush=True)
        if cfg.browser:
            webbrowser.open(server.address)
        server.serve()
