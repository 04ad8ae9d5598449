"""Where the pictures of a bootstrap come from: the Toybox, a user's folder, or the model itself (paper, section 3).

`render`: the Toybox draws the pool, photographs that are not to be forgotten, and the held-out test. Everything is a
function of the settings and an index; that no held-out scene, identity, combination or style enters the pool is
asserted for each picture.
`take_in`: a user's stylised pictures with masks, or counterfactual photographs. Everything that cannot be used is found
and named at once. A picture is cut to the square that holds its subject and brought to the model's size.
`run_imagine`: the model draws prominent subjects with shadows in many styles, as in the paper. What the segmenter finds
is the subject; a picture in which it finds nothing stays without a mask and out of the pool.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from magic_insert.bootstrap.measure import GROUPS
from magic_insert.bootstrap.stages import (
    MASK,
    SKIPPED,
    WITH,
    WITHOUT,
    FolderSettings,
    ImagineSettings,
    Item,
    RenderSettings,
    groups_left,
    partner_of,
    picture_file,
    picture_files,
    read_payload,
    write_index,
)
from magic_insert.config.schema.shared import SegmenterConfig
from magic_insert.core.compositing import area_resize
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError, require_known
from magic_insert.core.events import tracked
from magic_insert.core.images import load_rgb, png_bytes, save_png
from magic_insert.core.jsonl import write_json
from magic_insert.core.masks import INSIDE, bounding_box
from magic_insert.core.rand import fold_in
from magic_insert.core.ranks import rank
from magic_insert.models.pipeline import load_pipeline
from magic_insert.models.sampling import sample
from magic_insert.models.segment import NothingFound, segment
from magic_insert.toybox.captions import caption, scene_phrase
from magic_insert.toybox.scenes import SceneSpec, sample_scene
from magic_insert.toybox.styles import HELD_OUT_STYLES, TRAIN_STYLES, draw, style_phrase
from magic_insert.toybox.subjects import SubjectSpec, is_held_out, sample_subject
from magic_insert.toybox.world import SUPERSAMPLE, shrink, trace_scenes

PHOTO = "photo"
SEEN: tuple[str, ...] = tuple(style for style in TRAIN_STYLES if style != PHOTO)
STREAMS = {"pool": "bootstrap", "photos": "bootstrap photo", "heldout": "bootstrap test"}  # of random numbers
TRACED_TOGETHER = 4  # scenes; bounds the memory of the ray tracer and of a killed run's loss
NO_STYLE = "unnamed"
LISTED = 20  # unusable pictures named in one message
DRAWN_TOGETHER = 4
ASK = "with a shadow"  # in the Toybox's vocabulary, as is all of its captions


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


def training_styles(styles: Sequence[str]) -> list[str]:
    """`styles`, or every drawn training style when there are none.

    Raises:
        UserError: a style is unknown, or held out for the test.
    """
    require_not_held_out(styles, "pool.styles")
    require_known("each of pool.styles", styles, SEEN)
    return list(styles) or list(SEEN)


def require_trainable(view: View) -> None:
    """Asserts that nothing of `view` belongs to the test."""
    assert view.scene.seed % 2 == 0, "a held-out scene in the pool"
    assert view.subject.identity % 2 == 0, "a held-out identity in the pool"
    assert not is_held_out(view.subject.combination), "a held-out combination in the pool"
    assert not {item.style for item in view.items} & set(HELD_OUT_STYLES), "a held-out style in the pool"


def views_of(settings: RenderSettings) -> list[View]:
    """Every scene and its drawings.

    The pool has one drawing a scene, styles taken in turns from a shuffled list; the photographs have one each; the
    test has three: a photograph, a drawing in a seen and one in an unseen style.
    """
    seed, stream = settings.seed, STREAMS[settings.use]
    order = sorted(
        training_styles(settings.styles), key=lambda style: fold_in(seed, "bootstrap", "style", style)
    )
    views = []
    for i in range(settings.num_samples):
        split = "heldout" if settings.use == "heldout" else "train"
        scene = sample_scene(fold_in(seed, stream, "scene", i), split, occlusion=settings.occlusion)
        subject = sample_subject(fold_in(seed, stream, "subject", i), split)
        if settings.use == "heldout":
            styles = (PHOTO, SEEN[i % len(SEEN)], HELD_OUT_STYLES[i % len(HELD_OUT_STYLES)])
            drawn = [(f"{i:04d}-{group}", style) for style, group in zip(styles, GROUPS, strict=True)]
        else:
            style = PHOTO if settings.use == "photos" else order[i % len(order)]
            drawn = [(f"{style}-{i:04d}", style)]
        facts = {
            "scene": i,
            "kind": scene.kind,
            "template": subject.template,
            "caption": f"{caption(subject)}, {scene_phrase(scene)}",
            "texture": fold_in(seed, stream, "texture", i),
        }
        complexity = {s: fold_in(seed, stream, "complexity", i, s) % 1000 / 999 for _, s in drawn}
        items = [Item(name, style, {**facts, "complexity": complexity[style]}) for name, style in drawn]
        views.append(View(scene, subject, tuple(items)))
        if settings.use != "heldout":
            require_trainable(views[-1])
    return views


def render(path: Path) -> None:
    """Stage: pictures with and without their subjects, and masks."""
    payload = read_payload(path, RenderSettings)
    views = views_of(payload.settings)
    if rank() == 0:
        write_index(payload.out, [item for view in views for item in view.items], truth=True)
    settings, out = payload.settings, payload.out

    def files(view: View) -> list[Path]:
        return [picture_file(out, layer, i.id) for layer in (WITH, WITHOUT, MASK) for i in view.items]

    groups = groups_left(views, TRACED_TOGETHER, files)
    for group in tracked(groups, f"rendering {settings.use}", shown=payload.progress):
        _render_group(out, group, settings.size)


def _render_group(out: Path, group: Sequence[View], size: int) -> None:
    buffers = trace_scenes(
        [view.scene for view in group], [view.subject for view in group], SUPERSAMPLE * size
    )
    mask = shrink(buffers[0].coverage)
    for items in zip(*(view.items for view in group), strict=True):
        for layer, buffer in zip((WITH, WITHOUT), buffers, strict=True):
            drawn = draw(
                buffer,
                [item.style for item in items],
                [item.facts["complexity"] for item in items],
                [item.facts["texture"] for item in items],
            )
            for item, picture in zip(items, shrink(drawn), strict=True):
                save_png(picture_file(out, layer, item.id), picture)
        for item, covered in zip(items, mask, strict=True):
            save_png(picture_file(out, MASK, item.id), covered)


# By layer: pictures, masks and, of photographs, the pictures without the subject.
Folders = Mapping[str, Path]


def take_in(path: Path) -> None:
    """Stage: check every picture, then keep `num_samples` of them (drawn by the seed; all when there are no more).

    Raises:
        UserError: no pictures, or unusable ones; names them.
    """
    payload = read_payload(path, FolderSettings)
    if rank() != 0:
        return  # reading files is not worth sharing
    settings, inputs = payload.settings, payload.inputs
    folders = {WITH: inputs.get("pictures", Path()), MASK: inputs.get("masks", Path())}
    if settings.pairs:
        folders = {layer: inputs["pairs"] / layer for layer in (WITH, MASK, WITHOUT)}
    seen = [inputs["heldout"] / layer for layer in (WITH, WITHOUT)] if "heldout" in inputs else []
    test = {sha256_file(f) for folder in seen for f in folder.glob("*.png")}
    usable, problems = _usable(folders, settings, test)
    if problems and (settings.on_error == "refuse" or not usable):
        more = f" and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise UserError(
            f"expected usable pictures, got {len(problems)} that are not: {'; '.join(problems[:LISTED])}{more}; "
            "mend them or set data.on_error=skip"
        )
    write_json(payload.out / SKIPPED, problems)
    order = sorted(usable, key=lambda file: fold_in(settings.seed, "bootstrap folder", file.name))
    items = []
    for file in sorted(order[: settings.num_samples]):
        item, layers = read_one(folders, file, settings)
        for layer, picture in layers.items():
            save_png(picture_file(payload.out, layer, item.id), picture)
        items.append(item)
    write_index(payload.out, items, truth=settings.pairs)


def _usable(folders: Folders, settings: FolderSettings, test: set[str]) -> tuple[list[Path], list[str]]:
    """The files that can be used, and what is wrong with each of the others; `test`: digests of the test's pictures."""
    files = picture_files(folders[WITH], folders[MASK])
    usable: dict[str, Path] = {}  # by content
    problems: list[str] = []
    names: dict[str, Path] = {}
    for file in files:
        inner, flaw, content = file.relative_to(folders[WITH]), None, ""
        if (first := names.setdefault(id_of(inner), inner)) != inner:
            flaw = f"the same name as {first} without suffix and special characters; rename it"
        else:
            try:
                picture = read_one(folders, file, settings)[1][WITH]
                content = hashlib.sha256(png_bytes(picture)).hexdigest()
            except UserError as error:
                flaw = str(error)
        if content in test:
            flaw = "a picture of the held-out test"
        elif content in usable:
            flaw = f"the same picture as {usable[content].relative_to(folders[WITH])}"
        if flaw is None:
            usable[content] = file
        else:
            problems.append(f"{inner}: {flaw}")
    return list(usable.values()), problems


