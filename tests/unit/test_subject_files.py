"""From `subject=` to files and run folders, without torch; and when a run folder is somebody else's."""

from pathlib import Path

import pytest

from magic_insert.config.compose import compose_job
from magic_insert.config.freeze import freeze
from magic_insert.config.schema.jobs import PersonalizeConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import write_json
from magic_insert.data.subject_files import CLAIM_FILE, check_run_folder, request_of, subjects_of


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())


def asked(subject: Path | str, out: Path, *more: str) -> PersonalizeConfig:
    return freeze(compose_job("personalize", [f"subject={subject}", f"out={out}", *more]))


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
    for name, words in (
        ("twins", "different names"),
        ("crowd", "1 to 5"),
        ("pair", "different names"),
        ("nothing", "got none"),
        ("missing.png", "no file"),
    ):
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
def test_a_run_folder_takes_the_same_request_and_no_other(
    tmp_path: Path, change: str, named: str | None
) -> None:
    touch(tmp_path / "cat.png")
    cfg, other = (asked(tmp_path / "cat.png", tmp_path / "out", *more) for more in ((), (change,)))
    first, second = (request_of(c, subjects_of(c)[0]) for c in (cfg, other))
    check_run_folder(tmp_path / "out", first)  # free
    write_json(tmp_path / "out" / CLAIM_FILE, {"key": "k", "request": first})
    check_run_folder(tmp_path / "out", first)
    if named is None:
        check_run_folder(tmp_path / "out", second)
    else:
        with pytest.raises(UserError, match=rf"other .*\b{named}\b"):
            check_run_folder(tmp_path / "out", second)


def test_the_folder_of_another_job_is_left_alone(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"job": "evaluate"})
    with pytest.raises(UserError, match="run of evaluate"):
        check_run_folder(tmp_path, {})
