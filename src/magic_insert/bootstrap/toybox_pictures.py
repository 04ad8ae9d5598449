"""Pictures from the Toybox for three needs of a bootstrap: the pool, photographs to remember, the held-out test.

The pool is drawn in training styles only and from the training side of every split; that no held-out scene, identity,
combination or style enters it is asserted for each picture. Everything is a function of the settings and an index.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from magic_insert.bootstrap.files import MASK, WITH, WITHOUT, Item, place, write_index
from magic_insert.bootstrap.payload import Payload, chunks, my_share, read_payload, watched
from magic_insert.bootstrap.pictures import save
from magic_insert.core.errors import UserError
from magic_insert.core.rand import fold_in
from magic_insert.core.ranks import rank
from magic_insert.toybox.captions import caption, scene_phrase
from magic_insert.toybox.scenes import SceneSpec, sample_scene
from magic_insert.toybox.styles import HELD_OUT_STYLES, TRAIN_STYLES, draw
from magic_insert.toybox.subjects import SubjectSpec, is_held_out, sample_subject
from magic_insert.toybox.world import SUPERSAMPLE, shrink, trace_scenes

PHOTO = "photo"
SEEN: tuple[str, ...] = tuple(style for style in TRAIN_STYLES if style != PHOTO)
GROUPS = (PHOTO, "seen", "unseen")
TRACED_TOGETHER = 4  # scenes; bounds the memory of the ray tracer and of a killed run's loss


@dataclass(frozen=True)
class View:
    """One traced scene and the drawings made of it."""

    scene: SceneSpec
    subject: SubjectSpec
    items: tuple[Item, ...]


def require_not_held_out(styles: Sequence[str], where: str) -> None:
    """Whatever a pool is drawn by, a style of the test is not in it; `where` says who named it.

    Raises:
        UserError: a style is held out.
    """
    for style in styles:
        if style.lower() in HELD_OUT_STYLES:
            raise UserError(
                f"expected training styles in {where}, got {style}, which is held out for the test; choose another, "
                f"the Toybox has {', '.join(SEEN)}"
            )


def require_training_styles(styles: Sequence[str]) -> list[str]:
    """`styles`, or every drawn training style when there are none.

    Raises:
        UserError: a style is unknown, or held out for the test.
    """
    require_not_held_out(styles, "pool.styles")
    for style in styles:
        if style not in SEEN:
            raise UserError(f"expected pool.styles among {', '.join(SEEN)}, got {style!r}")
    return list(styles) or list(SEEN)


def require_trainable(view: View) -> None:
    """Asserts that nothing of `view` belongs to the test."""
    assert view.scene.seed % 2 == 0, "a held-out scene in the pool"
    assert view.subject.identity % 2 == 0, "a held-out identity in the pool"
    assert not is_held_out(view.subject.combination), "a held-out combination in the pool"
    assert not {item.style for item in view.items} & set(HELD_OUT_STYLES), "a held-out style in the pool"


def pool_views(settings: dict[str, Any]) -> list[View]:
    """The pool: one drawing per scene, styles taken in turns from a shuffled list."""
    seed, styles = settings["seed"], require_training_styles(settings["styles"])
    order = sorted(styles, key=lambda style: fold_in(seed, "bootstrap", "style", style))
    views = []
    for i in range(settings["num_samples"]):
        scene, subject = _placed(seed, "bootstrap", i, "train", settings["occlusion"])
        views.append(
            _view(
                "bootstrap",
                seed,
                i,
                scene,
                subject,
                [(order[i % len(order)], f"{order[i % len(order)]}-{i:04d}")],
            )
        )
        require_trainable(views[-1])
    return views


def photo_views(settings: dict[str, Any]) -> list[View]:
    """Counterfactual photographs of the training side: what the base models already know."""
    seed, views = settings["seed"], []
    for i in range(settings["num_samples"]):
        scene, subject = _placed(seed, "bootstrap photo", i, "train", 0.0)
        views.append(_view("bootstrap photo", seed, i, scene, subject, [(PHOTO, f"photo-{i:04d}")]))
        require_trainable(views[-1])
    return views


def held_out_views(settings: dict[str, Any]) -> list[View]:
    """The test: held-out scenes and subjects, each as a photograph, in a seen and in an unseen style."""
    seed, views = settings["seed"], []
    for i in range(settings["num_samples"]):
        scene, subject = _placed(seed, "bootstrap test", i, "heldout", 0.0)
        styles = (PHOTO, SEEN[i % len(SEEN)], HELD_OUT_STYLES[i % len(HELD_OUT_STYLES)])
        named = [(style, f"{i:04d}-{group}") for style, group in zip(styles, GROUPS, strict=True)]
        views.append(_view("bootstrap test", seed, i, scene, subject, named))
    return views


def _placed(seed: int, use: str, index: int, split: str, occlusion: float) -> tuple[SceneSpec, SubjectSpec]:
    scene = sample_scene(fold_in(seed, use, "scene", index), split, occlusion=occlusion)
    return scene, sample_subject(fold_in(seed, use, "subject", index), split)


def _view(
    use: str, seed: int, index: int, scene: SceneSpec, subject: SubjectSpec, drawn: list[tuple[str, str]]
) -> View:
    facts = {
        "scene": index,
        "kind": scene.kind,
        "template": subject.template,
        "caption": f"{caption(subject)}, {scene_phrase(scene)}",
        "texture": fold_in(seed, use, "texture", index),
    }
    items = [
        Item(
            name, style, {**facts, "complexity": fold_in(seed, use, "complexity", index, style) % 1000 / 999}
        )
        for style, name in drawn
    ]
    return View(scene, subject, tuple(items))


VIEWS = {"pool": pool_views, "photos": photo_views, "heldout": held_out_views}


def render(path: Path) -> None:
    """Stage: `settings` = use (pool, photos, heldout), seed, num_samples, size, and for the pool styles, occlusion."""
    payload = read_payload(path)
    views = VIEWS[payload.settings["use"]](payload.settings)
    if rank() == 0:
        write_index(payload.out, [item for view in views for item in view.items], truth=True)
    title = f"rendering {payload.settings['use']}"
    for group in watched(
        payload, my_share(chunks(views, TRACED_TOGETHER), partial(_is_drawn, payload)), title
    ):
        _render_group(payload, group)


def _is_drawn(payload: Payload, group: Sequence[View]) -> bool:
    names = [item.id for view in group for item in view.items]
    return all(place(payload.out, layer, name).is_file() for layer in (WITH, WITHOUT, MASK) for name in names)


def _render_group(payload: Payload, group: Sequence[View]) -> None:
    buffers = trace_scenes(
        [view.scene for view in group],
        [view.subject for view in group],
        SUPERSAMPLE * payload.settings["size"],
    )
    mask = shrink(buffers[0].coverage)
    for drawing in range(len(group[0].items)):
        items = [view.items[drawing] for view in group]
        for layer, buffer in zip((WITH, WITHOUT), buffers, strict=True):
            drawn = shrink(
                draw(
                    buffer,
                    [item.style for item in items],
                    [item.facts["complexity"] for item in items],
                    [item.facts["texture"] for item in items],
                )
            )
            for item, picture in zip(items, drawn, strict=True):
                save(payload.out, layer, item.id, picture)
        for item, covered in zip(items, mask, strict=True):
            save(payload.out, MASK, item.id, covered)
