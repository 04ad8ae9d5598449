"""Laws of the subject's pictures: aspect kept, ground plain, views named by their number."""

from pathlib import Path

import pytest
import torch
from helpers import frozen

from magic_insert.config.schema.jobs import PersonalizeConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import save_png
from magic_insert.core.jsonl import write_json
from magic_insert.core.masks import bounding_box
from magic_insert.core.records import Subject
from magic_insert.data.subject_files import CLAIM_FILE, check_run_folder, request_of, subjects_of
from magic_insert.data.subject_images import FILL, Augment, bucket, load_subjects, make_view, place


def block(height: int = 60, width: int = 30) -> Subject:
    """A red cut-out of height x width in a green picture of 100 x 100 whose green is transparent."""
    rgb, alpha = torch.zeros(3, 100, 100), torch.zeros(1, 100, 100)
    rgb[1] = 1
    spot = (slice(None), slice(20, 20 + height), slice(10, 10 + width))
    rgb[spot] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    alpha[spot] = 1
    return Subject(rgb, alpha, "block")


def views_of(subjects: list[Subject], count: int, *, seed: int, augment: Augment) -> torch.Tensor:
    """The first `count` training pictures."""
    return torch.stack([make_view(subjects, i, 32, seed=seed, augment=augment)[0] for i in range(count)])


@pytest.mark.parametrize(("height", "width"), [(60, 30), (20, 60), (40, 40)])
def test_the_aspect_ratio_is_kept_and_the_subject_is_centred(height: int, width: int) -> None:
    box = bounding_box(place(block(height, width), 128)[1])
    assert max(box.w, box.h) == round(128 * FILL)
    assert box.h / box.w == pytest.approx(height / width, rel=0.03)
    assert abs(box.centre_x - 64) <= 1


def test_nothing_transparent_is_seen_and_an_opaque_picture_fills_the_square() -> None:
    rgb, alpha = place(block(), 96, ground=1.0)
    green_on_white = rgb[1] - rgb[0]
    assert green_on_white.max() <= 1e-5
    assert torch.equal(rgb[:, alpha[0] == 0], torch.ones_like(rgb[:, alpha[0] == 0]))
    opaque = Subject(torch.rand(3, 50, 100), torch.ones(1, 50, 100), "opaque")
    box = bounding_box(place(opaque, 64)[1])
    assert (box.w, box.h) == (64, 32)


@pytest.mark.parametrize("shift", [(-1.0, -1.0), (1.0, 1.0), (0.3, -0.6)])
def test_a_shift_never_cuts_the_subject(shift: tuple[float, float]) -> None:
    still, moved = place(block(), 64, scale=0.7)[1], place(block(), 64, scale=0.7, shift=shift)[1]
    assert moved.sum() == pytest.approx(float(still.sum()), rel=1e-5)


def test_the_bucket_of_a_square_is_the_square_and_of_others_sdxls_own_of_as_many_pixels() -> None:
    known = [((1000, 1000), (1024, 1024)), ((1500, 1000), (1216, 832)), ((900, 1600), (768, 1344))]
    for (height, width), frame in (*known, ((4, 9), (640, 1536))):
        tall = Subject(torch.rand(3, height, width), torch.ones(1, height, width), "opaque")
        assert bucket(tall, 1024) == frame
    assert bucket(block(60, 30), 64) == (96, 40)  # of the cut-out, not of its picture


@pytest.mark.parametrize(("height", "width"), [(60, 30), (20, 60), (60, 58)])
def test_in_its_bucket_a_subject_keeps_its_aspect_and_fills_no_less(height: int, width: int) -> None:
    subject = block(height, width)
    frame = bucket(subject, 256)
    assert frame[0] * frame[1] <= 256 * 256
    rgb, alpha = place(subject, frame)
    assert rgb.shape[-2:] == frame
    box = bounding_box(alpha)
    assert box.h / box.w == pytest.approx(height / width, rel=0.03)
    assert alpha.sum() >= 0.95 * place(subject, 256)[1].sum()
    assert max(box.h / frame[0], box.w / frame[1]) == pytest.approx(FILL, abs=0.01)


