"""The one door for pictures: files to tensors and back.

Shape letters: H rows, W columns. Every image is float32 in [0, 1]: RGB is 3HW, alpha is 1HW. Files are hostile until
proven otherwise: size is capped before decoding, the format is checked by content (not by name), the file is verified
and then opened anew, and truncated data is refused.
"""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor

from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import write_bytes

MAX_PIXELS = 64_000_000
MAX_BYTES = 128_000_000
FORMATS = ("PNG", "JPEG", "WEBP")
# Samples wider than eight bits arrive in these modes and span 0..65535.
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


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
    image = _decode(Path(path))
    if image.mode in DEEP_MODES:
        grey = torch.from_numpy(np.asarray(image).astype(np.float32) / 65535.0).clamp(0, 1)
        return grey.expand(3, -1, -1).contiguous(), None
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        pixels = _to_tensor(image.convert("RGBA"))
        return pixels[:3].contiguous(), pixels[3:].contiguous()
    return _to_tensor(image.convert("RGB")), None


def _decode(path: Path) -> Image.Image:
    """The decoded and upright picture in the file's own mode; see `load_rgba` for what is refused."""
    if not path.is_file():
        raise UserError(f"expected a picture at {path}, got no such file; check the path")
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UserError(f"expected at most {MAX_BYTES} bytes in {path}, got {size}; shrink the picture")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"expected a readable picture at {path}, got {error.strerror}") from error
    try:
        with warnings.catch_warnings():
            # PIL only warns about decompression bombs under twice its own limit; ours is checked right below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as probe:
                if (pixels := probe.width * probe.height) > MAX_PIXELS:
                    raise UserError(
                        f"expected at most {MAX_PIXELS} pixels in {path}, got {pixels}; shrink the picture"
                    )
                probe.verify()
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            image.load()
            return ImageOps.exif_transpose(image)
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(
            f"expected at most {MAX_PIXELS} pixels in {path}, got a decompression bomb"
        ) from error
    except UnidentifiedImageError as error:
        raise UserError(f"expected a {', '.join(FORMATS)} picture at {path}, got something else") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # PIL reports broken data with these four; SyntaxError is its way to say that a PNG chunk is damaged.
        raise UserError(f"expected a whole picture at {path}, got a damaged file ({error})") from error


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

    Rows may differ in length; missing cells stay white.
    """
    if not rows or not any(len(row) for row in rows):
        raise ValueError("expected at least one picture for a contact sheet, got none")
    font = ImageFont.load_default(size=max(10, cell // 10))
    gap, line = max(2, cell // 32), max(14, cell // 7)
    left = gap + (max(int(font.getlength(label)) for label in row_labels) + gap if row_labels else 0)
    top = gap + (line if column_labels else 0)
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