def read_one(folders: Folders, file: Path, settings: FolderSettings) -> tuple[Item, dict[str, Tensor]]:
    """One picture and its layers, square and of the model's size: 3 H W, mask 1 H W, without its subject 3 H W.

    Raises:
        UserError: something about it cannot be used.
    """
    inner, size = file.relative_to(folders[WITH]), settings.size
    named = inner.parts[0] if len(inner.parts) > 1 else NO_STYLE
    style = PHOTO if settings.pairs and not settings.heldout else named
    if not settings.heldout:
        require_not_held_out([style], "the folder of its style")
    layers = {WITH: load_rgb(file)}
    layers[MASK] = _mask(layers[WITH], inner, folders[MASK], settings)
    if float(layers[MASK].max()) < INSIDE:
        raise UserError("its mask is empty")
    if WITHOUT in folders:
        layers[WITHOUT] = load_rgb(partner_of(folders[WITHOUT], inner, "picture without the subject"))
        if layers[WITHOUT].shape != layers[WITH].shape:
            raise UserError("the picture without the subject has another size")
    rows, columns = square_around(layers[MASK])
    cut = {layer: area_resize(picture[:, rows, columns], size, size) for layer, picture in layers.items()}
    name = id_of(inner) + (f"-{'photo' if style == PHOTO else 'seen'}" if settings.heldout else "")
    return Item(name, style, {"file": inner.as_posix()}), cut


