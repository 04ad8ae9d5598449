"""The drag-and-drop page: what it draws is the command line's, what it refuses, and a real browser that uses it."""

import contextlib
import io
import json
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import accelerate
import httpx
import numpy as np
import pytest
import torch
import transformers.modeling_utils
from browser import Page
from helpers import frozen
from PIL import Image
from processes import PATIENCE, wait_until

from magic_insert.cli.main import main
from magic_insert.core.box import Box
from magic_insert.core.errors import UserError
from magic_insert.core.records import Subject
from magic_insert.core.threads import beside_a_worker
from magic_insert.magic import MagicInsert, Settings
from magic_insert.models.segment import Matte, NothingFound
from magic_insert.page import shelf
from magic_insert.page.server import MOST_BYTES, page_server
from magic_insert.page.session import Recent, Task, Wish, words_of
from magic_insert.page.studio import BETWEEN, CROP, Studio
from magic_insert.pages.server import PageServer

WAIT = 60.0
BOX = [70, 60, 40, 60]


@dataclass
class Browser:
    """What a browser does, without one."""

    server: PageServer
    studio: Studio
    id: str
    http: httpx.Client

    def post(self, path: str, content: Any) -> httpx.Response:
        sent = {"content": content} if isinstance(content, bytes) else {"json": content}
        return self.http.post(f"{self.server.address}{self.id}/{path}", **sent)

    def get(self, path: str) -> httpx.Response:
        return self.http.get(f"{self.server.address}{self.id}/{path}")

    def states(self) -> Iterator[dict[str, Any]]:
        """What the page is told, now and whenever it is told more."""
        with self.http.stream("GET", f"{self.server.address}{self.id}/events") as reply:
            for line in reply.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    def state(self) -> dict[str, Any]:
        return next(self.states())

    def wait(self, done: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        for state in self.states():
            assert time.monotonic() < deadline
            if done(state):
                return state
        raise AssertionError("the server hung up")

    def upload(self, kind: str, name: str, content: bytes) -> str:
        id = self.post(f"items?kind={kind}&name={name}", content).json()["id"]
        self.wait(lambda state: any(item["id"] == id and item["size"] for item in state["items"]))
        return id

    def draw(self, *given: Any, **named: Any) -> dict[str, Any]:
        """The result of a `wish`."""
        task = self.post("drops", wish(*given, **named)).json()["id"]
        state = self.wait(
            lambda state: not any(t["id"] == task and t["state"] in LIVE for t in state["tasks"])
        )
        assert [t["trouble"] for t in state["tasks"] if t["id"] == task] == [""]
        return state["results"][-1]


LIVE = ("waiting", "running")


def wish(
    kind: str = "preview",
    subject: str = "bunny-01",
    scene: str = "forest-12",
    box: list[int] = BOX,
    **knobs: Any,
) -> dict[str, Any]:
    return {"kind": kind, "subject": subject, "scene": scene, "box": box, "knobs": knobs}


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def busy(studio: Studio) -> threading.Event:
    """The worker is held up until this is set."""
    held = threading.Event()
    studio.call(lambda: held.wait(WAIT))
    return held


def blob(colour: tuple[int, int, int], side: int = 48) -> bytes:
    """A subject with alpha: a disc with an eye."""
    y, x = np.mgrid[:side, :side] - side / 2
    inside = np.hypot(x, y) < 0.42 * side
    pixels = np.zeros((side, side, 4))
    pixels[inside] = [*colour, 255]
    pixels[np.hypot(x + 5, y + 5) < 4] = [20, 20, 20, 255]
    return png(pixels)


def disc(side: int) -> Any:
    """Where a disc is: 0.7 of the side wide."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.hypot(x, y) < 0.35 * side


def opaque(colour: tuple[int, int, int], side: int = 600) -> bytes:
    """A disc on white, large enough for a coarse cut first."""
    return png(np.where(disc(side)[..., None], colour, (250, 250, 250)))


def half_a_disc(rgb: Any, *_: Any) -> Matte:
    """A coarse cut that finds the left half of a `disc`."""
    alpha = torch.from_numpy(disc(600))[None].float()
    alpha[..., 300:] = 0.0
    return Matte(rgb, alpha)


def meadow(height: int = 128, width: int = 192) -> bytes:
    """A scene: sky above grass."""
    pixels = np.zeros((height, width, 3))
    pixels[: height // 2], pixels[height // 2 :] = (150, 190, 240), (90, 150, 70)
    return png(pixels + 10 * np.sin(np.arange(width) / 5)[None, :, None])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_micro: Path) -> Iterator[tuple[PageServer, Studio]]:
    """The page with a small shelf, a tiny model and a training of two steps."""
    home = tmp_path_factory.mktemp("page")
    words = [
        "debug=fast", f"subjects={home / 'subjects'}", f"model.source={tiny_micro}",
        "model.image_size=64", "style.outline=0", "style.guidance=0", "personalization.targets=[to_q]",
    ]  # fmt: skip
    cfg = frozen("page", *words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelf, "TOY_SUBJECTS", ("bunny-01",))
        patch.setattr(shelf, "TOY_SCENES", ("forest-12",))
        with page_server(Settings.of(cfg), 0) as (server, studio):
            thread = threading.Thread(target=server.serve, daemon=True)
            thread.start()
            studio.load()
            wait_until(lambda: studio.ready and studio.shelf["bunny-01"].size)
            yield server, studio
            server.stop()
            thread.join(10)


@pytest.fixture(scope="module")
def server(served: tuple[PageServer, Studio]) -> PageServer:
    return served[0]


@pytest.fixture(scope="module")
def studio(served: tuple[PageServer, Studio]) -> Studio:
    return served[1]


@pytest.fixture
def browser(server: PageServer, studio: Studio, request: pytest.FixtureRequest) -> Iterator[Browser]:
    with httpx.Client(timeout=WAIT) as http:
        yield Browser(server, studio, f"{abs(hash(request.node.name)):016x}", http)


@pytest.mark.slow
def test_a_picture_of_the_page_has_the_bytes_of_its_command_and_of_its_python(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = browser.upload("subject", quote("Zoë's disc (1), ${x}.png"), blob((200, 40, 40)))
    scene = browser.upload("scene", quote("C:\\pictures/草地 = 2.png"), meadow())
    full = browser.draw("full", subject, scene, **{"inserter.sun": "40", "sampling.seed": 3})
    preview = browser.draw("preview", subject, scene, **{"stylizer.strength": 0.5})
    assert full["box"] == preview["box"] == BOX
    monkeypatch.chdir(tmp_path)
    for item in (subject, scene):
        name = next(one["file"] for one in browser.state()["items"] if one["id"] == item)
        Path(name).write_bytes(browser.get(f"items/{item}?file").content)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "subjects").symlink_to(browser.studio.magic.settings.subjects)
    for result in (full, preview):
        made = browser.get(f"results/{result['id']}/png").content
        program, *words = shlex.split(result["command"])
        assert program == "magic-insert"
        main(words)
        out = Path("Zoë's disc (1), ${x}-in-草地 = 2.png")
        assert out.read_bytes() == made
        out.unlink()
        exec(result["code"], {})
        assert out.read_bytes() == made
    sidecar = browser.get(f"results/{full['id']}/json").json()
    assert sidecar["inputs"]["subject"]["path"] == "Zoë's disc (1), ${x}.png"
    assert sidecar["config"]["inserter"]["sun"] == "40"


def test_settings_written_as_words_are_read_as_the_same_settings() -> None:
    def read(job: str, *words: str) -> Settings:
        return Settings.of(frozen(job, *words))

    plain = read("page")
    texts = [
        "a chalk drawing, soft", "it's (oil): a=b", "C:\\art\\", "\\'", "null", "1e5", "007", " x ", "", "owner/name",
    ]  # fmt: skip
    validation = replace(plain.personalization.validation, edits=texts)
    for n in range(0, len(texts), 3):  # three settings of the drawing take a text
        prompt, suffix, inserted = (texts + texts)[n : n + 3]
        given = replace(
            plain,
            style=replace(plain.style, prompt=prompt),
            sampling=replace(plain.sampling, prompt_suffix=suffix),
            inserter=replace(plain.inserter, prompt=inserted),
            personalization=replace(plain.personalization, validation=validation),
        )
        again = read("insert", "subject=a", "background=b", "out=c.png", *words_of(given))
        assert replace(again, mode=given.mode) == given


@pytest.mark.slow
def test_a_second_scene_learns_nothing_again_and_another_place_redraws_nothing(browser: Browser) -> None:
    subject = browser.upload("subject", "two.png", blob((40, 90, 200)))
    scene = browser.upload("scene", "a.png", meadow())
    other = browser.upload("scene", "b.png", meadow(120, 120))
    store = browser.studio.magic.settings.subjects / "subject"
    before = len(list(store.glob("*"))) if store.is_dir() else 0
    browser.draw("full", subject, scene)
    assert len(list(store.glob("*"))) == before + 1
    assert next(item for item in browser.state()["items"] if item["id"] == subject)["learned"]
    session = browser.studio.session(browser.id)
    browser.draw("full", subject, scene, [5, 60, 40, 60])
    assert [task.quick for task in session.tasks.values()] == [True]
    browser.draw("full", subject, scene, [5, 60, 40, 60], **{"inserter.strength": 0.5})
    assert [task.quick for task in session.tasks.values()] == [True]
    browser.draw("full", subject, other)
    assert [task.quick for task in session.tasks.values()] == [False]
    assert len(list(store.glob("*"))) == before + 1


def test_a_cancelled_drop_leaves_nothing(browser: Browser) -> None:
    subject = browser.upload("subject", "gone.png", blob((200, 200, 40)))
    scene = browser.upload("scene", "a.png", meadow())
    task = browser.post("drops", wish("full", subject, scene)).json()["id"]
    session = browser.studio.session(browser.id)
    wait_until(lambda: session.tasks[task].stage == "personalise")
    browser.http.delete(f"{browser.server.address}{browser.id}/tasks/{task}")
    result = browser.draw("preview", subject, scene)  # the worker is free again
    state = browser.state()
    assert [r["id"] for r in state["results"]] == [result["id"]]
    assert not next(item for item in state["items"] if item["id"] == subject)["learned"]
    names = [path.stem for path in browser.studio.magic.settings.subjects.glob("subject/*/*.png")]
    assert "gone" not in names


def test_work_that_breaks_is_named_and_ends_nothing_else(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = MagicInsert.subject

    def broken(self: MagicInsert, picture: Any, **named: Any) -> Any:
        if Path(str(picture)).name == "broken.png":
            raise RuntimeError("a fault")
        return cut(self, picture, **named)

    monkeypatch.setattr(MagicInsert, "subject", broken)
    broke = browser.post("items?kind=subject&name=broken.png", blob((9, 9, 200))).json()["id"]
    sound = browser.upload("subject", "sound.png", blob((9, 200, 9)))
    troubles = {item["id"]: item["trouble"] for item in browser.state()["items"]}
    assert "terminal" in troubles[broke]
    browser.draw("preview", sound, "forest-12")


def test_the_files_of_a_result_go_when_it_leaves_the_history(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magic_insert.page.studio.MOST_RESULTS", 2)
    ids = [browser.draw(box=[x, 120, 60, 90])["id"] for x in (10, 20, 30)]
    (folder,) = browser.studio.folder.glob(f"{browser.id}/results")
    assert {file.stem for file in folder.iterdir()} == set(ids[1:])
    assert browser.get(f"results/{ids[0]}/png").status_code == 404


def test_layers_and_layered_files_are_the_results_own(browser: Browser) -> None:
    result = browser.draw(box=[90, 120, 60, 90])
    for part, kind in {"subject": "RGBA", "shade": "RGB", "light": "RGB"}.items():
        image = Image.open(io.BytesIO(browser.get(f"results/{result['id']}/{part}").content))
        assert (image.mode, list(image.size)) == (kind, result["places"][part][2:])
    whole = Image.open(io.BytesIO(browser.get(f"results/{result['id']}/png").content))
    assert np.array_equal(Image.open(io.BytesIO(browser.get(f"results/{result['id']}/psd").content)), whole)
    assert browser.get(f"results/{result['id']}/ora").content[:2] == b"PK"
    truth = Image.open(io.BytesIO(browser.get(f"results/{result['id']}/truth").content))
    assert truth.size == whole.size
    assert "shadow" in browser.state()["results"][-1]["verdict"]
    scene = browser.post(f"results/{result['id']}/scene", {}).json()
    assert (scene["title"], scene["origin"]) == ("forest-12-with-bunny-01", "result")


def test_of_a_large_scene_a_smaller_picture_comes_first(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magic_insert.page.studio.DRAFT", 96)
    scene = browser.upload("scene", "large.png", meadow())
    result = browser.draw("preview", "bunny-01", scene)
    (task,) = browser.state()["tasks"]
    assert task["drafted"] == BOX
    sizes = [
        Image.open(io.BytesIO(browser.get(path).content)).size
        for path in (f"tasks/{task['id']}", f"results/{result['id']}/png")
    ]
    assert sizes == [(96, 64), (192, 128)]


def test_two_pictures_of_one_name_are_read_from_two_folders(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{'長' * 83}.png"  # 253 bytes
    contents = {"subject": blob((90, 40, 200)), "scene": meadow()}
    result = browser.draw("preview", *(browser.upload(kind, name, made) for kind, made in contents.items()))
    monkeypatch.chdir(tmp_path)
    for kind, content in contents.items():
        (tmp_path / kind).mkdir()
        (tmp_path / kind / name).write_bytes(content)
    made = browser.get(f"results/{result['id']}/png").content
    main(shlex.split(result["command"], comments=True)[1:])
    (out,) = tmp_path.glob("*.png")
    assert out.read_bytes() == made
    out.unlink()
    exec(result["code"], {})
    assert out.read_bytes() == made
    scene = browser.post(f"results/{result['id']}/scene", {})
    assert scene.status_code == 200


@pytest.mark.parametrize("name", ["", "..", "a/", "a%00.png", "a%0A.png", f"{'x' * 252}.png"])
def test_a_name_that_no_file_can_have_is_refused(browser: Browser, name: str) -> None:
    reply = browser.post(f"items?kind=scene&name={name}", meadow())
    assert reply.status_code == 400
    assert "name" in reply.json()["trouble"]


@pytest.mark.parametrize("draft", [96, 1024])  # with a smaller picture before, and without one
def test_a_move_while_the_picture_is_placed_is_in_the_result(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, draft: int
) -> None:
    monkeypatch.setattr("magic_insert.page.studio.DRAFT", draft)
    scene = browser.upload("scene", f"large-{draft}.png", meadow())
    place, moved, ids = MagicInsert.place, [80, 50, 40, 60], list[str]()

    def slow(self: MagicInsert, *given: Any, **named: Any) -> Any:
        made = place(self, *given, **named)
        if not ids:
            (task,) = browser.studio.session(browser.id).tasks
            again = {**wish("preview", "bunny-01", scene, moved), "instead": task}
            ids.extend([task, browser.post("drops", again).json()["id"]])
        return made

    monkeypatch.setattr(MagicInsert, "place", slow)
    result = browser.draw("preview", "bunny-01", scene)
    assert ids[0] == ids[1]
    assert result["box"] == moved
    monkeypatch.undo()
    fresh = browser.draw("preview", "bunny-01", scene, moved)
    made = [browser.get(f"results/{one['id']}/png").content for one in (result, fresh)]
    assert made[0] == made[1]


def test_what_is_not_the_pages_own_is_refused(browser: Browser) -> None:
    page, port = browser.server.address, browser.server.port
    ask = browser.http.get
    assert ask(page).status_code == 200
    assert ask(page, headers={"Host": f"localhost:{port}"}).status_code == 200
    assert ask(page, headers={"Host": f"evil.example:{port}"}).status_code == 403
    assert ask(page, headers={"Origin": "http://evil.example"}).status_code == 403
    assert ask(f"http://127.0.0.1:{port}/").status_code == 403
    assert ask(f"http://127.0.0.1:{port}/{'x' * 22}/page.js").status_code == 403
    assert ask(f"{page}../../etc/passwd").status_code in (403, 404)
    assert ask(f"{page}server.py").status_code == 404
    policy = ask(page).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_wrong_input_is_one_line_without_a_folder_of_this_machine(browser: Browser) -> None:
    def trouble(reply: httpx.Response) -> str:
        assert reply.status_code == 400
        assert "/" not in reply.json()["trouble"]
        return str(reply.json()["trouble"])

    whole = blob((9, 9, 9))
    animated = io.BytesIO()
    Image.new("P", (40, 40)).save(animated, "GIF", save_all=True, append_images=[Image.new("P", (40, 40), 1)])
    for content, named in (
        (b"text that calls itself a picture", "expected a PNG"),
        (animated.getvalue(), "expected a PNG"),
        (whole[: len(whole) // 2], "damaged"),
        (png(np.zeros((1, 1, 3))), "16 pixels a side"),
        (png(np.zeros((9000, 9000), np.uint8)), "64000000 pixels"),
    ):
        assert named in trouble(browser.post("items?kind=scene&name=a.png", content))
    clear = browser.post("items?kind=subject&name=clear.png", png(np.zeros((40, 40, 4)))).json()["id"]
    state = browser.wait(
        lambda state: any(item["id"] == clear and item["trouble"] for item in state["items"])
    )
    assert "visible pixels" in next(item["trouble"] for item in state["items"] if item["id"] == clear)
    sound = wish(box=[0, 0, 9, 9])
    for ask in ([], "x", 1, *({**sound, key: [{}]} for key in (*sound, "instead"))):
        assert "expected" in trouble(browser.post("drops", ask))
    assert "inside the 256 x 256" in trouble(browser.post("drops", wish(box=[230, 0, 40, 60])))
    assert "inserter.strength" in trouble(
        browser.post("drops", wish(box=[0, 0, 9, 9], **{"inserter.strength": 9}))
    )
    assert "model.source" in trouble(browser.post("drops", wish(box=[0, 0, 9, 9], **{"model.source": "x"})))
    assert str(browser.studio.folder) not in json.dumps(browser.state())


def test_of_too_many_own_pictures_the_oldest_that_nobody_uses_goes(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magic_insert.page.studio.MOST_ITEMS", 3)
    used, idle = (browser.upload("subject", f"{n}.png", blob((9, 90, n))) for n in (1, 2))
    browser.draw("preview", used, "forest-12")
    clear = browser.post("items?kind=subject&name=clear.png", png(np.zeros((40, 40, 4)))).json()["id"]
    browser.wait(lambda state: any(item["id"] == clear and item["trouble"] for item in state["items"]))
    own = list[set[str]]()
    for n in (3, 4):
        browser.upload("subject", f"{n}.png", blob((9, 90, n)))
        own.append({item["title"] for item in browser.state()["items"] if item["origin"] == "own"})
    assert own == [{"1", "2", "3"}, {"1", "3", "4"}]  # what was refused goes first
    assert browser.get(f"items/{idle}").status_code == 400
    folder = browser.studio.folder / browser.id
    assert {path.name for path in folder.glob("own-*/*")} == {"1.png", "3.png", "4.png"}
    monkeypatch.setattr("magic_insert.page.studio.MOST_ITEMS", 1)
    browser.draw("preview", browser.upload("subject", "5.png", blob((9, 90, 5))), "forest-12")
    for item in browser.state()["items"]:
        if item["origin"] == "own" and item["title"] != "1":
            browser.draw("preview", item["id"], "forest-12")
    refused = browser.post("items?kind=subject&name=6.png", blob((9, 90, 6)))
    assert refused.status_code == 400
    assert "in use" in refused.json()["trouble"]


def test_an_own_picture_leaves_the_shelf_and_its_results_stay(browser: Browser) -> None:
    content = blob((90, 9, 200))
    own = browser.upload("subject", "own.png", content)
    result = browser.draw("preview", own, "forest-12")
    item = f"{browser.server.address}{browser.id}/items"
    assert browser.http.delete(f"{item}/{own}").status_code == 200
    hidden = {one["id"]: one["hidden"] for one in browser.state()["items"]}
    assert hidden == {"bunny-01": False, "forest-12": False, own: True}
    assert browser.get(f"results/{result['id']}/psd").status_code == 200
    assert browser.draw("preview", own, "forest-12", [5, 60, 40, 60])["subject"] == own
    assert browser.upload("subject", "own.png", content) == own
    assert not any(one["hidden"] for one in browser.state()["items"])
    for other in ("bunny-01", "own-0"):  # one of everybody, and none
        assert browser.http.delete(f"{item}/{other}").status_code == 400


def test_a_picture_of_100_mb_is_refused_unread(browser: Browser) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(1_000_000)

    address = f"{browser.server.address}{browser.id}/items?kind=scene&name=a.png"
    for headers in ({}, {"Content-Length": "100000000"}):  # in chunks, or announced
        with contextlib.suppress(httpx.WriteError, httpx.ReadError):  # hung up on while it still sent
            assert browser.http.post(address, content=endless(), headers=headers).status_code == 413
    assert browser.state()["items"] == browser.state()["items"][:2]
    assert MOST_BYTES < 100_000_000


def test_two_browsers_never_mix_and_many_posts_at_once_lose_nothing(
    server: PageServer, studio: Studio
) -> None:
    with httpx.Client(timeout=WAIT, limits=httpx.Limits(max_connections=60)) as http:
        browsers = [Browser(server, studio, f"{n:08d}", http) for n in range(10)]

        def post(number: int) -> None:
            content = blob((number % 256, 40, 40), 24 + number // 20)
            assert (
                browsers[number % 10].post(f"items?kind=subject&name={number}.png", content).status_code
                == 200
            )

        with ThreadPoolExecutor(60) as pool:
            list(pool.map(post, range(300)))
        for rest, browser in enumerate(browsers):
            state = browser.wait(lambda state: all(item["size"] for item in state["items"]))
            own = {int(item["title"]) for item in state["items"] if item["origin"] == "own"}
            assert own == {number for number in range(300) if number % 10 == rest}
        theirs = next(item["id"] for item in browsers[1].state()["items"] if item["origin"] == "own")
        assert browsers[0].get(f"items/{theirs}").status_code == 400
        assert (
            browsers[0].post("drops", wish("preview", theirs, "forest-12", [0, 0, 9, 9])).status_code == 400
        )


def test_of_what_was_made_the_last_that_fit_into_memory_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magic_insert.page.session.MOST_BYTES", 100)
    kept = Recent[torch.Tensor](3)
    for name, size in (("a", 8), ("b", 8), ("c", 8), ("d", 8), ("e", 9), ("f", 200)):
        kept.get(name, partial(torch.zeros, size, dtype=torch.uint8))
        assert name in kept
        if name == "e":
            assert list(kept.made) == ["c", "d", "e"]
    assert list(kept.made) == ["f"]


def test_browsers_take_turns_and_each_keeps_its_order(
    server: PageServer, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = list[tuple[str, int]]()

    def run(self: Studio, session: Any, task: Task) -> None:
        order.append((session.id[0], task.wish.box.x))
        task.state = "done"

    monkeypatch.setattr(Studio, "_run", run)
    held = busy(studio)
    with httpx.Client(timeout=WAIT) as http:
        for name, count in (("a", 4), ("b", 2)):
            browser = Browser(server, studio, 8 * name, http)
            for x in range(count):
                assert browser.post("drops", wish(box=[x, 9, 9, 9])).is_success
    held.set()
    assert studio.call(lambda: True).result(WAIT)
    wait_until(lambda: len(order) == 6)
    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("a", 3)]


@pytest.fixture
def loading(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Thread]:
    """The model is being loaded until the test ends."""
    held = threading.Event()
    thread = threading.Thread(target=held.wait, daemon=True)
    thread.start()
    monkeypatch.setattr(studio, "_loading", thread)
    yield thread
    held.set()
    thread.join()


@pytest.mark.usefixtures("loading")
def test_while_the_model_loads_what_somebody_waits_for_goes_first(browser: Browser) -> None:
    task = browser.post("drops", wish("full")).json()["id"]
    session = browser.studio.session(browser.id)
    wait_until(lambda: session.tasks[task].stage == "load")
    browser.upload("subject", "meanwhile.png", blob((70, 40, 100)))
    browser.draw(box=[10, 120, 60, 90])
    browser.http.delete(f"{browser.server.address}{browser.id}/tasks/{task}")
    assert browser.studio.call(lambda: True).result(WAIT)  # it ended, though nothing is loaded
    assert not session.tasks.get(task) or session.tasks[task].state == "cancelled"


def test_imports_of_one_thread_wait_and_those_of_others_do_not() -> None:
    waited = list[int]()
    with beside_a_worker(lambda: waited.append(threading.get_ident()), threading.RLock()):
        __import__("json", fromlist=["dumps"])
        other = threading.Thread(target=lambda: __import__("json"))
        other.start()
        other.join()
    __import__("json")
    assert waited == [threading.get_ident()]


def test_while_a_network_is_built_the_worker_holds_still_and_no_import_waits_for_it() -> None:
    """Libraries change the default dtype, or how parameters are made, for all threads while they build one."""
    alone, waited = threading.RLock(), list[int]()
    ways = (transformers.modeling_utils.local_torch_dtype(torch.bfloat16), accelerate.init_empty_weights)

    def made() -> torch.nn.Linear:
        with alone:
            return torch.nn.Linear(2, 3)

    with beside_a_worker(lambda: waited.append(1), alone), ThreadPoolExecutor(1) as worker:
        for way in (ways[0], accelerate.init_empty_weights()):
            with way:
                waited.clear()
                theirs = worker.submit(made)
                with pytest.raises(TimeoutError):
                    theirs.result(0.1)
                __import__("json")
                assert not waited
            net = theirs.result(WAIT)
            assert (net.weight.dtype, net.weight.is_meta) == (torch.float32, False)
    assert (accelerate.init_empty_weights, torch.get_default_dtype()) == (ways[1], torch.float32)


def test_a_large_opaque_subject_is_drawn_from_a_coarse_cut_until_the_exact_one_is_there(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content, cuts = opaque((200, 40, 30)), list[bool]()
    exact = MagicInsert.subject

    def subject(self: MagicInsert, *given: Any, **named: Any) -> Any:
        (task,) = browser.state()["tasks"]
        cuts.append(task["drafted"] == BOX)
        return exact(self, *given, **named)

    monkeypatch.setattr(MagicInsert, "subject", subject)
    id = browser.upload("subject", "disc.png", content)
    item = browser.studio.session(browser.id).items[id]
    assert item.coarse
    coarse, asked = item.view, browser.get(f"items/{id}?coarse").content
    assert coarse is not None
    assert coarse[0] == asked
    result = browser.draw("preview", id)
    assert cuts == [True]
    assert not item.coarse
    assert item.size is not None
    assert np.abs(np.subtract(item.size, 420)).max() < 8
    (tmp_path / "disc.png").write_bytes(content)
    monkeypatch.undo()
    drop = browser.studio.magic.using(mode="preview").insert(
        tmp_path / "disc.png", shelf.shelf_dir() / "forest-12.png", box=tuple(BOX)
    )
    made = Image.open(io.BytesIO(browser.get(f"results/{result['id']}/png").content))
    assert np.array_equal(made, drop.image)


@pytest.mark.slow
def test_a_second_browser_with_the_same_picture_gets_its_exact_cut_too(browser: Browser) -> None:
    content = png(np.where(disc(600)[..., None], (30, 160, 40), (250, 250, 250)))
    other = replace(browser, id=f"{browser.id[:-2]}ff")
    for one in (browser, other):
        id = one.upload("subject", "shared.png", content)
        one.draw("preview", id)
        (item,) = one.studio.session(one.id).items.values()
        assert not item.coarse
        assert item.size != item.rough


def test_where_the_coarse_cut_finds_nothing_the_exact_one_decides(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: Any) -> None:
        raise NothingFound("expected a subject that stands out, got none; set segmenter=grabcut")

    monkeypatch.setattr("magic_insert.page.studio.coarse_cut", nothing)
    id = browser.upload("subject", "faint.png", opaque((200, 40, 40)))
    item = browser.studio.session(browser.id).items[id]
    assert (item.coarse, item.trouble) == (False, "")
    assert item.size is not None


@pytest.mark.slow
def test_of_a_coarse_subject_it_is_known_with_its_exact_cut_whether_it_is_learned(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = browser.upload("subject", "known.png", opaque((40, 40, 200)))
    item, learned = browser.studio.session(browser.id).items[id], MagicInsert.learned

    def known(self: MagicInsert, subject: Any) -> Path | None:
        return Path() if subject.id == "known" else learned(self, subject)

    monkeypatch.setattr(MagicInsert, "learned", known)
    browser.studio.call(browser.studio._show_learned).result(WAIT)
    assert (item.coarse, item.learned) == (True, False)  # the worker makes no exact cut for it
    browser.draw("preview", id)
    assert (item.coarse, item.learned) == (False, True)


def test_a_coarse_view_is_never_told_as_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser keeps a view for an hour under the address that it was told."""
    item, told = shelf.Item("a", "subject", Path("a.png"), "own", "a"), []
    encode = shelf.view_of

    def view_of(image: Image.Image) -> tuple[bytes, str]:
        told.append((item.size, item.view is not None, item.coarse))
        return encode(image)

    monkeypatch.setattr(shelf, "view_of", view_of)
    for side, coarse in ((20, True), (40, False)):
        alpha = torch.from_numpy(disc(side))[None].float()
        item.cut(Subject(torch.zeros(3, side, side), alpha, "a"), coarse=coarse)
    assert [what for _, *what in told] == [[False, False], [True, True]]
    assert not item.coarse


def test_a_load_that_fails_leaves_torch_as_it_was() -> None:
    alone = threading.RLock()

    def load() -> None:
        with beside_a_worker(lambda: None, alone):
            torch.set_default_dtype(torch.bfloat16)  # as diffusers, which resets it where all goes well
            raise UserError("expected weights that fit")

    with pytest.raises(UserError):
        load()
    with ThreadPoolExecutor(1) as worker:
        assert worker.submit(alone.acquire, timeout=0).result(WAIT)
    assert torch.get_default_dtype() == torch.float32


def test_a_load_that_the_end_of_the_page_cuts_short_is_no_complaint(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: MagicInsert) -> None:
        raise UserError("expected a complete model")

    monkeypatch.setattr(MagicInsert, "load", broken)
    other, said = Studio(studio.magic.settings, [], tmp_path), []
    for end in (lambda: None, other.stop):
        end()
        other._load()
        said.append(capsys.readouterr().err)
    assert said == ["magic-insert: expected a complete model\n", ""]


def test_many_quick_things_of_one_browser_hold_up_no_long_one_of_another(
    studio: Studio, server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = list[str]()

    def run(self: Studio, session: Any, task: Task) -> None:
        for _ in range(1 if task.quick else 2):
            order.append(task.wish.kind)
            if not task.quick:
                self._between_steps()
        task.state = "done"

    monkeypatch.setattr(Studio, "_run", run)
    held = busy(studio)
    with httpx.Client(timeout=WAIT) as http:
        for x in range(12):
            Browser(server, studio, 8 * "a", http).post("drops", wish(box=[x, 9, 9, 9]))
        Browser(server, studio, 8 * "b", http).post("drops", wish("full"))
    held.set()
    wait_until(lambda: len(order) == 14)
    steps = [n for n, kind in enumerate(order) if kind == "full"]
    assert steps[1] - steps[0] == BETWEEN + 1
    assert steps[0] <= 2 * BETWEEN


@dataclass
class Tab:
    """The page in a real browser, of which it does everything that `Page` does."""

    page: Page
    server: PageServer
    studio: Studio

    def __getattr__(self, name: str) -> Any:
        return getattr(self.page, name)

    def fresh(self, **look: Any) -> None:
        """Opened anew, with a scene on the stage and no redrawing asked for."""
        self.look(**{"width": 1280, "height": 900, **look})
        self.open(self.server.address)
        self.ask("localStorage.clear()")
        self.open(self.server.address)
        self.wait("document.querySelector('#scene').naturalWidth > 0")
        self.ask("document.querySelector('#redraw').click()")

    def with_a_bunny(self, **look: Any) -> None:
        """Opened anew, with the preview of a bunny in the middle of the scene."""
        self.fresh(**look)
        self.drag(self.centre(BUNNY), self.centre("#stage"), touch="touch" in look)
        self.wait(SHOWN)

    def nudge(self, key: str = "ArrowRight") -> None:
        """A key on the frame."""
        self.ask("document.querySelector('#frame').focus()")
        self.press(key)

    def put(self, file: Path, content: bytes, place: str = "#stage") -> None:
        """A file of this content is written and dropped on the middle of `place`."""
        file.write_bytes(content)
        self.drop_file(file, self.centre(place))

    @property
    def session(self) -> Any:
        return self.studio.session(self.ask("localStorage.session"))

    @property
    def last(self) -> Any:
        """The latest result."""
        return list(self.session.results.values())[-1]

    def redrawn(self) -> None:
        """Has the last result be taken for a redrawn picture."""
        result, session = self.last, self.session
        session.results[result.id] = replace(result, wish=replace(result.wish, kind="full"))
        self.studio.call(lambda: self.studio._tell(session)).result(WAIT)
        self.wait("document.querySelector('#doing').textContent.startsWith('redrawn')")


@pytest.fixture
def tab(page: Page, server: PageServer, studio: Studio) -> Tab:
    return Tab(page, server, studio)


BUNNY = "#subjects .tile[data-id=bunny-01]"
RESULT = "[...document.querySelectorAll('#history button')].length"
SHOWN = "!!document.querySelector('#pictures img.on') && !document.querySelector('#frame').classList.contains('ghost')"


def size_of(selector: str) -> str:
    return f"(({{ width, height }}) => [width, height])(document.querySelector({selector!r}).getBoundingClientRect())"


def test_a_drag_sends_the_box_that_the_frame_shows_and_the_copied_command_makes_the_same_bytes(
    tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab.fresh()
    picture = tmp_path / "disc.png"
    picture.write_bytes(blob((240, 120, 20), 80))
    stage = tab.centre("#stage")
    tab.drop_file(picture, (stage[0] - 100, stage[1] + 100))
    tab.wait(SHOWN)
    first = tab.last
    assert first.wish.subject.title == "disc"
    tab.drag(tab.centre("#frame"), (stage[0] + 120, stage[1] + 60))
    tab.wait(f"{RESULT} === 2 && {SHOWN}")
    tab.ask("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    tab.click("#command")
    assert tab.ask("window.copied") == tab.last.command
    Path(tmp_path / "forest-12.png").write_bytes(tab.studio.shelf["forest-12"].path.read_bytes())
    monkeypatch.chdir(tmp_path)
    main(shlex.split(tab.ask("window.copied"))[1:])
    links = tab.ask("[...document.querySelectorAll('#downloads a')].map(link => link.href)")
    assert (tmp_path / "disc-in-forest-12.png").read_bytes() == httpx.get(links[0]).content
    subject, background = (httpx.get(link) for link in links[-2:])  # what the command is to be run beside
    assert subject.content == picture.read_bytes()
    assert 'filename="disc.png"' in subject.headers["content-disposition"]
    assert background.content == Path("forest-12.png").read_bytes()
    box = tab.last.wish.box
    assert box.x > first.wish.box.x
    shown = tab.ask("[...'xywh'].map((k, n) => parseFloat(document.querySelector('#frame').style"
                     "[['left', 'top', 'width', 'height'][n]]) / 100 * 256)")  # fmt: skip
    assert np.abs(np.array(shown) - [box.x, box.y, box.w, box.h]).max() < 0.6
    assert abs(box.w - box.h) <= 1  # the disc's own aspect
    tab.ask("document.querySelector('#parts input').click()")  # before and after also without a layer
    tab.ask("wipe.value = 50; wipe.dispatchEvent(new Event('input'))")
    clips = "['pictures', 'layers'].map(id => getComputedStyle(document.getElementById(id)).clipPath)"
    assert tab.ask(clips) == ["inset(0px 0px 0px 50%)"] * 2
    addresses = tab.ask("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert addresses
    assert all(address.startswith((tab.server.address, "data:")) for address in addresses)


def test_a_subject_that_is_dropped_while_the_model_loads_is_seen_at_once(
    tab: Tab, loading: threading.Thread, tmp_path: Path
) -> None:
    tab.fresh()
    tab.ask("document.querySelector('#redraw').click()")  # redrawing is asked for
    tab.drag(tab.centre(BUNNY), tab.centre("#stage"))
    tab.wait(f"document.querySelector('#doing').textContent === 'loading the model' && {SHOWN}")
    picture = tmp_path / "early.png"
    tab.put(picture, blob((240, 120, 20), 80))
    tab.wait(f"document.querySelector('#ghost').src.includes('own-') && {SHOWN}")
    assert tab.last.wish.subject.title == "early"
    assert loading.is_alive()
    tab.press("Escape")


def test_the_keyboard_alone_chooses_moves_and_draws(tab: Tab) -> None:
    tab.fresh()
    for _ in range(3):
        if tab.ask("document.activeElement.dataset.id") != "bunny-01":
            tab.press("Tab")
    tab.press("Enter")
    tab.wait(SHOWN)
    first = tab.last.wish.box
    assert tab.ask("document.activeElement.id") == "frame"
    for _ in range(5):
        tab.press("ArrowRight")
    tab.wait(f"{RESULT} === 2 && {SHOWN}")
    moved = tab.last.wish.box
    assert (moved.x - first.x, moved.y) == (13, first.y)  # a hundredth of 256 pixels a press
    tab.press("ArrowUp")
    tab.wait(f"{RESULT} === 3 && {SHOWN}")
    assert tab.last.wish.box.h <= first.h


def test_only_the_user_moves_the_frame_and_undo_brings_back_the_sliders_too(tab: Tab) -> None:
    tab.with_a_bunny()
    session, place = tab.session, "document.querySelector('#frame').style.left"
    frame, first = tab.ask(place), tab.last
    other = replace(first.wish.box, x=first.wish.box.x + 9)
    tab.studio.drop(session, replace(first.wish, box=other))  # as another tab does
    tab.wait(f"{RESULT} === 2")
    slider = "document.querySelector('[data-knob=\"stylizer.strength\"]')"
    tab.ask(f"{slider}.value = 0; {slider}.dispatchEvent(new Event('change'))")
    tab.wait(f"{RESULT} === 3 && {SHOWN}")
    assert tab.ask(place) == frame
    assert (tab.last.wish.box, tab.last.wish.knobs) == (first.wish.box, {"stylizer.strength": 0})
    tab.click("#undo")
    assert tab.ask(f"{slider}.value") == "0.8"
    assert tab.ask(place) == frame
    tab.nudge()
    tab.wait(f"{RESULT} === 4 && {SHOWN}")
    assert (tab.last.wish.box, tab.last.wish.knobs) == (replace(other, x=other.x - 9 + 3), {})
    tab.click("#next")
    tab.wait("document.querySelector('#scene').alt !== " + json.dumps(first.wish.scene.title))
    tab.click("#undo")
    tab.wait(f"document.querySelector('#scene').alt === {json.dumps(first.wish.scene.title)} && {SHOWN}")


@pytest.mark.slow
def test_after_a_reload_pictures_of_ones_own_are_not_redrawn_unasked(tab: Tab, tmp_path: Path) -> None:
    tab.with_a_bunny()
    tab.redrawn()
    tab.open(f"{tab.server.address}?unasked")
    tab.wait(f"document.querySelector('#redraw').checked && {SHOWN}")
    tab.put(tmp_path / "hill.png", meadow(), "#scenes h2")
    tab.wait("document.querySelector('#scene').alt === 'hill'")
    tab.put(tmp_path / "mine.png", blob((10, 200, 90), 60), "#subjects h2")
    tab.wait(f"document.querySelector('#ghost').src.includes('own-') && {SHOWN}")
    session = tab.session
    assert not tab.ask("document.querySelector('#redraw').checked")
    assert [task.wish.kind for task in session.tasks.values()] == ["preview"]
    tab.ask("document.querySelector('#sheet').hidden = false")
    wide, tall = tab.ask(size_of("#sheet .draw"))  # of four seeds side by side each has the scene's aspect
    assert wide / tall == pytest.approx(192 / 128, abs=0.03)


@pytest.mark.slow
def test_own_pictures_leave_the_shelf_by_their_cross_or_by_delete(tab: Tab, tmp_path: Path) -> None:
    tab.fresh()
    own = "document.querySelectorAll('#subjects [data-id^=own]').length"
    for n, colour in enumerate([(60, 70, 20), (60, 200, 70)]):
        tab.put(tmp_path / f"{n}.png", blob(colour, 56))
        tab.wait(f"{own} === {n + 1} && {RESULT} === {n + 1} && {SHOWN}")
    tab.click("#subjects [data-id^=own] .remove")
    tab.wait(f"{own} === 1")
    assert tab.ask("document.querySelectorAll('#subjects [data-id=bunny-01] .remove').length") == 0
    tab.ask("document.querySelector('#subjects [data-id^=own]').focus()")
    tab.press("Delete")
    tab.wait(f"{own} === 0 && document.activeElement.dataset.id === 'bunny-01'")
    assert tab.ask(f"{RESULT} === 2 && {SHOWN}")  # the stage and the history keep what is made of them
    tab.drop_file(tmp_path / "0.png", tab.centre("#subjects h2"))
    tab.wait(f"{own} === 1")
    tab.ask("document.querySelector('#cancel').click()")


@pytest.mark.slow
def test_of_two_fingers_the_first_drags(tab: Tab) -> None:
    tab.with_a_bunny(width=420, height=880, touch=True)
    left = "document.querySelector('#frame').offsetLeft"
    (x, y), start = tab.centre("#frame"), tab.ask(left)
    for n in range(7):
        tab.fingers("touchMove" if n > 1 else "touchStart", [(x + 4 * n, y), (x - 90, y + 9 * n)][: n + 1])
    assert tab.ask(left) == pytest.approx(start + 24, abs=2)
    tab.fingers("touchEnd", [])
    tab.wait(f"{RESULT} === 2 && {SHOWN}")
    assert tab.ask(left) == pytest.approx(start + 24, abs=2)


def test_two_fingers_on_the_frame_scale_it_about_its_foot(tab: Tab) -> None:
    tab.with_a_bunny(width=420, height=880, touch=True)
    first, (x, y) = tab.last.wish.box, tab.centre("#frame")

    tab.fingers("touchStart", [(x - 15, y)])
    for n in range(6):
        tab.fingers("touchMove" if n else "touchStart", [(x - 15 - n, y), (x + 15 + n, y + n)])
    tab.fingers("touchEnd", [(x - 20, y)])
    for n in range(6):  # the one that stays goes on, from where it is
        tab.fingers("touchMove", [None, (x + 20 + 4 * n, y + 5)])
    tab.fingers("touchEnd", [])
    tab.wait(f"{RESULT} === 2 && {SHOWN}")
    box, stage = tab.last.wish.box, tab.ask(size_of("#stage"))[0]
    assert box.h / first.h == pytest.approx(np.hypot(40, 5) / 30, rel=0.03)
    assert box.w / box.h == pytest.approx(first.w / first.h, rel=0.05)
    assert box.bottom == pytest.approx(first.bottom, abs=1)
    assert box.centre_x - first.centre_x == pytest.approx(20 * 256 / stage, abs=1.5)


def test_a_subject_of_which_the_exact_cut_finds_nothing_leaves_the_stage_and_says_so(
    tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(self: MagicInsert, *_: Any, **named: Any) -> Any:
        raise NothingFound("expected a subject that stands out, got none; set segmenter=grabcut")

    tab.fresh()
    monkeypatch.setattr(MagicInsert, "subject", nothing)
    picture = tmp_path / "nothing.png"
    picture.write_bytes(opaque((40, 200, 40)))
    said = f"expected a subject that stands out, got none; {CROP}"
    for way in ("dropped", "dropped again"):
        tab.ask("doing.textContent = ''")
        tab.drop_file(picture, tab.centre("#stage"))
        tab.wait(f"document.querySelector('#status.bad #doing')?.textContent === {said!r}")
        tab.wait("frame.hidden && !pictures.children.length && cancel.hidden")
        assert tab.ask("document.querySelectorAll('[data-id^=own]').length") == 0, way
    (item,) = tab.session.items.values()
    with pytest.raises(UserError, match="crop"):
        tab.studio.drop(tab.session, Wish("preview", item, tab.studio.shelf["forest-12"], Box(*BOX), {}))


@pytest.mark.slow
def test_a_frame_that_is_moved_until_the_exact_cut_is_there_and_a_step_back_have_its_shape_and_its_foot(
    tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, exact = threading.Event(), MagicInsert.subject

    def late(self: MagicInsert, *given: Any, **named: Any) -> Any:
        held.wait(WAIT)
        return exact(self, *given, **named)

    def shape() -> float:
        w, h = tab.ask(size_of("#frame"))
        return float(w / h)

    def foot() -> tuple[float, float]:
        x, y = tab.centre("#frame")
        return x, y + tab.ask(size_of("#frame"))[1] / 2

    tab.fresh()
    monkeypatch.setattr("magic_insert.page.studio.coarse_cut", half_a_disc)
    monkeypatch.setattr(MagicInsert, "subject", late)
    tab.put(tmp_path / "late.png", opaque((40, 40, 200)))
    tab.wait("pictures.children.length > 0")  # the draft
    assert shape() == pytest.approx(0.5, abs=0.05)
    assert tab.ask("seeds.disabled")
    tab.nudge("ArrowLeft")
    tab.wait("!stage.classList.contains('moving')")  # a step of the user's, around the coarse cut
    tab.press("ArrowLeft")
    stood = foot()
    held.set()
    tab.wait(f"{SHOWN} && cancel.hidden && {RESULT} > 0")
    made = tab.last.wish.box
    assert made.w / made.h == pytest.approx(1.0, abs=0.05)
    assert foot() == pytest.approx(stood, abs=3)  # about a pixel of the scene
    assert not tab.ask("seeds.disabled")
    for _ in range(2):
        assert shape() == pytest.approx(1.0, abs=0.05)
        tab.click("#undo")
        tab.wait(f"{SHOWN} && cancel.hidden")
    assert shape() == pytest.approx(1.0, abs=0.05)
    tab.click("#undo")  # the frame of the coarse cut is no step of the user's
    tab.wait("frame.hidden")
    # A result around the coarse cut is left, as where nobody was there to see it.
    (item,) = tab.session.items.values()
    task = tab.studio.drop(tab.session, replace(tab.last.wish, subject=item, box=Box(40, 40, 30, 60)))
    wait_until(lambda: task.state == "done")
    old = next(id for id, one in tab.session.results.items() if one.wish.box.w == 30)
    tab.wait(f"!!document.querySelector(\"#history [data-id='{old}']\")")
    tab.click(f"#history [data-id='{old}']")
    tab.nudge()
    tab.wait(f"{SHOWN} && cancel.hidden && !stage.classList.contains('moving')")
    box = tab.last.wish.box
    assert box.w / box.h == pytest.approx(1.0, abs=0.05)
    assert box.h == pytest.approx(60, abs=15)


def test_who_waits_for_another_browser_is_told_so(tab: Tab) -> None:
    tab.with_a_bunny()
    held, other = busy(tab.studio), tab.studio.session(32 * "e")
    task = tab.studio.drop(other, tab.last.wish)
    tab.nudge()
    tab.wait("document.querySelector('#doing').textContent === \"waiting for another browser's picture\"")
    tab.studio.cancel(other, task.id)
    tab.press("ArrowRight")
    tab.wait("document.querySelector('#doing').textContent === 'waiting'")
    tab.press("Escape")
    held.set()


@pytest.mark.slow
def test_a_tab_that_is_not_seen_keeps_no_connection_and_catches_up(tab: Tab) -> None:
    tab.with_a_bunny()
    session, first = tab.session, tab.last
    for hidden in ("true", "false"):
        tab.ask(f"Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }}); "
                 "document.dispatchEvent(new Event('visibilitychange'))")  # fmt: skip
        wait_until(lambda hidden=hidden: bool(session.changed) == (hidden == "false"))
        if hidden == "true":
            tab.studio.drop(session, replace(first.wish, box=replace(first.wish.box, x=first.wish.box.x + 9)))
            tab.studio.call(lambda: True).result(WAIT)
    tab.wait(f"{RESULT} === 2")


STEP = "learning the subject (once) 34/200, 50 s left"
GONE = "magic-insert page does not answer; start it again and open its new address"
NOTHING = f"expected a subject that stands out from its ground, got an almost uniform picture; {CROP}"


def test_all_that_is_done_with_a_result_fits_one_screen(tab: Tab) -> None:
    tab.with_a_bunny()
    tab.redrawn()
    for height in (900, 720):
        tab.look(width=1280, height=height)
        boxes = tab.ask("[...document.querySelectorAll('#stage, #compare, #middle button, #downloads a, #redraw')]"
                         ".filter(node => node.checkVisibility()).map(node => node.getBoundingClientRect())"
                         ".map(at => [at.left, at.top, at.right, at.bottom])")  # fmt: skip
        assert len(boxes) >= 15
        assert min(min(box) for box in boxes) >= 0
        assert max(box[2] for box in boxes) <= 1280
        assert max(box[3] for box in boxes) <= height
        still = tab.ask(size_of("#stage"))  # and stays as it is while the page says what it does
        tab.ask(f"doing.textContent = {STEP!r}")
        tab.ask("for (const id of ['step', 'progress', 'cancel']) document.getElementById(id).hidden = false")
        assert tab.ask(size_of("#stage")) == still
        for width in (1280, 1100):
            tab.look(width=width, height=height)
            for said in (STEP, GONE, NOTHING):
                tab.ask(f"doing.textContent = {said!r}")
                tab.ask(f"document.querySelector('#status').classList.toggle('bad', {said != STEP:d} === 1)")
                tab.ask(f"cancel.hidden = {said == NOTHING:d} === 1")
                fits = "doing.scrollHeight <= doing.clientHeight && bar.scrollWidth <= bar.clientWidth"
                assert tab.ask(fits), (said, width)
    tab.look(width=420, height=880, touch=True)
    assert tab.ask(
        "document.querySelector('#truth + span').checkVisibility()"
    )  # what the truth is, without hovering


def test_the_truth_is_pressed_on_and_off_however_quickly(tab: Tab) -> None:
    tab.fresh()
    middle = tab.centre("#stage")
    tab.drag(tab.centre(BUNNY), (middle[0], middle[1] + 120))
    tab.wait(SHOWN)
    over = "document.querySelectorAll('#pictures .truth').length"
    for shown in (1, 0):
        tab.ask("for (let i = 0; i < 3; i++) document.querySelector('#truth').click()")
        pressed = (
            f"document.querySelector('#truth').getAttribute('aria-pressed') === '{bool(shown)}'.toLowerCase()"
        )
        tab.wait(f"{over} === {shown} && {pressed} && !doing.textContent.includes('truth')")
    assert not tab.ask("document.querySelector('#status').classList.contains('bad')")
    pressed = "document.querySelector('#truth').getAttribute('aria-pressed')"
    tab.ask("document.querySelector('#truth').click(); document.querySelector('#undo').click()")
    tab.ask("fetch(document.querySelector('#history button img').src).then(() => { window.since = true; })")
    tab.wait("window.since === true")
    assert tab.ask(f"[{over}, {pressed}]") == [0, "false"]


def test_the_history_tells_results_apart_and_without_one_nothing_of_it_can_be_pressed(tab: Tab) -> None:
    tab.fresh()
    assert tab.ask("document.querySelectorAll('#save a').length") == 6
    assert (
        tab.ask("document.querySelectorAll('#save :is(a[href], button:enabled), #parts :enabled').length")
        == 0
    )
    tab.drag(tab.centre(BUNNY), tab.centre("#stage"))
    tab.wait(SHOWN)
    assert tab.ask("document.querySelectorAll('#save a[href]').length") == 6
    first, box = tab.last, tab.last.wish.box
    wish = replace(first.wish, kind="full", box=replace(box, x=9))
    tab.session.results["drawn"] = replace(first, id="drawn", wish=wish)
    tab.studio.call(lambda: tab.studio._tell(tab.session)).result(WAIT)
    tab.wait(f"{RESULT} === 2")
    told = "[button.className, button.innerText.trim(), button.querySelector('.map b').style.left]"
    said = tab.ask(f"[...document.querySelectorAll('#history button')].map(button => {told})")
    assert [what for *what, _ in said] == [["full", "redrawn"], ["on", "preview"]]
    assert [float(left[:-1]) * 2.56 for *_, left in said] == pytest.approx([9, box.x], abs=0.1)


def test_undo_takes_back_what_the_user_did_last(tab: Tab) -> None:
    tab.with_a_bunny()
    session = tab.session
    middle, first = tab.centre("#stage"), tab.last
    tab.drag(tab.centre("#frame"), (middle[0] + 90, middle[1]))
    tab.wait(f"{RESULT} === 2 && {SHOWN}")
    moved, on_stage = tab.last, "document.querySelector('#history .on')?.dataset.id"
    tab.click(f"#history [data-id='{first.id}']")
    tab.wait(f"{on_stage} === {first.id!r}")
    tab.click("#undo")
    tab.wait(f"{on_stage} === {moved.id!r}")
    # The server's news while the picture is on its way takes nothing from it.
    tab.ask("(() => { const decode = Image.prototype.decode, late = () => new Promise((go) => setTimeout(go, 600)); "
            "Image.prototype.decode = function () { return decode.call(this).then(late); }; })()")  # fmt: skip
    tab.click("#undo")
    tab.studio._tell(session)
    tab.wait(f"{on_stage} === {first.id!r} && {SHOWN}")
    held = busy(tab.studio)
    tab.nudge()
    tab.wait("!document.querySelector('#cancel').hidden")
    tab.click("#undo")  # of what is not drawn yet
    tab.wait(f"document.querySelector('#cancel').hidden && {on_stage} === {first.id!r}")
    held.set()
    tab.click("#undo")
    tab.wait("document.querySelector('#frame').hidden && document.querySelector('#undo').disabled")
    assert list(session.results) == [first.id, moved.id]
    tab.open(f"{tab.server.address}?undo")  # a reload knows the results
    tab.wait(f"{on_stage} === {moved.id!r}")
    tab.click("#undo")
    tab.wait(f"{on_stage} === {first.id!r}")
    assert tab.ask("document.querySelector('#undo').disabled")


def test_a_move_by_key_is_taken_back_before_it_is_asked_for(tab: Tab) -> None:
    tab.with_a_bunny()
    session, first, left = tab.session, tab.last, "parseFloat(document.querySelector('#frame').style.left)"
    stood = tab.ask(left)
    for back in ("Escape", "Undo"):
        tab.nudge()
        tab.wait(f"{left} > {stood} + 0.6")  # percent; a key moves it by one
        if back == "Undo":
            tab.click("#undo")
        else:
            tab.press("Escape")
        tab.wait(f"Math.abs({left} - {stood}) < 0.4 && {SHOWN}")
    tab.ask("new Promise((done) => setTimeout(done, 500))")  # longer than a key rests
    assert list(session.results) == [first.id]
    assert not any(task.live for task in session.tasks.values())


def test_four_seeds_that_are_closed_are_not_asked_for(tab: Tab) -> None:
    tab.with_a_bunny()
    session, held = tab.session, busy(tab.studio)
    tab.ask("document.querySelector('#seeds').click(); document.querySelector('#back').click(); "
            "new Promise((done) => setTimeout(done, 500))")  # fmt: skip
    wait_until(lambda: not any(task.live for task in session.tasks.values()))
    asked = [task.wish.knobs for task in session.tasks.values() if "sampling.seed" in task.wish.knobs]
    held.set()
    assert len(asked) <= 1


def test_the_tick_belongs_to_the_subject(tab: Tab, tmp_path: Path) -> None:
    tab.with_a_bunny()
    held, ticked = busy(tab.studio), "document.querySelector('#redraw').checked"
    tab.click("#redraw")
    assert tab.ask(ticked)
    tab.press("Escape")
    tab.wait("document.querySelector('#cancel').hidden")
    held.set()
    tab.put(tmp_path / "own.png", blob((60, 70, 200), 56), "#subjects h2")
    tab.wait(f"document.querySelector('#ghost').src.includes('own-') && {SHOWN}")
    session = tab.session
    assert not tab.ask(ticked)
    assert {task.wish.kind for task in session.tasks.values() if task.wish.subject.origin == "own"} == {
        "preview"
    }


@pytest.mark.slow
def test_a_move_after_a_reload_goes_into_the_redrawing_that_is_under_way(tab: Tab, tmp_path: Path) -> None:
    tab.fresh()
    picture = tmp_path / "reloaded.png"
    tab.put(picture, blob((10, 120, 220), 60))
    tab.wait(SHOWN)
    held = busy(tab.studio)
    tab.click("#redraw")
    tab.wait("!document.querySelector('#cancel').hidden")
    tab.open(f"{tab.server.address}?reload")
    tab.wait("document.querySelector('#redraw').checked && !document.querySelector('#frame').hidden")
    session = tab.session
    (task,) = (task for task in session.tasks.values() if task.wish.kind == "full")
    x = task.wish.box.x
    tab.nudge()
    wait_until(lambda: task.wish.box.x != x)
    assert (task.wish.box.x, task.state) == (x + 3, "waiting")  # a hundredth of 256 pixels a press
    tab.press("Escape")
    tab.wait("document.querySelector('#cancel').hidden")
    held.set()


def test_escape_leaves_nothing_of_what_was_asked_for_and_bad_files_are_named(
    tab: Tab, tmp_path: Path
) -> None:
    tab.fresh()
    held = busy(tab.studio)  # the worker is busy, so that the drop waits
    tab.drag(tab.centre(BUNNY), tab.centre("#stage"))
    tab.wait("!document.querySelector('#cancel').hidden")
    tab.press("Escape")
    tab.wait("document.querySelector('#cancel').hidden")
    held.set()
    assert tab.studio.call(lambda: True).result(WAIT)
    assert tab.ask(RESULT) == 0
    assert not tab.session.results
    tab.drag(tab.centre(BUNNY), tab.centre("#stage"))
    tab.wait(SHOWN)
    held = busy(tab.studio)
    tab.click("#redraw")
    tab.wait("redraw.checked && !cancel.hidden")
    tab.press("Escape")  # a small move does not begin again what was cancelled
    tab.wait("cancel.hidden && !redraw.checked")
    held.set()
    (tmp_path / "letter.png").write_text("not a picture")
    (tmp_path / "folder.png").mkdir()
    Image.new("RGB", (90, 90), "grey").save(tmp_path / "plain.png")
    tiles = tab.ask("document.querySelectorAll('.tile').length")
    for name, words in {
        "letter": "expected a PNG",
        "folder": "a folder",
        "plain": "expected a subject",
    }.items():
        tab.drop_file(tmp_path / f"{name}.png", tab.centre("#subjects h2"))
        tab.wait(f"document.querySelector('#status.bad #doing')?.textContent.includes({words!r})")
    tab.wait(f"document.querySelectorAll('.tile').length === {tiles}")  # none is left for what was refused
    advice = tab.ask("document.querySelector('#doing').textContent")
    assert "crop" in advice
    assert "segmenter" not in advice
    held = busy(tab.studio)
    tab.put(tmp_path / "sound.png", blob((90, 20, 90)), "#subjects h2")
    tab.wait("document.querySelector('#doing').textContent === 'looking at the picture'")
    assert not tab.ask("document.querySelector('#status').classList.contains('bad')")
    held.set()
    tab.wait(f"document.querySelectorAll('.tile').length === {tiles} + 1")
    tab.complaints.clear()  # the browser notes the refusal


def test_of_many_changes_at_once_only_the_last_is_drawn(tab: Tab) -> None:
    tab.with_a_bunny()
    session, held = tab.session, busy(tab.studio)
    tab.ask("document.querySelector('#redraw').click()")
    tab.ask("for (const value of [0.2, 0.3, 0.4, 0.5, 0.6]) { "
             "const slider = document.querySelector('[data-knob=\"style.degree\"]'); "
             "slider.value = value; slider.dispatchEvent(new Event('change')); }")  # fmt: skip
    wait_until(lambda: [t.wish.knobs.get("style.degree") for t in session.tasks.values() if t.live] == [0.6])
    tab.press("Escape")
    held.set()


@pytest.mark.slow
def test_a_finger_drags_and_a_reload_finds_the_job_going_on(tab: Tab) -> None:
    tab.fresh(width=420, height=880, touch=True)
    tab.ask("document.querySelector('#redraw').click()")
    tab.drag(tab.centre(BUNNY), tab.centre("#stage"), touch=True)
    tab.wait("document.querySelector('#history').children.length > 0")
    tab.open(f"{tab.server.address}?again")
    tab.wait("document.querySelector('#history').children.length === 2", WAIT)
    tab.wait(SHOWN)
    assert tab.last.wish.kind == "full"
    for _ in range(2):  # a double click asks for four and not for eight
        tab.ask("document.querySelector('#seeds').click()")
    tab.wait(
        "document.querySelector('#history').children.length === 6 && document.querySelector('#cancel').hidden",
        WAIT,
    )
    assert tab.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert tab.ask("document.querySelectorAll('#sheet .draw:enabled .close img').length") == 4
    for drawn in ("#sheet .draw", "#sheet .close img"):  # neither the crop nor what it shows is stretched
        wide, tall = tab.ask(size_of(drawn))
        assert wide / tall == pytest.approx(1.0, abs=0.03)
    tab.click("#sheet .draw:nth-child(3)")
    tab.wait("document.querySelector('#history .on span').textContent === 'seed 3'")
    assert tab.ask("document.querySelector('#sheet').hidden")


@pytest.mark.parametrize("skipped", [0, 40])  # by a resume
def test_the_time_that_is_left_goes_by_the_steps_after_the_first_two(
    monkeypatch: pytest.MonkeyPatch, skipped: int
) -> None:
    item = shelf.Item("a", "subject", Path("a.png"), "own", "a")
    task = Task("1", Wish("full", item, item, Box(0, 0, 9, 9), {}), quick=False)
    left = []
    for step, seconds in enumerate((0.0, 30.0, 40.0, 42.0, 44.0)):  # the first two load and warm up
        done = step and skipped + step
        monkeypatch.setattr("magic_insert.page.session.time.monotonic", lambda now=seconds: now)
        task.progress("personalise", done, skipped + 11)
        left.append(task.seconds_left)
    assert left == [None, None, None, 16.0, 14.0]
