"""What stands on the page's shelves: Toybox pictures, subjects that were learned before, pictures that were dropped.

Toybox pictures are held-out ones of ToyPlop and ship. A picture keeps its file and its name: both decide the draw, so
the command line makes the same bytes of them. Of a finished Toybox picture the truth is known, for this subject, in
this scene, at this place.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from magic_insert.core.compositing import FAINT, area_resize, paste, size_within
from magic_insert.core.errors import UserError
from magic_insert.core.fidelity import effect_of, psnr_pooled, region_sums
from magic_insert.core.images import read_picture, to_pil
from magic_insert.core.jsonl import check_name, read_json, write_bytes
from magic_insert.core.masks import INSIDE, area, bounding_box
from magic_insert.core.picture_files import decode_picture, require_size
from magic_insert.core.placement import default_box
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Box, Scene, Subject
from magic_insert.data.benchmarks import IN_BOX
from magic_insert.data.subject_files import CARD_FILE
from magic_insert.drops import Drop
from magic_insert.paths import shelf_dir, subjects_dir
from magic_insert.stylizers.tone import shrunk
from magic_insert.toybox.captions import caption, scene_phrase
from magic_insert.toybox.scenes import SceneSpec, ground_point, height_at, project, scene_world
from magic_insert.toybox.styles import draw, style_phrase
from magic_insert.toybox.subjects import SubjectSpec, subject_shapes
from magic_insert.toybox.tracer import trace
from magic_insert.toybox.world import COMPLEXITY, SUPERSAMPLE, shrink, toyplop_scenes, toyplop_subjects

TOY_SUBJECTS = (
    "bunny-01",
    "robot-01",
    "penguin-01",
    "teapot-01",
    "snowman-01",
    "car-01",
    "owl-01",
    "cactus-01",
)
TOY_SCENES = (
    "forest-12", "cave-04", "snow-field-02", "room-01", "garden-13", "desert-08", "moon-05", "stage-06",
)  # fmt: skip
LONGEST_VIEW = 1600  # pixels of a picture's longer side in the browser; results have all of theirs
DRAFT = 512  # pixels of a picture's longer side; of a larger scene one of that size comes first
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
HORIZON = 0.4  # of the height, where nothing shows it
HORIZONS = (0.2, 0.65)  # where one is looked for
CLEAR_EDGE = 0.08  # step of colour between the rows above and below from which one is seen


@dataclass
class Item:
    """A picture on a shelf. What the worker finds out (`size`, `box`, `view`) is None at first.

    `origin`: "toybox", "learned", "own", or "result" (made of no own picture). `size`: columns and rows of the scene,
    or of the cut-out subject. `box`: a scene's first suggestion. `horizon`: the row, as a share, towards which subjects
    shrink. `view`: what the browser shows, with its media type. `text`: what a subject is, in words. `trouble`: why it
    cannot be used. `hidden`: no longer on the shelf, and there for the results that are made of it. `coarse`: view and
    size are of a first, coarse cut; `rough`: the size of that one, also later.
    """

    id: str
    kind: str
    path: Path
    origin: str
    title: str
    size: tuple[int, int] | None = None
    box: Box | None = None
    horizon: float = HORIZON
    view: tuple[bytes, str] | None = None
    learned: bool = False
    text: str = ""
    trouble: str = ""
    hidden: bool = False
    coarse: bool = False
    rough: tuple[int, int] | None = None

    def told(self) -> dict[str, Any]:
        """As JSON for the browser."""
        names = (
            "id", "kind", "origin", "title", "size", "horizon", "learned", "trouble", "hidden", "coarse", "rough",
        )  # fmt: skip
        told = {name: getattr(self, name) for name in names}
        return {**told, "file": self.path.name, "box": self.box and astuple(self.box)}

    def look(self, scene: Scene) -> None:
        """Fills in what is seen of a scene."""
        self.box = default_box(scene)
        if self.origin != "toybox":
            self.horizon = horizon_of(scene.rgb)
        self.view = view_of(to_pil(scene.pixels))
        self.size = (scene.size[1], scene.size[0])

    def cut(self, subject: Subject, *, coarse: bool = False) -> None:
        """Fills in what is seen of a subject: the cut-out, as tight as it will stand in its box."""
        at = bounding_box(subject.alpha, IN_BOX)
        view = view_of(subject.image.crop((at.x, at.y, at.right, at.bottom)))
        # Browsers are told meanwhile, ask for what they are told, and keep a view for an hour.
        self.coarse |= coarse
        self.view, self.size = view, (at.w, at.h)
        self.coarse = coarse
        if coarse:
            self.rough = self.size


def view_of(image: Image.Image) -> tuple[bytes, str]:
    """A picture for the browser and its media type: what takes least time, and up to DRAFT pixels without loss."""
    image = image.copy()
    image.thumbnail((LONGEST_VIEW, LONGEST_VIEW))
    buffer = io.BytesIO()
    if image.mode == "RGB" and max(image.size) > DRAFT:
        image.save(buffer, "JPEG", quality=92, subsampling=0)
        return buffer.getvalue(), "image/jpeg"
    image.save(buffer, "WEBP", lossless=True, method=0, quality=0)
    return buffer.getvalue(), "image/webp"


def reduced(scene: Scene, longest: int) -> Scene:
    """The scene with sides of at most `longest` pixels."""
    image = to_pil(scene.pixels)
    image.thumbnail((longest, longest))
    return Scene(read_picture(image)[0], scene.id)


def smaller(subject: Subject, longest: int) -> Subject:
    """The cut-out with sides of at most `longest` pixels."""
    at = bounding_box(subject.alpha, FAINT)
    size = size_within((at.h, at.w), longest)
    rgb, alpha = shrunk(subject.rgb[at.pixels], subject.alpha[at.pixels], *size)
    return Subject(rgb, alpha, subject.id)


def scaled(box: Box, scene: Scene, small: Scene) -> Box:
    """The place in a `small` scene that `box` is in the whole one."""
    rows, columns = (a / b for a, b in zip(small.size, scene.size, strict=True))
    x, y = int(box.x * columns), int(box.y * rows)
    return Box(x, y, max(1, int(box.w * columns)), max(1, int(box.h * rows)))


def horizon_of(rgb: Float[Tensor, "3 H W"]) -> float:
    """Where the ground seems to begin, as a share of the height: the row where the mean colour changes most."""
    rows = area_resize(rgb, min(64, rgb.shape[-2]), 1)[:, :, 0]
    low, high = (round(share * rows.shape[1]) for share in HORIZONS)
    steps = [
        float((rows[:, y : y + 6].mean(dim=1) - rows[:, max(0, y - 6) : y].mean(dim=1)).norm())
        for y in range(low, high)
    ]
    best = max(range(len(steps)), key=steps.__getitem__)
    return (low + best) / rows.shape[1] if steps[best] > CLEAR_EDGE else HORIZON


@dataclass(frozen=True)
class Toy:
    """A picture of the Toybox: what it shows, and the style that it is drawn in."""

    item: Item
    spec: SubjectSpec | SceneSpec
    style: str


def toy_items() -> dict[str, Toy]:
    """The Toybox's pictures by name."""
    subjects, scenes = (
        dict(toyplop_subjects()),
        {name: (spec, style) for name, spec, style in toyplop_scenes()},
    )
    made = {}
    for name in TOY_SCENES:
        spec, style = scenes[name]
        words = f"{scene_phrase(spec)}, {style_phrase(style)}"
        item = Item(name, "scene", shelf_dir() / f"{name}.png", "toybox", words)
        far = (0.0, spec.camera.position[1], -1000.0)
        item.horizon = min(0.9, max(0.0, project(spec.camera, far)[1]))
        made[name] = Toy(item, spec, style)
    for name in TOY_SUBJECTS:
        words = caption(subjects[name])
        learned = subjects_dir() / name / f"{name}.png"
        path = learned if learned.is_file() else shelf_dir() / learned.name
        item = Item(name, "subject", path, "toybox", words, text=words)
        made[name] = Toy(item, subjects[name], "photo")
    return made


