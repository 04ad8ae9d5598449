"""A user's own pictures as a pool: stylised pictures with masks, or counterfactual photographs (with, without, mask).

Everything that cannot be used is found and named at once: unreadable files, duplicates, pictures without a mask,
pictures of the held-out test or in one of its styles. A picture is cut to the square that holds its subject and brought
to the model's size. Settings: segment, segmenter, on_error, size, num_samples, seed; the photographs' `use` is "pairs".
Inputs: pictures and masks, or pairs; heldout.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from magic_insert.bootstrap.files import MASK, SKIPPED, WITH, WITHOUT, Item, write_index
from magic_insert.bootstrap.payload import Payload, read_payload
from magic_insert.bootstrap.pictures import save
from magic_insert.bootstrap.toybox_pictures import require_not_held_out
from magic_insert.core.compositing import area_resize
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, png_bytes
from magic_insert.core.jsonl import write_json
from magic_insert.core.masks import INSIDE, bounding_box
from magic_insert.core.rand import fold_in
from magic_insert.core.ranks import rank
from magic_insert.models.segment import segment

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
NO_STYLE = "unnamed"
PHOTO = "photo"
LISTED = 20  # unusable pictures named in one message


@dataclass(frozen=True)
class Found:
    """One usable picture: rgb 3 H W, mask 1 H W, and the picture without its subject where there is one."""

    item: Item
    rgb: Tensor
    mask: Tensor
    without: Tensor | None


def take_in(path: Path) -> None:
    """Stage: check every picture, then keep `num_samples` of them (drawn by the seed; all when there are no more)."""
    payload = read_payload(path)
    if rank() != 0:
        return  # reading files is not worth sharing
    pairs = payload.settings.get("use") == "pairs"
    folder = payload.inputs["pairs"] / WITH if pairs else payload.inputs["pictures"]
    masks = payload.inputs["pairs"] / MASK if pairs else payload.inputs["masks"]
    without = payload.inputs["pairs"] / WITHOUT if pairs else None
    files = picture_files(folder, masks)
    if not files:
        raise UserError(f"expected pictures ({', '.join(SUFFIXES)}) in {folder}, got none")
    usable: list[Path] = []
    problems: list[str] = []
    heldout = payload.inputs["heldout"]
    test = {sha256_file(file) for layer in (WITH, WITHOUT) for file in (heldout / layer).glob("*.png")}
    seen: dict[str, Path] = {}
    named: dict[str, Path] = {}
    for file in files:
        inner = file.relative_to(folder)
        if (first := named.setdefault(id_of(inner), inner)) != inner:
            problems.append(
                f"{inner}: the same name as {first} without suffix and special characters; rename it"
            )
            continue
        try:
            content = hashlib.sha256(
                png_bytes(read_one(payload, folder, file, masks, without).rgb)
            ).hexdigest()
        except UserError as error:
            problems.append(f"{inner}: {error}")
            continue
        if content in test:
            problems.append(f"{inner}: a picture of the held-out test")
            continue
        if content in seen:
            problems.append(f"{inner}: the same picture as {seen[content].relative_to(folder)}")
            continue
        seen[content] = file
        usable.append(file)
    _refuse(problems, payload.settings["on_error"], usable)
    write_json(payload.out / SKIPPED, problems)
    order = sorted(usable, key=lambda file: fold_in(payload.settings["seed"], "bootstrap folder", file.name))
    items = []
    for file in sorted(order[: payload.settings["num_samples"]]):
        one = read_one(payload, folder, file, masks, without)
        save(payload.out, WITH, one.item.id, one.rgb)
        save(payload.out, MASK, one.item.id, one.mask)
        if one.without is not None:
            save(payload.out, WITHOUT, one.item.id, one.without)
        items.append(one.item)
    write_index(payload.out, items, truth=without is not None)


def picture_files(folder: Path, masks: Path) -> list[Path]:
    """Pictures of `folder` and of its folders of styles, masks left out, sorted."""
    found = [*folder.glob("*"), *folder.glob("*/*")]
    apart = masks.absolute()  # either may be given as relative
    inside = [
        p for p in found if p.suffix.lower() in SUFFIXES and p.is_file() and apart not in p.absolute().parents
    ]
    return sorted(inside)


def read_one(payload: Payload, folder: Path, file: Path, masks: Path, without: Path | None) -> Found:
    """One picture with its mask, both square and of the model's size.

    Raises:
        UserError: something about it cannot be used.
    """
    settings, size = payload.settings, payload.settings["size"]
    inner = file.relative_to(folder)
    style = PHOTO if without is not None else inner.parts[0] if len(inner.parts) > 1 else NO_STYLE
    require_not_held_out([style], "the folder of its style")
    rgb = load_rgb(file)
    mask = _mask(rgb, inner, masks, settings)
    if float(mask.max()) < INSIDE:
        raise UserError("its mask is empty")
    window = square_around(mask)
    layers = {"rgb": rgb, "mask": mask}
    if without is not None:
        layers["without"] = load_rgb(_partner(without, inner, "picture without the subject"))
        if layers["without"].shape != rgb.shape:
            raise UserError("the picture without the subject has another size")
    cut = {name: area_resize(layer[:, window[0], window[1]], size, size) for name, layer in layers.items()}
    return Found(
        Item(id_of(inner), style, {"file": inner.as_posix()}), cut["rgb"], cut["mask"], cut.get("without")
    )


def id_of(inner: Path) -> str:
    """What the picture at `inner` in its folder is called from here on: fit for a file name, without the suffix."""
    return re.sub(r"[^\w.-]+", "_", inner.with_suffix("").as_posix().replace("/", "__"))


def _mask(rgb: Tensor, inner: Path, masks: Path, settings: dict[str, object]) -> Tensor:
    """The mask file of a picture, or what the segmenter finds."""
    try:
        file = _partner(masks, inner, "mask")
    except UserError:
        if not settings.get("segment"):
            raise
        how = settings["segmenter"]
        assert isinstance(how, dict)
        folder = Path(how["model_dir"]) if how["model_dir"] else None
        return segment(rgb, segmenter=how["name"], model_folder=folder).alpha
    mask = load_rgb(file)[:1]
    if mask.shape[-2:] != rgb.shape[-2:]:
        raise UserError(f"its mask has another size ({mask.shape[-1]} x {mask.shape[-2]})")
    return mask


def _partner(folder: Path, inner: Path, what: str) -> Path:
    """The file in `folder` that belongs to the picture `inner`: the same name, any suffix."""
    for suffix in SUFFIXES:
        if (file := (folder / inner).with_suffix(suffix)).is_file():
            return file
    raise UserError(f"no {what} in {folder}; add {inner.with_suffix('.png')} there")


def square_around(mask: Float[Tensor, "1 H W"]) -> tuple[slice, slice]:
    """Rows and columns of the largest square of the picture, centred on the subject as far as that is possible."""
    height, width = mask.shape[-2:]
    side, box = min(height, width), bounding_box(mask)
    top = min(max(round(box.y + box.h / 2 - side / 2), 0), height - side)
    left = min(max(round(box.centre_x - side / 2), 0), width - side)
    return slice(top, top + side), slice(left, left + side)


def _refuse(problems: list[str], on_error: str, usable: list[Path]) -> None:
    """Names the unusable pictures.

    Raises:
        UserError: there are some and `on_error` is "refuse", or nothing is left.
    """
    if problems and (on_error == "refuse" or not usable):
        more = f" and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise UserError(
            f"expected usable pictures, got {len(problems)} that are not: {'; '.join(problems[:LISTED])}{more}; "
            "mend them or set data.on_error=skip"
        )