def test_a_view_depends_on_its_number_and_seed_and_every_picture_gets_its_turn() -> None:
    short, long = (views_of([block()], count, seed=3, augment=Augment()) for count in (3, 6))
    assert torch.equal(long[:3], short)
    assert not torch.equal(long[1], long[2])
    assert not torch.equal(views_of([block()], 3, seed=4, augment=Augment())[1:], short[1:])
    other = Subject(1 - block().rgb, block().alpha, "other")
    views = views_of([block(), other], 2, seed=0, augment=Augment())
    assert torch.equal(views[0], place(block(), 32)[0])
    assert torch.equal(views[1], place(other, 32)[0])


def test_pictures_are_read_with_their_matte_and_named_by_their_file(tmp_path: Path) -> None:
    subject = block()
    save_png(tmp_path / "hare.png", torch.cat([subject.rgb, subject.alpha]))
    save_png(tmp_path / "opaque.png", subject.rgb)
    hare, opaque = load_subjects([tmp_path / "hare.png", tmp_path / "opaque.png"])
    assert torch.equal(hare.alpha, subject.alpha)
    assert (opaque.alpha == 1).all()
    assert (hare.id, opaque.id) == ("hare", "opaque")


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())


def asked(subject: Path | str, out: Path, *more: str) -> PersonalizeConfig:
    return frozen("personalize", f"subject={subject}", f"out={out}", *more)


def test_a_folder_holds_one_subject_per_picture_and_per_folder(tmp_path: Path) -> None:
    home = tmp_path / "subjects"
    touch(
        home / "cat.png", home / "dog" / "a.jpg", home / "dog" / "b.PNG", home / "notes.txt", home / ".x.png"
    )
    (home / "empty").mkdir()
    found = subjects_of(asked(home, tmp_path / "out"))
    assert [subject.out.name for subject in found] == ["cat", "dog"]
    assert [len(subject.pictures) for subject in found] == [1, 2]


def test_what_cannot_be_a_subject_is_refused_by_name(tmp_path: Path) -> None:
    touch(tmp_path / "twins" / "cat.png", tmp_path / "twins" / "cat.jpg")
    touch(*(tmp_path / "crowd" / "cat" / f"{i}.png" for i in range(6)))
    touch(tmp_path / "pair" / "cat" / "a.png", tmp_path / "pair" / "cat" / "a.jpg")
    (tmp_path / "nothing").mkdir()
    refused = {
        "twins": "different names",
        "pair": "different names",
        "crowd": "1 to 5",
        "nothing": "got none",
    }
    for name, words in {**refused, "missing.png": "no file"}.items():
        with pytest.raises(UserError, match=words):
            subjects_of(asked(tmp_path / name, tmp_path / "out"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("personalization.rank=3", "personalization"),
        ("seed=1", "seed"),
        ("model.dtype=bfloat16", "model"),
        ("model.device=cpu", None),
        ("logger=wandb", None),
    ],
)
def test_a_run_folder_takes_one_request_and_no_other(tmp_path: Path, change: str, named: str | None) -> None:
    touch(tmp_path / "cat.png")
    cfg, other = (asked(tmp_path / "cat.png", tmp_path / "out", *more) for more in ((), (change,)))
    first, second = (request_of(c, subjects_of(c)[0]) for c in (cfg, other))
    check_run_folder(tmp_path / "out", first)  # free
    write_json(tmp_path / "run.json", {"job": "evaluate"})
    with pytest.raises(UserError, match="run of evaluate"):
        check_run_folder(tmp_path, first)
    write_json(tmp_path / "out" / CLAIM_FILE, {"key": "k", "request": first})
    check_run_folder(tmp_path / "out", first)
    if named is None:
        check_run_folder(tmp_path / "out", second)
    else:
        with pytest.raises(UserError, match=rf"other .*\b{named}\b"):
            check_run_folder(tmp_path / "out", second)