def toy_seed(scene: str) -> int:
    """The seed that a scene of ToyPlop is drawn with."""
    return fold_in(0, "toyplop", scene)


def learned_items(subjects: Path) -> Iterator[Item]:
    """Subjects that were learned from one picture, by the picture in the folder of their personalisation."""
    for card in sorted(subjects.glob(f"subject/*/{CARD_FILE}")):
        names = [name for name, *_ in read_json(card).get("subjects", [])]
        if len(names) == 1 and (picture := card.with_name(f"{names[0]}.png")).is_file():
            yield Item(f"learned-{card.parent.name}", "subject", picture, "learned", names[0], learned=True)


def keep_upload(content: bytes, name: str, kind: str, id: str, folder: Path) -> Item:
    """A dropped picture as an item with its file in `folder`, byte for byte as it came and under its own name.

    Raises:
        UserError: not a sound PNG, JPEG or WEBP file within the limits, or a name that no file can have.
    """
    name = re.split(r"[/\\]", name)[-1]
    if name in ("", ".", "..") or CONTROL.search(name):
        raise UserError(f"expected the name of a picture file, got {name!r}; rename it")
    check_name(name)
    image = decode_picture(content, name)
    require_size(name, image.size)
    path = folder / id / name
    write_bytes(path, content)
    return Item(id, kind, path, "own", path.stem)


