"""The page's worker: one thread for all browsers, which take turns.

What takes about a second (cutting out, a preview, another place for a picture that is drawn) goes before what takes a
minute (learning, redrawing), and also between two steps of it, in the same thread. A task is cancelled by raising in
its callback, so within one step.
"""

import ctypes
import hashlib
import secrets
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from magic_insert.config.freeze import overridden
from magic_insert.config.schema.shared import FREE_INSERTERS
from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError, require_known
from magic_insert.core.events import OnEvent, Preview, no_event
from magic_insert.core.images import as_float, read_picture
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.core.records import Scene, Subject
from magic_insert.core.threads import beside_a_worker
from magic_insert.drops import Drop, Redrawn
from magic_insert.magic import LONGEST, MagicInsert, Settings
from magic_insert.models.segment import NothingFound, coarse_cut
from magic_insert.page.session import (
    LIGHT_KNOBS,
    Recent,
    Result,
    Session,
    Task,
    Turns,
    Wish,
    joined_name,
    recipes,
)
from magic_insert.page.shelf import (
    DRAFT,
    Item,
    Verdict,
    judge,
    keep_upload,
    learned_items,
    reduced,
    scaled,
    smaller,
    toy_items,
    view_of,
)
from magic_insert.pages.server import without_folders
from magic_insert.paths import subjects_dir
from magic_insert.stylizers import needs_personalization

KNOBS = ("stylizer.strength", "style.handover", "style.degree", "sampling.seed", *LIGHT_KNOBS)
URGENT, SHELF, LONG = range(3)  # queues: what somebody waits for, what fills the shelves, what takes a minute
MOST_SESSIONS, MOST_ITEMS, MOST_TASKS, MOST_RESULTS = 64, 64, 400, 48
BETWEEN = 4  # quick things of a browser between two steps of a long one
PATIENCE = 10.0  # seconds that the loading of the model stands still at most, at a time
FAILED = "the work failed; the terminal of magic-insert page says why"
CROP = "crop it closer, or drop one with a transparent ground"
ANOTHER = "ask for four seeds, or do without redrawing"
Made = TypeVar("Made")


class Cancelled(Exception):
    """Raised in the callback of a task; the work ends there."""


