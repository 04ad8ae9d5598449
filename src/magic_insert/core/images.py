"""The one door for pictures: files to tensors and back.

Shape letters: H rows, W columns. Every image is float32 in [0, 1]: RGB is 3HW, alpha and masks are 1HW. What files are
refused is decided in `core.picture_files`. `Pixels` are floats, or the 8-bit levels they came in.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import write_bytes
from magic_insert.core.picture_files import DEEP_MODES, decode_picture, open_picture

Pixels = Float[Tensor, "C H W"] | UInt8[Tensor, "C H W"]
Picture = str | Path | Image.Image | np.ndarray | Tensor
DUST = 0.06  # what is closer than this to black or white in a mask is meant to be black or white


def load_rgb(path: str | Path) -> Float[Tensor, "3 H W"]:
    """The picture at `path`; transparent parts are laid on white.

    Raises:
        UserError: not a sound PNG, JPEG or WEBP file within the limits; the message names the file.
    """
    return on_white(*load_rgba(path))


def on_white(rgb: Float[Tensor, "3 H W"], alpha: Float[Tensor, "1 H W"] | None) -> Float[Tensor, "3 H W"]:
    """The picture with its clear parts laid on white; without opacity as it is."""
    return rgb if alpha is None else rgb * alpha + (1 - alpha)


def load_rgba(path: str | Path) -> tuple[Float[Tensor, "3 H W"], Float[Tensor, "1 H W"] | None]:
    """Colour and opacity of the picture at `path`; the opacity is None where the file has no transparency.

    Grey pictures get three equal channels, 16-bit samples keep their precision where PIL keeps it (grey), palettes are
    resolved, and the orientation tag of a camera is obeyed. The colour is not multiplied by the opacity.

    Raises:
        UserError: not a sound PNG, JPEG or WEBP file within the limits; the message names the file.
    """
    return _split(open_picture(path))


def _split(image: Image.Image) -> tuple[Float[Tensor, "3 H W"], Float[Tensor, "1 H W"] | None]:
    """Colour and opacity of a decoded picture."""
    pixels, alpha = _split_levels(image)
    return as_float(pixels), alpha


def _split_levels(image: Image.Image) -> tuple[Pixels, Float[Tensor, "1 H W"] | None]:
    """Colour and opacity of a decoded picture; the colour is in 8 bits where the file's is."""
    if image.mode in DEEP_MODES:
        grey = torch.from_numpy(np.asarray(image).astype(np.float32) / 65535.0).clamp(0, 1)
        return grey.expand(3, -1, -1).contiguous(), None
    if image.has_transparency_data:
        levels = _levels(image.convert("RGBA"))
        return levels[:3].contiguous(), as_float(levels[3:])
    return _levels(image.convert("RGB")), None


def _levels(image: Image.Image) -> UInt8[Tensor, "C H W"]:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def as_float(pixels: Pixels) -> Float[Tensor, "C H W"]:
    """The picture in [0, 1]; one that is already is returned as it is."""
    return pixels if pixels.is_floating_point() else (pixels.float() / 255.0).contiguous()


def as_levels(image: Pixels) -> UInt8[Tensor, "C H W"]:
    """The picture in 8 bits, [0, 1] clamped and rounded; one that is already is returned as it is.

    Raises:
        ValueError: a pixel is NaN or infinite.
    """
    if not image.is_floating_point():
        return image
    # Both ends are NaN where any pixel is.
    if image.numel() and not torch.isfinite(torch.stack(torch.aminmax(image))).all():
        raise ValueError("expected finite pixels, got NaN or infinity")
    return image.detach().float().clamp(0, 1).mul_(255).round_().to(torch.uint8)


