"""Suggested poses: the table answers by words, the client speaks OpenAI's protocol and trusts nobody."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from PIL import Image

from magic_insert.config.fields import check
from magic_insert.config.schema.shared import PoseConfig
from magic_insert.core.box import Box
from magic_insert.core.errors import UserError
from magic_insert.pose import POSES_BY_WORD, around, build_pose, clean, pose_by_words, suggest

SCENE = Image.effect_noise((900, 600), 60).convert("RGB")
NAME = "the_moon-07"
BOX = Box(100, 200, 60, 90)
HTTP = PoseConfig(name="http", model="some-model", timeout=5.0)


@dataclass
class Stub:
    """What a chat server was asked, and what it shall say."""

    url: str = ""
    status: int = 200
    body: bytes = b""
    asked: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)

    def say(self, text: object) -> None:
        self.body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A real HTTP server on this machine, named in the environment."""
    state = Stub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            state.asked.append((self.path, dict(self.headers), json.loads(data)))
            self.send_response(state.status)
            if state.status == 302:
                self.send_header("Location", f"{state.url}/elsewhere")
            self.end_headers()
            self.wfile.write(state.body)

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", state.url)
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret")
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_table_knows_a_pose_for_its_words_and_the_crop_is_the_box_with_surroundings() -> None:
    for words, pose in POSES_BY_WORD:
        assert all(pose_by_words(SCENE, SCENE, f"a {word.upper()}, 3") == pose for word in words)
    assert pose_by_words(SCENE, SCENE, "a wilderness of mirrors") == ""
    assert suggest(build_pose(PoseConfig(name="rules")), SCENE, BOX, name=NAME) == "looking up"
    assert suggest(build_pose(PoseConfig(name="rules")), SCENE, BOX, name="x", words="a bed") == "lying down"
    assert suggest(build_pose(PoseConfig()), SCENE, BOX, name=NAME) == ""
    assert around(SCENE, BOX).crop((37, 22, 97, 112)).tobytes() == SCENE.crop((100, 200, 160, 290)).tobytes()
    assert around(SCENE, Box(0, 0, 20, 20)).tobytes() == SCENE.crop((0, 0, 25, 25)).tobytes()


def test_the_server_is_shown_both_pictures_and_the_key_and_its_answer_is_cleaned(stub: Stub) -> None:
    stub.say(' "Sitting down on the floor." \nBecause floors are nice.')
    suggester = build_pose(HTTP)
    assert suggest(suggester, SCENE, BOX, name=NAME) == "Sitting down on the floor"
    assert "secret" not in repr(suggester)
    ((path, headers, body),) = stub.asked
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer a-secret"
    assert body["model"] == "some-model"
    text, *pictures = body["messages"][0]["content"]
    assert "the_moon-07" in text["text"]
    sizes = []
    for picture in pictures:
        head, data = picture["image_url"]["url"].split(",")
        assert head == "data:image/png;base64"
        sizes.append(Image.open(io.BytesIO(base64.b64decode(data))).size)
    assert sizes == [(512, 341), (135, 135)]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("Sitting.", "Sitting"),
        ("\n\n'waving, happily'", "waving, happily"),
        ("<b>run</b> {tokens} <v1>", "b run b tokens v1"),
        ("word " * 40, " ".join(["word"] * 12)),
        ("", ""),
    ],
)
def test_of_an_answer_one_short_line_of_plain_words_is_kept(answer: str, words: str) -> None:
    assert clean(answer) == words


BODIES = (b"not json", b"{}", b'{"choices": []}', b'{"choices": [{"message": {}}]}', b"\xff",
          b'{"choices": [{"message": {"content": null}}]}')  # fmt: skip


@pytest.mark.parametrize(
    ("status", "body"), [*((status, b"") for status in (302, 401, 500)), *((200, body) for body in BODIES)]
)
def test_a_server_that_refuses_sends_elsewhere_or_answers_otherwise_is_an_error_of_one_line(
    stub: Stub, status: int, body: bytes
) -> None:
    stub.status, stub.body = status, body
    with pytest.raises(UserError, match="chat completion" if body else f"status {status}") as caught:
        suggest(build_pose(HTTP), SCENE, BOX, name=NAME)
    assert len(stub.asked) == 1
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="pose=rules"):
        suggest(build_pose(HTTP), SCENE, BOX, name=NAME)
    with pytest.raises(UserError, match=r"pose\.model"):
        check(PoseConfig(name="http"), "pose.")
    for url in ("", "ftp://example.org", "file:///etc/passwd", "example.org"):
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        with pytest.raises(UserError, match="OPENAI_BASE_URL"):
            build_pose(HTTP)
