"""What comes out of the heart: a redrawn subject, a finished picture with its layers; and which part is worked on.

Shape letters: h, w a redrawn picture's rows and columns, H, W a scene's. Values are float32 in [0, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from magic_insert.core.compositing import Region, region_around
from magic_insert.core.errors import UserError
from magic_insert.core.images import as_float, png_bytes, read_picture, save_png, to_pil
from magic_insert.core.jsonl import require_writable, write_bytes, write_json
from magic_insert.core.layered_files import FileLayer, open_raster, photoshop
from magic_insert.core.masks import bounding_box
from magic_insert.core.records import Box, Scene, Subject
from magic_insert.inserters.base import Inserted

LONGEST = 2048  # a model is shown no more of a picture: larger ones are reduced by a whole factor first
SHOWN = 1024  # pixels of a picture's longer side in a notebook
WORKED_ON = 120  # bytes for each pixel of a window, at the peak


@dataclass(frozen=True)
class Redrawn:
    """A subject in a scene's style; `pair_id` names the draw, `record` says what it was made of.

    `rgb`: on plain ground; with `alpha`, the matte of a method that knows it, the subject's own colours. `outline`: the
    matte of the subject's own picture. `cuts`: without its ground, by segmenter, where that was made before.
    """

    rgb: Float[Tensor, "3 h w"]
    subject: str
    pair_id: str
    record: Mapping[str, Any]
    timings: Mapping[str, float]
    alpha: Float[Tensor, "1 h w"] | None = None
    outline: Float[Tensor, "1 r c"] | None = None
    cuts: dict[str, Subject] = field(default_factory=dict, repr=False, compare=False)

    @property
    def image(self) -> Image.Image:
        """The picture."""
        return to_pil(self.rgb, self.alpha)

    def _repr_png_(self) -> bytes:
        return png_bytes(self.rgb, self.alpha)


@dataclass(frozen=True)
class Layer:
    """A part of a finished picture, and where its top left corner lies there."""

    pixels: Float[Tensor, "C h w"]
    x: int
    y: int


@dataclass(frozen=True)
class Drop:
    """A finished picture and what it was made of.

    `layers`: of an insertion `shade` (a factor), `light` (an addition) and `subject` (RGBA), to be applied in this
    order; of `composite=paper` only `subject`. `changed`: 1 where the scene's pixels are no longer its own, below the
    subject or around it. `parts`: the pictures between. `below`: the scene as it was.
    """

    scene: Scene
    layers: Mapping[str, Layer]
    changed: Layer
    record: Mapping[str, Any]
    timings: Mapping[str, float]
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    redrawn: Redrawn | None = None
    alpha: Float[Tensor, "1 H W"] | None = None
    below: Scene | None = None

    @property
    def image(self) -> Image.Image:
        """The picture."""
        return to_pil(self.scene.pixels, self.alpha)

    @property
    def window(self) -> Box:
        """The part of the picture that was worked on; beyond it nothing is changed."""
        height, width = self.changed.pixels.shape[-2:]
        return Box(self.changed.x, self.changed.y, width, height)

    def plane(self, layer: Layer) -> Float[Tensor, "1 H W"]:
        """The last channel of a layer at the picture's size, 0 around it: where the subject, or a change, is."""
        plane = torch.zeros(1, *self.scene.size)
        height, width = layer.pixels.shape[-2:]
        plane[:, layer.y : layer.y + height, layer.x : layer.x + width] = layer.pixels[-1:]
        return plane

    def save(self, out: str | Path, **more: Any) -> Path:
        """Writes the picture to `out`: .png with what it was made of, and `more`, as JSON beside it; or its layers.

        Layered are .ora (OpenRaster) and .psd: background, shade (multiply), light (linear dodge), subject. Files
        appear whole, or none of them. Returns `out`.

        Raises:
            UserError: another suffix, a place that cannot be written, or a picture without layers.
        """
        layered = {".ora": open_raster, ".psd": photoshop}.get(Path(out).suffix.lower())
        if layered is not None:
            place = require_writable(out, suffix=Path(out).suffix.lower())
            write_bytes(place, layered(self.file_layers(), self.image))
            return place
        place = require_writable(out, suffix=".png")
        content, beside = png_bytes(self.scene.pixels, self.alpha), place.with_suffix(".json")
        write_json(beside, {**self.record, "seconds": dict(self.timings), **more})
        try:
            write_bytes(place, content)
        except UserError:
            beside.unlink(missing_ok=True)
            raise
        return place

    def file_layers(self) -> list[FileLayer]:
        """Background, shade, light and subject for a layered file, the lowest first.

        Raises:
            UserError: nothing was inserted, or all was redrawn.
        """
        if self.below is None or "shade" not in self.layers:
            raise UserError(
                "expected an insertion of composite=effect_layer, whose layers are apart, got another picture; "
                "save as .png"
            )
        blends = {"shade": "multiply", "light": "add", "subject": "over"}
        made = [FileLayer("background", "over", to_pil(self.below.pixels))]
        for name, blend in blends.items():
            layer = self.layers[name]
            made.append(FileLayer(name, blend, to_pil(layer.pixels), layer.x, layer.y))
        return made

    def save_parts(self, folder: Path) -> None:
        """Writes the pictures between, at the size of the whole where they belong into it."""
        for name, picture in self.parts.items():
            if name == "pasted":
                save_png(folder / "pasted.png", self.scene.patched(self.window, picture).pixels)
            elif name == "effect_region":
                save_png(folder / f"{name}.png", self.plane(Layer(picture, self.changed.x, self.changed.y)))
            else:
                save_png(folder / f"{name}.png", picture)

    def _repr_png_(self) -> bytes:
        image = self.image
        image.thumbnail((SHOWN, SHOWN))
        return png_bytes(read_picture(image)[0])


