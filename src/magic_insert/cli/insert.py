"""The jobs that make pictures of a user's own: `magic-insert insert`, one subject into one background or many; and
`magic-insert remove`, an object and its shadow out of a picture. Thin callers of the heart (magic.py);
their settings are `InsertConfig` and `RemoveConfig` in config/schema/jobs.py.
"""

import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from magic_insert.config.schema.jobs import InsertConfig, RemoveConfig
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.events import Clock, OnEvent, stage, terminal_bars
from magic_insert.core.picture_files import open_picture
from magic_insert.core.store import claim
from magic_insert.inputs import (
    InsertInputs,
    RemoveInputs,
    insert_request,
    learned_settings,
    resolve_insert,
    resolve_remove,
)
from magic_insert.pose import suggest
from magic_insert.stylizers import needs_personalization

if TYPE_CHECKING:
    from magic_insert.magic import MagicInsert

BATCH = 8  # backgrounds redrawn for at a time; the pictures do not depend on it


def run_insert(cfg: InsertConfig, found: InsertInputs | None = None) -> Path:
    """Personalises (or takes what is there), redraws and places; a picture and its JSON for each background.

    With `keep_intermediate` a folder `<out>_parts` shows every step between.

    Args:
        found: what `resolve_insert` found; it is asked where another process composed the configuration.

    Raises:
        UserError: the input does not fit; or, at the end, one of several backgrounds did not.
    """
    found = found or resolve_insert(cfg)
    from magic_insert.magic import MagicInsert, Settings

    if found.many:
        claim(Path(cfg.out), insert_request(cfg))
    refused = list(found.refused)
    for line in refused:
        print(f"magic-insert: left out: {line}", file=sys.stderr)
    with terminal_bars() as bars:
        clock = Clock(bars)
        magic = MagicInsert(Settings.of(cfg), folders=found.folders)
        magic = (
            magic.suited(found.longest, run=found.run)
            if cfg.pose.name == "none"
            else magic.using(mode="full")
        )
        subject = magic.subject(cfg.subject, text=cfg.subject_text, run=found.run, on_event=clock)
        magic.load(clock)
        if subject.run is None and needs_personalization(magic.settings.stylizer):
            subject = magic.personalize(subject, on_event=clock)
        pose = "" if cfg.pose.name == "none" else _pose(magic, cfg, found, clock)
        suffix = ", ".join(words for words in (cfg.sampling.prompt_suffix, pose) if words)
        magic = magic.using(sampling=replace(cfg.sampling, prompt_suffix=suffix))
        learned = {} if found.run is None else learned_settings(found.run)
        used = {"mode": magic.settings.mode, "stylizer": asdict(magic.settings.stylizer)}
        story = {"pose": pose, "config": {**asdict(cfg), **learned, **used}}
        for start in range(0, len(found.pictures), BATCH):
            part = found.pictures[start : start + BATCH]
            scenes = [magic.scene(background) for background, _ in part]
            redrawn = magic.redraw(subject, scenes, on_event=bars)
            for (background, out), scene, picture in zip(part, scenes, redrawn, strict=True):
                try:
                    drop = magic.place(picture, scene, cfg.box, occluders=cfg.occluders, on_event=bars)
                except UserError as error:
                    if not found.many:
                        raise
                    refused.append(f"{background}: {error}")
                    continue
                masks = {} if cfg.occluders is None else {"occluders": cfg.occluders}
                inputs = read_files(subject=cfg.subject, background=str(background), **masks)
                if cfg.keep_intermediate:
                    drop.save_parts(out.with_name(f"{out.stem}_parts"))
                replace(drop, timings={**clock.seconds, **drop.timings}).save(out, inputs=inputs, **story)
                print(f"wrote {out} and {out.stem}.json", file=sys.stderr)
    if refused:
        raise UserError(f"{len(refused)} of the backgrounds were left out, the others are done: {refused[0]}")
    return Path(cfg.out)


def _pose(magic: "MagicInsert", cfg: InsertConfig, found: InsertInputs, on_event: OnEvent) -> str:
    """Words for a pose that fits the only background."""
    background, _ = found.pictures[0]
    box = magic.box(background, cfg.box)
    with stage(on_event, "suggest a pose"):
        return suggest(
            found.pose, open_picture(background), box, name=background.stem, words=cfg.style.prompt
        )


def run_remove(cfg: RemoveConfig, found: RemoveInputs | None = None) -> Path:
    """Writes the picture without the object to `cfg.out` (PNG) and a JSON beside it; returns the PNG's path.

    Args:
        found: what `resolve_remove` found; it is asked where another process composed the configuration.

    Raises:
        UserError: pictures that do not fit, or no remover; raised before a model is imported and with nothing written.
    """
    found = found or resolve_remove(cfg)
    from magic_insert.inserters.edit import RemoverSettings
    from magic_insert.magic import Models, remove_object

    settings = RemoverSettings(**{part.name: getattr(cfg, part.name) for part in fields(RemoverSettings)})
    with terminal_bars() as bars:
        models = Models(cfg.model, found.model, draws=False)
        drop = remove_object(models, cfg.image, cfg.mask, settings, cfg.seed, bars)
    drop.save(found.out, inputs=read_files(image=cfg.image, mask=cfg.mask), config=asdict(cfg))
    print(f"wrote {found.out} and {found.out.stem}.json", file=sys.stderr)
    return found.out


def read_files(**files: str) -> dict[str, dict[str, str]]:
    """What a sidecar says of the files that a picture was made from."""
    return {name: {"path": path, "sha256": sha256_file(path)} for name, path in files.items()}
