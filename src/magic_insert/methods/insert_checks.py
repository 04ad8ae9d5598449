"""What the insert job is given besides its subject: one background or many, and a personalisation of before.

Nothing here imports torch, so that the command line answers at once.
"""

from pathlib import Path
from typing import Any

from magic_insert.config.schema import InsertConfig
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json
from magic_insert.data.subject_files import CARD_FILE, SUFFIXES
from magic_insert.methods.input_checks import check_place

PERSONALIZED_FILES = ("pytorch_lora_weights.safetensors", "learned_embeds.safetensors")
TAKEN = "run"  # run.json in `out` is the record of the run and no picture's sidecar


def is_many(cfg: InsertConfig) -> bool:
    """Whether `cfg.background` is a list or a folder, and so `cfg.out` a folder."""
    return isinstance(cfg.background, list) or Path(cfg.background).is_dir()


def places_of(cfg: InsertConfig) -> list[tuple[Path, Path]]:
    """Every background with the picture that is written for it, in the order of their names' mention.

    Raises:
        UserError: no such file, no picture in the folder, two of the same name, an `out` that does not fit or that
            would overwrite an input, a folder where the sidecar goes, a pose to suggest for many backgrounds at once.
    """
    many = is_many(cfg)
    places = _many(cfg) if many else [(Path(cfg.background), check_place(cfg.out, suffix=".png"))]
    for _, out in places:
        if (beside := out.with_suffix(".json")).is_dir():
            raise UserError(
                f"expected a file to write beside {out}, got the folder {beside}; set another out="
            )
    inputs = {path.resolve() for path in (Path(cfg.subject), *(background for background, _ in places))}
    for background, out in places:
        if not background.is_file():
            raise UserError(
                f"expected background to be a picture, got no file at {background}; set background=PATH"
            )
        if out.resolve() in inputs:
            raise UserError(
                f"expected an output that is not one of the inputs, got {out}; set out={'FOLDER' if many else 'PATH'}"
            )
    return places


def _many(cfg: InsertConfig) -> list[tuple[Path, Path]]:
    if Path(cfg.out).suffix.lower() in SUFFIXES:
        raise UserError(f"expected a folder for several backgrounds, got {cfg.out}; set out=FOLDER")
    if cfg.pose.name != "none":
        raise UserError(
            f"expected pose=none for several backgrounds, which share one prompt, got {cfg.pose.name}; "
            "set pose=none or one background"
        )
    folder = check_place(cfg.out)
    if isinstance(cfg.background, list):
        paths = [Path(path) for path in cfg.background]
    else:
        paths = sorted(p for p in Path(cfg.background).iterdir() if p.suffix.lower() in SUFFIXES)
        paths = [path for path in paths if path.is_file() and not path.name.startswith(".")]
    if not paths:
        raise UserError(
            f"expected pictures ({', '.join(SUFFIXES)}) in {cfg.background}, got none; set background=PATH"
        )
    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem == TAKEN:
            raise UserError(
                f"expected a background of another name, got {path}, whose sidecar is run.json; rename it"
            )
        if path.stem in seen:
            raise UserError(
                f"expected backgrounds of different names, got {seen[path.stem]} and {path}; rename one"
            )
        seen[path.stem] = path
    return [(path, folder / f"{path.stem}.png") for path in paths]


def check_run(cfg: InsertConfig) -> Path | None:
    """The folder of the personalisation `cfg.run` of `cfg.subject`; None where the job is to make one.

    Raises:
        UserError: no finished personalisation there, or one of other pictures.
    """
    if cfg.run is None:
        return None
    run = Path(cfg.run)
    missing = [name for name in (CARD_FILE, *PERSONALIZED_FILES) if not (run / name).is_file()]
    if missing:
        raise UserError(
            f"expected a finished personalisation at {run}, got no {missing[0]} there; set run=FOLDER"
        )
    request: dict[str, Any] = read_json(run / CARD_FILE).get("request") or {}
    learned = [digest for _, digest in request.get("pictures", [])]
    if learned and sha256_file(cfg.subject) not in learned:
        names = ", ".join(name for name, _ in request["pictures"])
        raise UserError(f"expected subject to be a picture that {run} learned ({names}), got {cfg.subject}")
    return run


def learned_settings(run: Path) -> dict[str, Any]:
    """What `run` was personalised with, as the part of a configuration; nothing where its card does not say."""
    request: dict[str, Any] = read_json(run / CARD_FILE).get("request") or {}
    return {"personalization": request["personalization"]} if "personalization" in request else {}


def check_run_model(run: Path, fingerprint: str) -> None:
    """That `run` was trained on the model with this `fingerprint`.

    Raises:
        UserError: on another one.
    """
    if (found := read_json(run / CARD_FILE).get("model")) != fingerprint:
        raise UserError(
            f"expected a personalisation of this model ({fingerprint}) at {run}, got one of {found}; "
            "set model=... as in its training, or run=FOLDER"
        )
