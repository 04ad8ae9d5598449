"""The one door for pictures: files to tensors and back.

Shape letters: H rows, W columns. Every image is float32 in [0, 1]: RGB is 3HW, alpha and masks are 1HW. What files are
refused is decided in `core.picture_files`.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from magic_insert.core.jsonl import write_bytes
from magic_insert.core.picture_files import DEEP_MODES, decode_picture, open_picture, read_picture_bytes

DUST = 0.06  # what is closer than this to black or white in a mask is meant to be black or white


def load_rgb(path: str | Path) -> Float[Tensor, "3 H W"]:
    """The picture at `path`; transparent parts are laid on white.

    Raises:
        UserError: not a sound PNG, JPEG or WEBP file within the limits; the message names the file.
    """
    rgb, alpha = load_rgba(path)
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
    if image.mode in DEEP_MODES:
        grey = torch.from_numpy(np.asarray(image).astype(np.float32) / 65535.0).clamp(0, 1)
        return grey.expand(3, -1, -1).contiguous(), None
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        pixels = _to_tensor(image.convert("RGBA"))
        return pixels[:3].contiguous(), pixels[3:].contiguous()
    return _to_tensor(image.convert("RGB")), None


def decode_rgb(content: bytes, name: str | Path) -> Float[Tensor, "3 H W"]:
    """The picture in `content`, as `load_rgb` would load it from a file; `name` is what messages call it.

    Raises:
        UserError: not a sound PNG, JPEG or WEBP file within the limits.
    """
    rgb, alpha = _split(decode_picture(content, name))
    return rgb if alpha is None else rgb * alpha + (1 - alpha)


def load_mask(path: str | Path) -> Float[Tensor, "1 H W"]:
    """The mask at `path`: its brightness, 1 where it is white.

    Raises:
        UserError: not a sound PNG, JPEG or WEBP file within the limits; the message names the file.
    """
    return decode_mask(read_picture_bytes(path), path)


def decode_mask(content: bytes, name: str | Path) -> Float[Tensor, "1 H W"]:
    """The mask in `content`: its brightness, 1 where it is white. What JPEG adds to black and white is taken off.

    Raises:
        UserError: not a sound PNG, JPEG or WEBP file within the limits.
    """
    rgb, _ = _split(decode_picture(content, name))
    grey = rgb.mean(dim=0, keepdim=True)
    return torch.where(grey < DUST, 0.0, torch.where(grey > 1 - DUST, 1.0, grey))


def _to_tensor(image: Image.Image) -> Float[Tensor, "C H W"]:
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))
    return (pixels / 255.0).permute(2, 0, 1).contiguous()


def png_bytes(image: Float[Tensor, "C H W"]) -> bytes:
    """`image` (one, three or four channels in [0, 1], clamped) as the bytes of an 8-bit PNG.

    The same tensor gives the same bytes: no time and no text is stored.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        raise ValueError(f"expected an image of shape 1HW, 3HW or 4HW, got {tuple(image.shape)}")
    if not torch.isfinite(image).all():
        raise ValueError("expected finite pixels, got NaN or infinity")
    levels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().permute(1, 2, 0)
    array = levels.squeeze(2).numpy() if image.shape[0] == 1 else levels.numpy()
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def save_png(path: str | Path, image: Float[Tensor, "C H W"]) -> None:
    """Writes `image` (1HW grey, 3HW RGB or 4HW RGBA in [0, 1]) as an 8-bit PNG, atomically; parents are made.

    Raises:
        UserError: the place cannot be written.
    """
    write_bytes(path, png_bytes(image))


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
            picture = Image.open(io.BytesIO(png_bytes(image))).convert("RGB")
            # Small pictures are enlarged with hard pixels, so that a sheet shows what was computed.
            grow = max(picture.size) < cell
            picture = ImageOps.contain(
                picture, (cell, cell), Image.Resampling.NEAREST if grow else Image.Resampling.LANCZOS
            )
            sheet.paste(picture, (left + column * (cell + gap), y))
    return _to_tensor(sheet)