def read_picture(
    source: Picture, *, longest: int | None = None
) -> tuple[Pixels, Float[Tensor, "1 H W"] | None, str]:
    """Colour, opacity (None: opaque) and name of a picture from whatever holds it.

    Args:
        source: a path; a PIL picture; an array, H W or H W C; or a tensor, C H W. C is 1, 3 or 4; numbers are 8-bit
            levels or floats in [0, 1].
        longest: a picture with a longer side is reduced by a whole factor below it (a tensor of floats is not).

    Raises:
        UserError: not a sound picture within the limits, or an array of another shape, type or range.
    """
    name = Path(source).stem if isinstance(source, str | Path) else "picture"
    if isinstance(source, np.ndarray):
        source = torch.from_numpy(source[..., None] if source.ndim == 2 else source).permute(2, 0, 1)
    if isinstance(source, torch.Tensor):
        fits = source.ndim == 3 and source.shape[0] in (1, 3, 4)
        if not fits or not (source.dtype == torch.uint8 or source.is_floating_point()):
            raise UserError(
                f"expected a picture of 1, 3 or 4 channels in 8-bit levels or floats, got {tuple(source.shape)} "
                f"of {source.dtype}"
            )
        source = source.detach().cpu()
        if source.is_floating_point():
            if not bool(((source >= 0) & (source <= 1)).all()):
                raise UserError("expected pixels from 0 to 1, got values outside; divide 8-bit levels by 255")
            colour = source[:3].float().expand(3, -1, -1)
            return colour, source[3:].float() if len(source) == 4 else None, name
        source = to_pil(source)
    image = source if isinstance(source, Image.Image) else open_picture(source)
    factor = 1 if longest is None else -(-max(image.size) // longest)
    if factor > 1 and image.mode not in DEEP_MODES:
        # Colours are weighed by their opacity before neighbours are mixed.
        clear = image.has_transparency_data
        image = image.convert("RGBA").convert("RGBa") if clear else image.convert("RGB")
        image = image.reduce(factor)
        image = image.convert("RGBA") if clear else image
    return *_split_levels(image), name


def decode_rgb(content: bytes, name: str | Path) -> Float[Tensor, "3 H W"]:
    """The picture in `content`, as `load_rgb` would load it from a file; `name` is what messages call it.

    Raises:
        UserError: not a sound PNG, JPEG or WEBP file within the limits.
    """
    return on_white(*_split(decode_picture(content, name)))


def decode_mask(content: bytes, name: str | Path) -> Float[Tensor, "1 H W"]:
    """The mask in `content`: its brightness, 1 where it is white. What JPEG adds to black and white is taken off.

    Raises:
        UserError: not a sound PNG, JPEG or WEBP file within the limits.
    """
    return clean_mask(_split(decode_picture(content, name))[0])


def clean_mask(rgb: Float[Tensor, "3 H W"]) -> Float[Tensor, "1 H W"]:
    """The brightness of a mask's picture, with what JPEG adds to black and white taken off."""
    grey = rgb.mean(dim=0, keepdim=True)
    return torch.where(grey < DUST, 0.0, torch.where(grey > 1 - DUST, 1.0, grey))


def to_pil(image: Pixels, alpha: Float[Tensor, "1 H W"] | None = None) -> Image.Image:
    """`image` (one, three or four channels, [0, 1] or 8 bits) as an 8-bit PIL picture, with `alpha` if given."""
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        raise ValueError(f"expected an image of shape 1HW, 3HW or 4HW, got {tuple(image.shape)}")
    levels = as_levels(image) if alpha is None else torch.cat([as_levels(image), as_levels(alpha)])
    array = levels.cpu().permute(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray((array.squeeze(2) if image.shape[0] == 1 else array).numpy()))


def png_bytes(image: Pixels, alpha: Float[Tensor, "1 H W"] | None = None) -> bytes:
    """`image` (one, three or four channels, [0, 1] clamped, or 8 bits) as the bytes of an 8-bit PNG.

    The same tensor gives the same bytes: no time and no text is stored.
    """
    buffer = io.BytesIO()
    # A third of the time of level 6 for 8 % more bytes.
    to_pil(image, alpha).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def save_png(path: str | Path, image: Pixels, alpha: Float[Tensor, "1 H W"] | None = None) -> None:
    """Writes `image` (1HW grey, 3HW RGB or 4HW RGBA) as an 8-bit PNG, atomically; parents are made.

    Raises:
        UserError: the place cannot be written.
    """
    write_bytes(path, png_bytes(image, alpha))


def contact_sheet(
    rows: Sequence[Sequence[Float[Tensor, "3 _ _"]]],
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    cell: int = 128,
) -> Float[Tensor, "3 H W"]:
    """A table of pictures on white, each fitted into a square of `cell` pixels, with names left and on top.

    Rows may differ in length; missing cells stay white. A column's name may have several lines.
    """
    if not rows or not any(len(row) for row in rows):
        raise ValueError("expected at least one picture for a contact sheet, got none")
    font = ImageFont.load_default(size=max(10, cell // 10))
    gap, line = max(2, cell // 32), max(14, cell // 7)
    left = gap + (max(int(font.getlength(label)) for label in row_labels) + gap if row_labels else 0)
    top = gap + line * max((label.count("\n") + 1 for label in column_labels or ()), default=0)
    num_columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (left + num_columns * (cell + gap), top + len(rows) * (cell + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, label in enumerate(column_labels or ()):
        pen.text((left + column * (cell + gap), gap), label, fill="black", font=font)
    for number, row in enumerate(rows):
        y = top + number * (cell + gap)
        if row_labels:
            pen.text((gap, y + cell // 2 - line // 2), row_labels[number], fill="black", font=font)
        for column, image in enumerate(row):
            picture = to_pil(image).convert("RGB")
            # Small pictures are enlarged with hard pixels, so that a sheet shows what was computed.
            grow = max(picture.size) < cell
            picture = ImageOps.contain(
                picture, (cell, cell), Image.Resampling.NEAREST if grow else Image.Resampling.LANCZOS
            )
            sheet.paste(picture, (left + column * (cell + gap), y))
    return as_float(_levels(sheet))
