"""Imagine: the model itself draws the pool, as in the paper: prominent subjects with shadows in many styles.

Prompts are the user's, each drawn in the styles in turn, or the Toybox's captions for a model that knows its words.
What the segmenter finds is the subject; a picture in which it finds nothing stays without a mask and out of the pool.
Settings: num_samples, seed, size, styles, prompts, steps, guidance, segmenter. Inputs: model, unet. Output: as a pool.
"""

from pathlib import Path
from typing import Any

from magic_insert.bootstrap.files import MASK, WITH, Item, place, write_index
from magic_insert.bootstrap.harvest import open_model
from magic_insert.bootstrap.payload import Payload, chunks, my_share, read_payload, watched
from magic_insert.bootstrap.pictures import load, save
from magic_insert.bootstrap.toybox_pictures import (
    View,
    require_not_held_out,
    require_trainable,
    require_training_styles,
)
from magic_insert.core.masks import INSIDE
from magic_insert.core.rand import fold_in
from magic_insert.core.ranks import rank
from magic_insert.models.sampling import sample
from magic_insert.models.segment import NothingFound, segment
from magic_insert.toybox.captions import caption, scene_phrase, style_phrase
from magic_insert.toybox.scenes import sample_scene
from magic_insert.toybox.subjects import sample_subject

DRAWN_TOGETHER = 4
ASK = "with a shadow"  # in the Toybox's vocabulary, as is all of its captions


def imagined_items(settings: dict[str, Any]) -> list[Item]:
    """Every picture to draw: its prompt, style and noise are a function of the settings and its number."""
    seed, items = settings["seed"], []
    styles = settings["styles"] if settings["prompts"] else require_training_styles(settings["styles"])
    require_not_held_out(styles, "pool.styles")
    for i in range(settings["num_samples"]):
        style = styles[i % len(styles)]
        if settings["prompts"]:
            prompt = settings["prompts"][i // len(styles) % len(settings["prompts"])]
            prompt = prompt.replace("{style}", style)
        else:
            subject = sample_subject(fold_in(seed, "imagine", "subject", i), "train")
            scene = sample_scene(fold_in(seed, "imagine", "scene", i), "train")
            require_trainable(View(scene, subject, (Item(f"imagined-{i:05d}", style),)))
            prompt = f"{caption(subject)}, {scene_phrase(scene)}, {ASK}, {style_phrase(style)}"
        items.append(
            Item(f"imagined-{i:05d}", style, {"prompt": prompt, "noise": fold_in(seed, "imagine", i)})
        )
    return items


def run_imagine(path: Path) -> None:
    """Stage: draw, then cut out."""
    payload = read_payload(path)
    items = imagined_items(payload.settings)
    if rank() == 0:
        write_index(payload.out, items, truth=False)
    groups = chunks(items, DRAWN_TOGETHER)
    mine = my_share(groups, lambda group: False)
    todo = my_share(groups, lambda group: all(place(payload.out, WITH, item.id).is_file() for item in group))
    if todo:
        _draw(payload, todo)
    for group in watched(payload, mine, "finding subjects"):
        for item in group:
            _cut(payload, item)


def _draw(payload: Payload, groups: list[list[Item]]) -> None:
    settings, pipe = payload.settings, open_model(payload.model)
    for group in watched(payload, groups, "imagining"):
        drawn = sample(
            pipe,
            [item.facts["prompt"] for item in group],
            [item.facts["noise"] for item in group],
            steps=settings["steps"],
            guidance=settings["guidance"],
            size=settings["size"],
        )
        for item, picture in zip(group, drawn, strict=True):
            save(payload.out, WITH, item.id, picture)


def _cut(payload: Payload, item: Item) -> None:
    """The subject's mask, if the segmenter finds one."""
    how = payload.settings["segmenter"]
    picture = load(payload.out, WITH, [item.id])[0]
    folder = Path(how["model_dir"]) if how["model_dir"] else None
    try:
        alpha = segment(picture, segmenter=how["name"], model_folder=folder).alpha
    except NothingFound:
        return
    if float(alpha.max()) >= INSIDE:
        save(payload.out, MASK, item.id, alpha)
