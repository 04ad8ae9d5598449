"""From the text of `subject=` to files, and what tells one personalisation from another. Nothing here imports torch.

`subject=PATH` or `subject=[PATH,PATH]` is one subject; a folder holds many: each picture in it is one, and each folder
in it is one with up to MAX_PICTURES pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from magic_insert.config.schema.jobs import MAX_PICTURES, PersonalizeConfig
from magic_insert.config.schema.training import PersonalizationConfig
from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import check_name, read_json
from magic_insert.core.picture_files import is_picture_file, pictures_in, require_pictures
from magic_insert.paths import subjects_dir

CLAIM_FILE = "personalization.json"
CARD_FILE = "card.json"  # written last: a folder that has one is a finished run
RUN_FILE = "run.json"
PERSONALIZED_FILES = ("pytorch_lora_weights.safetensors", "learned_embeds.safetensors")


@dataclass(frozen=True)
class SubjectFiles:
    """One subject's pictures and the folder its run goes to."""

    pictures: tuple[Path, ...]
    out: Path


def subjects_of(cfg: PersonalizeConfig) -> list[SubjectFiles]:
    """The subjects that `cfg.subject` names, each with the run folder of its own where there are several.

    Raises:
        UserError: no such file, no picture in the folder, too many of one subject, two of the same name.
    """
    out = Path(cfg.out)
    paths = [Path(path) for path in cfg.pictures]
    if len(paths) == 1 and paths[0].is_dir():
        return _folder_of_subjects(paths[0], out)
    for path in paths:
        if not path.is_file():
            raise UserError(f"expected subject to be a picture, got no file at {path}; set subject=PATH")
    return [SubjectFiles(_one_subject(paths), out)]


def _folder_of_subjects(folder: Path, out: Path) -> list[SubjectFiles]:
    found: dict[str, SubjectFiles] = {}
    for entry in sorted(folder.iterdir()):
        pictures = pictures_in(entry) if entry.is_dir() else [entry]
        if entry.name.startswith(".") or not pictures or not all(map(is_picture_file, pictures)):
            continue
        name = entry.name if entry.is_dir() else entry.stem
        if name in found:
            raise UserError(
                f"expected subjects of different names in {folder}, got {found[name].pictures[0].name} and "
                f"{entry.name}; rename one"
            )
        found[name] = SubjectFiles(_one_subject(pictures), out / name)
    require_pictures(found, f"{folder} or its folders", "subject=PATH")
    return list(found.values())


def _one_subject(pictures: Sequence[Path]) -> tuple[Path, ...]:
    if not 1 <= len(pictures) <= MAX_PICTURES:
        raise UserError(
            f"expected 1 to {MAX_PICTURES} pictures of one subject, got {len(pictures)}; set subject=[PATH,...]"
        )
    seen: dict[str, Path] = {}
    for path in pictures:
        check_name(path)
        if path.stem in seen:
            raise UserError(
                f"expected pictures of different names in subject, got {seen[path.stem]} and {path}; "
                "leave one out or rename it"
            )
        seen[path.stem] = path
    return tuple(pictures)


def request_of(cfg: PersonalizeConfig, subject: SubjectFiles) -> dict[str, Any]:
    """What the user asked for, as plain JSON: pictures by content, model, settings, seed. Not where it runs."""
    model = asdict(cfg.model)
    del model["device"]
    return {
        "pictures": [[path.name, sha256_file(path)] for path in subject.pictures],
        "model": model,
        "personalization": asdict(cfg.personalization),
        "seed": cfg.seed,
    }


def check_run_folder(out: Path, request: Mapping[str, Any]) -> None:
    """That `out` is free or holds a run of the same `request`, so that nothing of another is overwritten.

    Raises:
        UserError: it belongs to another job, or to a personalisation of something else; says of what.
    """
    if (out / RUN_FILE).is_file() and (job := read_json(out / RUN_FILE).get("job")) != "personalize":
        raise UserError(f"expected an empty folder at {out}, got a run of {job}; choose another out=")
    if not (out / CLAIM_FILE).is_file():
        return
    found = read_json(out / CLAIM_FILE).get("request") or {}
    other = [name for name, value in request.items() if name in found and found[name] != value]
    if other:
        raise UserError(
            f"expected {out} to be free or to hold the same run, got one with other {' and '.join(other)}; "
            "choose another out="
        )


def shipped_run(asked: Mapping[str, Any]) -> Path | None:
    """The folder below `data/subjects` that was learned from what is `asked` for: pictures, recipe, model and seed.

    A setting that came after the folder was made must have the value that changes nothing.
    """
    plain = asdict(PersonalizationConfig())
    for file in sorted(subjects_dir().glob(f"*/{CARD_FILE}")):
        card = read_json(file)
        learned = {**plain, **card["config"]}
        settings = {name: learned.get(name) for name in asked["config"]}
        known = {**{name: card[name] for name in asked}, "config": settings}
        if digest(known) == digest(dict(asked)):
            return file.parent
    return None


def finished_run(folder: str | Path) -> Path:
    """The folder of a personalisation that is done; raises `UserError` where a file of one is missing."""
    for name in (CARD_FILE, *PERSONALIZED_FILES):
        if not (Path(folder) / name).is_file():
            raise UserError(
                f"expected a finished personalisation at {folder}, got no {name} there; set run=FOLDER"
            )
    return Path(folder)