def layers_of(made: Inserted, box: Box, window: Box) -> dict[str, Layer]:
    """Shade, light and the subject, which stands in `box`, of what was made in `window`."""
    layers: dict[str, Layer] = {}
    if made.layer is not None:
        layers["shade"] = Layer(made.layer.shade, window.x + made.at.x, window.y + made.at.y)
        layers["light"] = Layer(made.layer.light, window.x + made.at.x, window.y + made.at.y)
    x, y = box.x - window.x, box.y - window.y
    alpha = made.final.mask[:, y : y + box.h, x : x + box.w]
    layers["subject"] = Layer(torch.cat([made.subject.rgb, alpha]), box.x, box.y)
    return layers


def parts_of(made: Inserted, cut: Subject, redrawn: Redrawn | None) -> dict[str, Tensor]:
    """The pictures between, by name."""
    parts = {}
    if redrawn is not None:
        parts["stylised"] = redrawn.rgb if redrawn.alpha is None else torch.cat([redrawn.rgb, redrawn.alpha])
    parts["cut"] = torch.cat([cut.rgb, cut.alpha])
    parts |= {"pasted": made.pasted.rgb, "effect_region": made.effect}
    if made.drawn.output is not None and made.drawn.reference is not None:
        parts |= {"inserter_output": made.drawn.output, "inserter_reference": made.drawn.reference}
    return parts


def result_of(
    made: Inserted, box: Box, window: Box, changed: Float[Tensor, "1 h w"], scene: Scene
) -> dict[str, Any]:
    """What the sidecar says of the result, in the scene's own pixels; `made` counts from the window's corner."""
    x, y, side = made.final.provenance["window"]
    return {
        **made.final.provenance,
        "box": [box.x, box.y, box.w, box.h],
        "window": [x + window.x, y + window.y, side],
        "changed_share": float(changed.sum()) / (scene.size[0] * scene.size[1]),
    }


def window_of(box: Box, scene: Scene, *, whole: bool) -> Box:
    """The part of the scene that is worked on: what the inserter is shown of it, or the whole."""
    if whole:
        return Box(0, 0, scene.size[1], scene.size[0])
    return clipped(region_around(box, *scene.size), scene)


def clipped(region: Region, scene: Scene) -> Box:
    """The part of a region that lies on the scene."""
    return Box(region.x, region.y, region.side, region.side).within(*scene.size)


def shown(scene: Scene) -> Float[Tensor, "3 _ _"]:
    """The scene as a style picture; a large one reduced by a whole factor first."""
    if scene.pixels.is_floating_point() or max(scene.size) <= LONGEST:
        return scene.rgb
    return as_float(read_picture(to_pil(scene.pixels), longest=LONGEST)[0])


def mask_box(mask: Scene) -> Box:
    """The smallest box around what is white in a mask's picture.

    Raises:
        UserError: nothing is.
    """
    bright = mask.pixels.sum(dim=0) >= (1.5 if mask.pixels.is_floating_point() else 1.5 * 255)
    return bounding_box(bright[None].float())


def require_memory(window: Box) -> None:
    """That a window can be worked on in the memory that is free.

    Raises:
        UserError: it cannot; says how much is missing.
    """
    free, need = free_memory(), WORKED_ON * window.w * window.h
    if free is not None and need > free:
        raise UserError(
            f"expected {need / 1e9:.1f} GB of free memory for a window of {window.w} x {window.h} pixels, got "
            f"{free / 1e9:.1f} GB; set a smaller box, or reduce the picture"
        )


def free_memory() -> int | None:
    """Bytes that this process may still take, by the kernel and by its control group; None where nobody says."""
    found = []
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if meminfo.is_file():
        found += [1024 * int(line.split()[1]) for line in meminfo.open() if line.startswith("MemAvailable:")]
    limit, used = group / "memory.max", group / "memory.current"
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
        found.append(int(text) - int(used.read_text()))
    return min(found, default=None)