SEEN = 0.002  # share of the picture that the true subject covers at least; else it stands behind a wall
ABOVE_GROUND = 0.02  # feet this near below the horizon stand nowhere


@dataclass(frozen=True)
class Verdict:
    """The numbers in a line, and the true picture for the browser."""

    line: str
    truth: tuple[bytes, str]


def judge(drop: Drop, box: Box, scene: Toy, subject: Toy, cut: Subject) -> Verdict | None:
    """How close the picture is to the truth, beside the subject's own picture pasted; None where it can stand nowhere.

    The subject is as tall as its box, and its feet are where the box ends.
    """
    place, person = scene.spec, subject.spec
    assert isinstance(place, SceneSpec)
    assert isinstance(person, SubjectSpec)
    assert drop.below is not None
    height, width = drop.below.size
    foot = box.bottom / height
    if foot <= scene.item.horizon + ABOVE_GROUND:
        return None
    x, z = ground_point(place.camera, box.centre_x / width, foot)
    tall = height_at(place.camera, x, z, box.y / height)
    worlds = [scene_world(place, subject_shapes(person, x=x, z=z, height=tall)), scene_world(place)]
    g = trace(worlds, SUPERSAMPLE * height)
    truth, empty = shrink(draw(g, [scene.style] * 2, [COMPLEXITY] * 2, [toy_seed(scene.item.id)] * 2))
    mask = shrink(g.coverage)[0]
    if area(mask) < SEEN:
        return None
    body = torch.zeros_like(mask)
    body[bounding_box(mask, INSIDE).pixels] = 1.0
    regions = {"shadow": effect_of(truth[None], empty[None], mask[None])[0], "subject": body}
    ours, pasted = drop.scene.rgb, paste(drop.below, cut, box).rgb
    found = [
        f"{name} {_psnr(ours, truth, where)}, pasted {_psnr(pasted, truth, where)}"
        for name, where in regions.items()
    ]
    return Verdict(f"Against the truth (PSNR): {'; '.join(found)}", view_of(to_pil(truth)))


def _psnr(image: Float[Tensor, "3 H W"], truth: Float[Tensor, "3 H W"], where: Float[Tensor, "1 H W"]) -> str:
    found = psnr_pooled(region_sums(image[None], truth[None], where[None]))
    return "none" if found is None else f"{found:.1f} dB"