def id_of(inner: Path) -> str:
    """What the picture at `inner` in its folder is called from here on: fit for a file name, without the suffix."""
    return re.sub(r"[^\w.-]+", "_", inner.with_suffix("").as_posix().replace("/", "__"))


def _mask(rgb: Tensor, inner: Path, masks: Path, settings: FolderSettings) -> Tensor:
    """The mask file of a picture, or what the segmenter finds."""
    try:
        file = partner_of(masks, inner, "mask")
    except UserError:
        if not settings.segment or settings.segmenter is None:
            raise
        return _segmented(rgb, settings.segmenter)
    mask = load_rgb(file)[:1]
    if mask.shape[-2:] != rgb.shape[-2:]:
        raise UserError(f"its mask has another size ({mask.shape[-1]} x {mask.shape[-2]})")
    return mask


def _segmented(rgb: Tensor, how: SegmenterConfig) -> Tensor:
    folder = Path(how.model_dir) if how.model_dir else None
    return segment(rgb, segmenter=how.name, model_folder=folder).alpha


def square_around(mask: Float[Tensor, "1 H W"]) -> tuple[slice, slice]:
    """Rows and columns of the largest square of the picture, centred on the subject as far as that is possible."""
    height, width = mask.shape[-2:]
    side, box = min(height, width), bounding_box(mask)
    top = min(max(round(box.y + box.h / 2 - side / 2), 0), height - side)
    left = min(max(round(box.centre_x - side / 2), 0), width - side)
    return slice(top, top + side), slice(left, left + side)


def imagined_items(settings: ImagineSettings) -> list[Item]:
    """Every picture to draw: its prompt, style and noise are a function of the settings and its number.

    The user's prompts are each drawn in the styles in turn; without prompts, captions of the Toybox.
    """
    seed, items = settings.seed, []
    styles = settings.styles if settings.prompts else training_styles(settings.styles)
    require_not_held_out(styles, "pool.styles")
    for i in range(settings.num_samples):
        name, style = f"imagined-{i:05d}", styles[i % len(styles)]
        if settings.prompts:
            prompt = settings.prompts[i // len(styles) % len(settings.prompts)].replace("{style}", style)
        else:
            subject = sample_subject(fold_in(seed, "imagine", "subject", i), "train")
            scene = sample_scene(fold_in(seed, "imagine", "scene", i), "train")
            require_trainable(View(scene, subject, (Item(name, style),)))
            prompt = f"{caption(subject)}, {scene_phrase(scene)}, {ASK}, {style_phrase(style)}"
        items.append(Item(name, style, {"prompt": prompt, "noise": fold_in(seed, "imagine", i)}))
    return items


def run_imagine(path: Path) -> None:
    """Stage: draw, then cut out."""
    payload = read_payload(path, ImagineSettings)
    items = imagined_items(payload.settings)
    if rank() == 0:
        write_index(payload.out, items, truth=False)

    def left(layer: str) -> list[list[Item]]:
        return groups_left(items, DRAWN_TOGETHER, lambda item: [picture_file(payload.out, layer, item.id)])

    mine, undrawn, settings = left(MASK), left(WITH), payload.settings
    if undrawn:
        pipe = load_pipeline(payload.model)
        for group in tracked(undrawn, "imagining", shown=payload.progress):
            prompts, noises = ([item.facts[name] for item in group] for name in ("prompt", "noise"))
            drawn = sample(pipe, prompts, noises, steps=settings.steps, guidance=settings.guidance)
            for item, picture in zip(group, drawn, strict=True):
                save_png(picture_file(payload.out, WITH, item.id), picture)
        del pipe  # makes room for the segmenter
    for group in tracked(mine, "finding subjects", shown=payload.progress):
        for item in group:
            picture = load_rgb(picture_file(payload.out, WITH, item.id))
            try:
                alpha = _segmented(picture, payload.settings.segmenter)
            except NothingFound:
                continue
            if float(alpha.max()) >= INSIDE:
                save_png(picture_file(payload.out, MASK, item.id), alpha)
