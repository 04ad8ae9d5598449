"""Values are checked, documented and listed from what stands beside their field; components are found by name."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated

import pytest

from magic_insert.config import fields
from magic_insert.config.registry import Registered, Registry
from magic_insert.core.errors import UserError


@dataclass(frozen=True)
class Part:
    """A part."""

    share: Annotated[float, fields.Range(0, 1, open_high=True)] = 0.5
    """How much of it
    there is."""
    words: list[Annotated[str, fields.OneOf("a", "b")]] = field(default_factory=list)
    limit: Annotated[int, fields.Range(1)] | None = None


@dataclass(frozen=True)
class Whole:
    """A job."""

    part: Part = field(default_factory=Part)
    size: Annotated[int, fields.Range(8, 64), fields.MultipleOf(8)] = 32
    prompt: Annotated[str, fields.Holds("{n}")] = "v{n}"
    names: Annotated[list[str], fields.NotEmpty()] = field(default_factory=lambda: ["x"])

    def conflicts(self, at: str) -> Iterator[str]:
        if self.size == 64 and self.part.share == 0:
            yield f"expected {at}size below 64, got 64"


@pytest.mark.parametrize(
    ("whole", "key"),
    [
        (Whole(Part(share=1.0)), "job.part.share"),
        (Whole(Part(share=float("nan"))), "job.part.share"),
        (Whole(Part(words=["a", "c"])), "job.part.words"),
        (Whole(Part(limit=0)), "job.part.limit"),
        (Whole(size=12), "job.size"),
        (Whole(size=72), "job.size"),
        (Whole(prompt="{n}{n}"), "job.prompt"),
        (Whole(names=[]), "job.names"),
        (Whole(Part(share=0.0), size=64), "job.size"),
    ],
)
def test_what_a_field_declares_is_checked_under_its_full_key(whole: Whole, key: str) -> None:
    fields.check(Whole(), "job.")
    with pytest.raises(UserError, match=rf"^expected {key} "):
        fields.check(whole, "job.")


@dataclass(frozen=True)
class Places:
    """A job's inputs and its output."""

    pictures: list[Annotated[str, fields.Input("file")]] = field(default_factory=list)
    start: Annotated[str, fields.Input("folder", ("base",))] = "base"
    out: Annotated[str, fields.Output()] = "out"


def test_places_are_checked_when_a_job_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").touch()
    fields.check(Places(["a.png"], str(tmp_path), "new/out"), places=True)
    for places, key, got in (
        (Places(["a.png", "b.png"]), "pictures", "nothing at b.png"),
        (Places(start="a.png"), "start", "nothing at a.png"),
        (Places(out="a.webp"), "out", "a.webp"),
    ):
        fields.check(places)
        with pytest.raises(UserError, match=f"expected {key} to be .*{got}"):
            fields.check(places, places=True)
    with pytest.raises(UserError, match="got: Not a directory"):
        fields.check(Places(out="a.png/below"), places=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.png"]


def test_keys_are_listed_with_type_limits_and_the_text_below_them() -> None:
    keys = {key.name: key for key in fields.keys_of(Whole)}
    assert list(keys) == ["part.share", "part.words", "part.limit", "size", "prompt", "names"]
    assert keys["part.share"].doc == "How much of it there is."
    assert (keys["part.share"].type, keys["part.share"].limits) == ("float", "0 to <1")
    assert (keys["part.words"].type, keys["part.words"].limits) == ("list of str", "a | b")
    assert (keys["part.limit"].type, keys["part.limit"].limits) == ("int or null", ">= 1")
    assert fields.field_docs(Whole) == {}


def test_own_installed_and_registered_components_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = Registry("kind", {"own": "magic_insert.core.errors:UserError"})
    installed = {
        "far": EntryPoint("far", "fractions:Fraction", kinds.group),
        "own": EntryPoint("own", "fractions:Fraction", kinds.group),
        "lost": EntryPoint("lost", "no_such_module:X", kinds.group),
    }
    monkeypatch.setattr(Registry, "_installed", lambda self: installed)
    kinds.register("here")(Part)
    assert kinds.names() == ["own", "far", "here", "lost"]
    assert (kinds.get("own"), kinds.get("here"), kinds.get("far").__name__) == (UserError, Part, "Fraction")
    with pytest.raises(UserError, match="lost"):
        kinds.get("lost")
    with pytest.raises(UserError, match="own, far, here, lost"):
        kinds.get("none")
    with pytest.raises(UserError, match="taken"):
        kinds.register("own")(Part)
    assert Registered(kinds).holds("far")
    assert not Registered(kinds).holds("none")