class Studio:
    """Everything behind the page; what a browser asks for returns at once.

    Args:
        settings: the model and how it is used where a browser asks for nothing else.
        words: these settings as words of `magic-insert insert`.
        folder: for dropped pictures and results; the caller removes it.
    """

    def __init__(self, settings: Settings, words: Sequence[str], folder: Path) -> None:
        self.magic, self.words, self.folder = MagicInsert(settings), list(words), folder
        self.lock = threading.RLock()
        self._alone = threading.RLock()  # held by what is quick, and while a network is built
        self.sessions: dict[str, Session] = {}
        self.shelf: dict[str, Item] = {}
        model = settings.model
        self.redraws = "toys" if model.toys else "nothing" if self.magic.on_cpu else "all"
        self.ready = False
        self._queues = [Turns[Callable[[], None]]() for _ in (URGENT, SHELF, LONG)]
        self._filled = threading.Condition(self.lock)
        self._nobody_waits = threading.Event()  # for what is urgent
        self._nobody_waits.set()
        self._coarse_cuts, self._cuts = Recent[Subject](12), Recent[Subject](12)
        self._scenes = Recent[Scene](6)
        self._toned, self._redrawn, self._drops = Recent[Redrawn](6), Recent[Redrawn](32), Recent[Drop](4)
        self.stopped = False
        self._open_shelves()
        self._thread = threading.Thread(target=self._work, name="page worker", daemon=True)
        self._loading = threading.Thread(target=self._load, name="page model", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while True:
            with self._filled:
                self._filled.wait_for(lambda: self.stopped or any(self._queues))
                if self.stopped:
                    return
            self._between_steps()
            self._do_next(LONG)
            # glibc can return to the system what was freed, and keeps 0.4 GB after a large result.
            if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
                library.malloc_trim(0)

    def _between_steps(self) -> None:
        """Does what is quick while a long task waits; of each browser a few things, so that the long one goes on."""
        for rank in (URGENT, SHELF):
            with self.lock:
                owners = len(self._queues[rank].lines)
            for _ in range(BETWEEN * owners):
                self._do_next(rank)

    def _do_next(self, rank: int) -> None:
        """Does the first thing in the queue, if there is one, and prints what it raises: one picture's fault must not
        end the page for everybody."""
        with self.lock:
            if self.stopped or not self._queues[rank]:
                return
            work = self._queues[rank].take()
        try:
            with nullcontext() if rank == LONG else self._alone:
                work()
        except Exception:
            traceback.print_exc(file=sys.stderr)
        with self.lock:
            if not self._queues[URGENT]:
                self._nobody_waits.set()

    def _put(self, work: Callable[[], None], rank: int, session: Session | None = None) -> None:
        with self._filled:
            self._queues[rank].put("" if session is None else session.id, work)
            if rank == URGENT:
                self._nobody_waits.clear()
            self._filled.notify()

    def call(self, work: Callable[[], Made], session: Session | None = None) -> "Future[Made]":
        """Does `work`, which a session waits for, in the worker's thread, before anything long."""
        future: Future[Made] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except Exception as error:  # the caller's, not the worker's
                future.set_exception(error)

        self._put(run, URGENT, session)
        return future

    def close(self) -> None:
        """Cancels everything; browsers are told no more."""
        with self._filled:
            self.stopped = True
            for session in self.sessions.values():
                for task in session.tasks.values():
                    self.cancel(session, task.id)
            self._filled.notify()
        self._tell()

    def stop(self) -> None:
        """Closes, and waits for the worker."""
        self.close()
        self._thread.join()

    def _tell(self, session: Session | None = None) -> None:
        with self.lock:
            sessions = list(self.sessions.values()) if session is None else [session]
            listeners = [changed for one in sessions for changed in one.changed]
        for changed in listeners:
            changed()

    # Shelves

    def _open_shelves(self) -> None:
        """Puts pictures on the shelves, and in the queue what has to be found out about them, one of a kind first."""
        self.toys = toy_items()
        self.shelf = {name: toy.item for name, toy in self.toys.items()}
        shipped = self.magic.settings.model.source is None
        for item in self.shelf.values():
            # What ships is the shipped model's; `_note_learned` knows for sure, once the model is loaded.
            item.learned = shipped and item.path.is_relative_to(subjects_dir())
        learned = learned_items(self.magic.settings.subjects)
        self.shelf |= {item.id: item for item in learned if item.title not in self.toys}
        scene, subject = (
            next(item for item in self.shelf.values() if item.kind == kind) for kind in ("scene", "subject")
        )
        for item in (scene, subject):
            self._put(partial(self._examine, item), SHELF)
        self._put(partial(self._warm_up, scene, subject), SHELF)
        for item in self.shelf.values():
            if item not in (scene, subject):
                self._put(partial(self._examine, item), SHELF)

    def _warm_up(self, scene: Item, subject: Item) -> None:
        """Draws a first preview for nobody: what is imported and loaded for it is there when somebody waits."""
        assert scene.box is not None
        wish = Wish("preview", subject, scene, scene.box, {})
        self._magic(wish).place(self._picture(wish), self._scene(scene), wish.box)

    def _load(self) -> None:
        """Loads the model beside the worker, which previews meanwhile; what is learned can only be known afterwards."""
        try:
            with beside_a_worker(lambda: self._nobody_waits.wait(PATIENCE), self._alone):
                self.magic.load()
            _ = self.magic.models.fingerprint  # now, while no LoRA is in the model
        except UserError as error:
            if not self.stopped:  # else Python ends what it needs
                print(f"magic-insert: {error}", file=sys.stderr)
        else:
            self.ready = True
            self._put(self._show_learned, SHELF)

    def load(self) -> None:
        """Begins to load the model, unless that was begun; not before the first picture, which it would hold up."""
        with self.lock:
            if not self._loading.ident:
                self._loading.start()

    def _show_learned(self) -> None:
        with self.lock:
            own = [item for session in self.sessions.values() for item in session.items.values()]
        for item in [*self.shelf.values(), *own]:
            if not item.coarse:  # else with the exact cut
                self._note_learned(item)
        self._tell()

    def _examine(self, item: Item) -> None:
        """Finds out what the browser has to know of a picture."""
        try:
            if item.kind == "scene":
                item.look(self._scene(item))
            elif item.origin == "own" and (coarse := self._coarse(item)) is not None:
                self._coarse_cuts.get(item.path, lambda: coarse)
                item.cut(coarse, coarse=True)  # the exact cut is made when it is drawn
            else:
                item.cut(self._subject(item))
                self._note_learned(item)
        except UserError as error:
            item.trouble = trouble_of(error, CROP)
        except Exception:
            item.trouble = FAILED
            raise
        finally:
            self._tell()

    def _note_learned(self, item: Item) -> None:
        if item.kind == "subject" and item.size is not None and self.ready:
            item.learned = self.magic.learned(self._subject(item)) is not None

    def _coarse(self, item: Item) -> Subject | None:
        """A first cut of a picture, where the cut takes a second; None also where it finds nothing."""
        pixels, alpha, name = read_picture(item.path, longest=LONGEST)
        try:
            matte = coarse_cut(as_float(pixels), alpha, self.magic.settings.segmenter.name)
        except NothingFound:  # the exact one looks twice
            return None
        return None if matte is None else Subject(matte.rgb, matte.alpha, name)

    def _subject(self, item: Item, on_event: OnEvent = no_event) -> Subject:
        def exact() -> Subject:
            try:
                return self.magic.subject(item.path, text=item.text, on_event=on_event)
            except UserError as error:
                item.trouble = trouble_of(error, CROP)
                raise UserError(item.trouble) from error

        cut = self._cuts.get(item.path, exact)
        if item.coarse:
            item.cut(cut)
            self._note_learned(item)
        return cut

    def _scene(self, item: Item) -> Scene:
        return self._scenes.get(item.path, lambda: self.magic.scene(item.path))

    # What a browser asks for

    def session(self, id: str) -> Session:
        """The session of that name, made if there is none; a browser that is gone makes room.

        Raises:
            UserError: too many browsers are at work.
        """
        with self.lock:
            if id not in self.sessions and len(self.sessions) >= MOST_SESSIONS:
                # No browser listens to them, and nothing is to be done.
                idle = [one for one in self.sessions.values() if not one.changed and not one.waits]
                if not idle:
                    raise UserError(
                        f"expected at most {MOST_SESSIONS} browsers at once, got one more; close one"
                    )
                gone = min(idle, key=lambda session: session.used)
                del self.sessions[gone.id]
                shutil.rmtree(self.folder / gone.id, ignore_errors=True)
            session = self.sessions.setdefault(id, Session(id))
            session.used = time.monotonic()
            return session

    def item(self, session: Session, id: Any, kind: str | None = None) -> Item:
        """A picture that the session may see; raises `UserError` for any other."""
        with self.lock:
            found = session.items.get(id) or self.shelf.get(id)
        if found is None or found.kind != (kind or found.kind):
            raise UserError(
                f"expected the id of a {kind or 'picture'} on the shelf, got {id!r}; reload the page"
            )
        return found

    def told(self, session: Session) -> dict[str, Any]:
        """What the browser is told, as JSON: all that it has, with what stands on everybody's shelves. `redraws`: what
        the model draws well and soon; `others`: whether other browsers have asked for pictures, too."""
        with self.lock:
            return {
                "ready": self.ready,
                "redraws": self.redraws,
                "others": any(one.waits for one in self.sessions.values() if one is not session),
                "items": [item.told() for item in [*self.shelf.values(), *session.items.values()]],
                "tasks": [task.told() for task in session.tasks.values()],
                "results": [result.told() for result in session.results.values()],
            }

    def upload(self, session: Session, content: bytes, name: str, kind: str) -> Item:
        """Takes a dropped picture; the same one again is the one that is there.

        Raises:
            UserError: not a sound picture within the limits, or too many of them.
        """
        id = f"own-{digest([kind, name, hashlib.sha256(content).hexdigest()])}"
        with self.lock:
            if id in session.items:
                session.items[id].hidden = False
                self._tell(session)
                return session.items[id]
            if len(session.items) >= MOST_ITEMS:
                session.forget_oldest()
        made = keep_upload(content, name, kind, id, self.folder / session.id)
        with self.lock:
            item = session.items.setdefault(id, made)
        self._put(partial(self._examine, item), URGENT, session)
        self._tell(session)
        return item

    def hide(self, session: Session, id: str) -> None:
        """Takes a picture of the user's own off the shelf; the same picture dropped again is back.

        Raises:
            UserError: it is none of the user's own.
        """
        with self.lock:
            if id not in session.items:
                raise UserError(f"expected the id of a picture of your own, got {id!r}; reload the page")
            session.items[id].hidden = True
        self._tell(session)

    def drop(self, session: Session, wish: Wish, instead: str | None = None) -> Task:
        """Asks for a picture; one that is on its way already is not drawn twice. A task `instead` of which this is
        asked for is cancelled; or, where it draws the same picture, goes on and puts it into the new box.

        Raises:
            UserError: the box is not inside the scene, or a setting is out of range.
        """
        trouble = wish.scene.trouble or wish.subject.trouble
        if trouble or wish.scene.size is None or wish.subject.size is None:
            raise UserError(trouble or "expected pictures that are ready, wait a second")
        wish.box.require_inside(wish.scene.size[1], wish.scene.size[0])
        settings = self._settings(wish)
        with self.lock:
            for task in session.tasks.values():
                if task.live and task.wish.told() == wish.told():
                    return task
            old = session.tasks.get(instead or "")
            if old is not None and old.live and not old.placed and old.wish.drawing == wish.drawing:
                old.wish = wish
                self._tell(session)
                return old
            if old is not None:
                self.cancel(session, old.id)
            for done in [task.id for task in session.tasks.values() if not task.live]:
                del session.tasks[done]
            if len(session.tasks) >= MOST_TASKS:
                raise UserError(f"expected at most {MOST_TASKS} pictures in the queue, got one more; wait")
            drawn = wish.kind == "preview" or wish.drawing in self._redrawn  # or it takes a minute
            task = Task(secrets.token_hex(6), wish, quick=drawn and settings.inserter.name in FREE_INSERTERS)
            session.tasks[task.id] = task
        self._put(partial(self._run, session, task), URGENT if task.quick else LONG, session)
        self._tell(session)
        return task

    def cancel(self, session: Session, id: str) -> None:
        """Ends a task before its next step."""
        with self.lock:
            task = session.tasks.get(id)
            if task is not None and task.live:
                task.state = "cancelled"
        self._tell(session)

    def keep_as_scene(self, session: Session, result: Result) -> Item:
        """A result as a scene for another subject."""
        name = joined_name(result.wish.scene, "with", result.wish.subject)
        item = self.upload(session, result.file.read_bytes(), name, "scene")
        if "own" not in (result.wish.scene.origin, result.wish.subject.origin):
            item.origin = "result"
        return item

    # Drawing

    def _settings(self, wish: Wish) -> Settings:
        """The settings with the wish's own; raises `UserError` for a key that is not the page's or does not fit."""
        groups: dict[str, dict[str, Any]] = {}
        for key, value in wish.knobs.items():
            require_known("a setting", key, KNOBS)
            group, _, name = key.partition(".")
            groups.setdefault(group, {})[name] = value
        own = self.magic.settings
        return replace(own, **{g: overridden(getattr(own, g), values, g) for g, values in groups.items()})

    def _magic(self, wish: Wish) -> MagicInsert:
        settings = self._settings(wish)
        groups = {name: getattr(settings, name) for name in ("stylizer", "style", "sampling", "inserter")}
        return self.magic.using(mode=wish.kind, **groups)

    def _run(self, session: Session, task: Task) -> None:
        began = time.perf_counter()

        def on_event(stage: str, step: int, total: int, preview: Preview | None = None) -> None:
            if task.state == "cancelled":
                raise Cancelled
            task.progress(stage, step, total)
            if preview is not None and task.drafted is None:
                task.show(preview, last=step == total)
            self._tell(session)
            if not task.quick:
                self._between_steps()

        with self.lock:
            if not task.live:
                return
            task.state = "running"
        try:
            drop, wish = self._draw(task, on_event)
            result = self._keep(session, drop, wish, time.perf_counter() - began)
            if self.redraws != "nothing":
                self.load()
            with self.lock:
                if not task.live:
                    raise Cancelled
                task.state = "done"
                session.results[result.id] = result
                for old in list(session.results)[:-MOST_RESULTS]:
                    for file in session.results.pop(old).file.parent.glob(f"{old}.*"):
                        file.unlink(missing_ok=True)
        except Cancelled:
            pass
        except UserError as error:
            task.state, task.trouble = "failed", trouble_of(error, ANOTHER)
        except Exception:
            task.state, task.trouble = "failed", FAILED
            raise
        finally:
            self._tell(session)

    def _draw(self, task: Task, on_event: OnEvent) -> tuple[Drop, Wish]:
        """The picture, and the wish it fulfils: the box may have been moved while it was drawn."""
        if task.wish.kind == "full":
            on_event("load", 0, 1, None)
            self.load()
            while self._loading.is_alive():
                on_event("load", 0, 1, None)  # does what is quick meanwhile
                self._loading.join(0.05)
        scene = self._scene(task.wish.scene)
        while True:
            wish = task.wish
            if wish.kind == "preview" and (image := self._draft(wish, scene, on_event)) is not None:
                if task.wish is not wish:
                    continue
                task.draft(image, wish.box)
                self._tell()
            picture = self._picture(wish, on_event)
            if wish.subject.coarse:  # somebody else has drawn it
                self._subject(wish.subject, on_event)
            drop = self._magic(wish).place(picture, scene, wish.box, on_event=on_event)
            with self.lock:
                task.placed = task.wish is wish
            if task.placed:
                return drop, wish

    def _draft(self, wish: Wish, scene: Scene, on_event: OnEvent) -> Image.Image | None:
        """A smaller preview, in a part of the time; None where the scene is small and the subject cut out."""
        if max(scene.size) <= DRAFT and not wish.subject.coarse:
            return None
        magic, small = self._magic(wish), reduced(scene, DRAFT)

        def unseen(stage: str, step: int, total: int, preview: Preview | None = None) -> None:
            on_event(stage, step, total, None)

        if wish.drawing in self._toned:
            picture = self._picture(wish)
        else:
            exact = partial(self._subject, wish.subject, unseen)
            cut = self._coarse_cuts.get(wish.subject.path, exact) if wish.subject.coarse else exact()
            picture = magic.redraw(smaller(cut, DRAFT // 2), small, on_event=unseen)[0]
        return magic.place(picture, small, scaled(wish.box, scene, small), on_event=unseen).image

    def _picture(self, wish: Wish, on_event: OnEvent = no_event) -> Redrawn:
        magic = self._magic(wish)

        def redraw() -> Redrawn:
            known = self._subject(wish.subject, on_event)
            if needs_personalization(magic.settings.stylizer):
                known = magic.personalize(known, on_event=on_event)
                wish.subject.learned = True
            return magic.redraw(known, self._scene(wish.scene), on_event=on_event)[0]

        return (self._toned if wish.kind == "preview" else self._redrawn).get(wish.drawing, redraw)

    def _keep(self, session: Session, drop: Drop, wish: Wish, seconds: float) -> Result:
        id = secrets.token_hex(6)
        file = self.folder / session.id / "results" / f"{id}.png"
        given = {"subject": wish.subject.path, "background": wish.scene.path}
        drop.save(
            file,
            inputs={name: {"path": path.name, "sha256": sha256_file(path)} for name, path in given.items()},
        )
        write_json(file.with_suffix(".json"), without_folders(read_json(file.with_suffix(".json"))))
        self._drops.get(id, lambda: lean(drop))
        return Result(
            id,
            wish,
            file,
            view_of(drop.image),
            round(seconds, 2),
            *recipes(wish, self.words),
            {name: [at.x, at.y, *reversed(at.pixels.shape[-2:])] for name, at in drop.layers.items()},
        )

    def judge(self, session: Session, result: Result) -> Verdict | None:
        """What the Toybox knows of a picture whose scene and subject are its own; for the worker's thread."""
        wish = result.wish
        if result.verdict is None and {wish.scene.id, wish.subject.id} <= set(self.toys):
            scene, subject = self.toys[wish.scene.id], self.toys[wish.subject.id]
            result.verdict = judge(
                self.drop_of(result), wish.box, scene, subject, self._subject(wish.subject)
            )
            self._tell(session)
        return result.verdict

    def drop_of(self, result: Result) -> Drop:
        """A result with its layers, placed again unless it is recent; for the worker's thread."""

        def again() -> Drop:
            wish = result.wish
            return lean(self._magic(wish).place(self._picture(wish), self._scene(wish.scene), wish.box))

        return self._drops.get(result.id, again)


def trouble_of(error: UserError, do: str) -> str:
    """What a browser is told of an error: no folder of this machine, and where no subject is found, what to `do` about
    it on the page."""
    text = without_folders(str(error))
    return f"{text.rpartition('; ')[0]}; {do}" if isinstance(error, NothingFound) else text


def lean(drop: Drop) -> Drop:
    """A finished picture with its layers, and without the pictures between, which the page never shows."""
    return replace(drop, parts={}, redrawn=None)
