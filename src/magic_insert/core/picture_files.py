"""Picture files as PIL sees them: what is refused, and what can be known of a file without torch.

Files are hostile until proven otherwise: size is capped before decoding, the format is checked by content (not by
name), the file is verified and then opened anew, and truncated data is refused.
"""

import io
import os
import warnings
from collections.abc import Sized
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from magic_insert.core.errors import UserError, expecting

MAX_PIXELS = 64_000_000
MAX_BYTES = 128_000_000
SMALLEST_SIDE = 16
FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Samples wider than eight bits arrive in these modes and span 0..65535.
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def is_picture_file(path: Path) -> bool:
    """Whether a file is there that is named like a picture and not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def pictures_in(folder: str | Path) -> list[Path]:
    """The picture files in a folder, sorted."""
    return sorted(filter(is_picture_file, Path(folder).iterdir()))


def named_pictures(folder: Path, key: str) -> dict[str, Path]:
    """The picture files in the folder that the setting `key` names, by their names without suffix, sorted.

    Raises:
        UserError: no picture there, or two of one name.
    """
    found: dict[str, Path] = {}
    for path in pictures_in(folder) if folder.is_dir() else ():
        if path.stem in found:
            raise UserError(
                f"expected pictures of different names, got {found[path.stem]} and {path}; rename one"
            )
        found[path.stem] = path
    require_pictures(found, folder, f"{key}=FOLDER")
    return found


def require_pictures(found: Sized, place: object, setting: str) -> None:
    """That any picture was found in `place`; raises `UserError` with the `setting` to change otherwise."""
    if not found:
        raise UserError(f"expected pictures ({', '.join(SUFFIXES)}) in {place}, got none; set {setting}")


def require_size(name: str | Path, size: tuple[int, int]) -> None:
    """That a picture of `size` (width, height) is large enough; raises `UserError` otherwise."""
    if min(size) < SMALLEST_SIDE:
        raise UserError(
            f"expected a picture of at least {SMALLEST_SIDE} pixels a side in {name}, got {size[0]} x {size[1]}"
        )


def require_mask_size(name: str | Path, mask: tuple[int, int], picture: tuple[int, int]) -> None:
    """That a mask has its picture's size, both (width, height); raises `UserError` otherwise."""
    if mask != picture:
        raise UserError(
            f"expected a mask of {picture[0]} x {picture[1]}, the picture's size, in {name}, got {mask[0]} x {mask[1]}"
        )


def open_picture(path: str | Path) -> Image.Image:
    """The decoded and upright picture at `path`, in the file's own mode.

    Raises:
        UserError: not a sound PNG, JPEG or WEBP file within the limits; the message names the file.
    """
    return decode_picture(read_picture_bytes(path), path)


def read_picture_bytes(path: str | Path) -> bytes:
    """The file's content, if it is not too large to be looked at.

    Raises:
        UserError: no such file, not readable, or more than MAX_BYTES.
    """
    path = Path(path)
    if not os.path.isfile(path):  # unlike Path.is_file, False for a name that no file can have
        raise UserError(
            f"expected a picture at {path}, got {'a folder' if os.path.isdir(path) else 'no such file'}; check the path"
        )
    with expecting(f"a readable picture at {path}", OSError):
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UserError(f"expected at most {MAX_BYTES} bytes in {path}, got {size}; shrink the picture")
        content = path.read_bytes()
    return content


def decode_picture(content: bytes, name: str | Path) -> Image.Image:
    """The decoded and upright picture in `content`; `name` is what messages call it.

    Raises:
        UserError: not a sound PNG, JPEG or WEBP file within the limits.
    """
    try:
        with warnings.catch_warnings():
            # PIL only warns about decompression bombs under twice its own limit; ours is checked right below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as probe:
                if (pixels := probe.width * probe.height) > MAX_PIXELS:
                    raise UserError(
                        f"expected at most {MAX_PIXELS} pixels in {name}, got {pixels}; shrink the picture"
                    )
                probe.verify()
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            image.load()
            return ImageOps.exif_transpose(image)
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(
            f"expected at most {MAX_PIXELS} pixels in {name}, got a decompression bomb"
        ) from error
    except UnidentifiedImageError as error:
        raise UserError(f"expected a {', '.join(FORMATS)} picture at {name}, got something else") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # PIL reports broken data with these four; SyntaxError is its way to say that a PNG chunk is damaged.
        raise UserError(f"expected a whole picture at {name}, got a damaged file ({error})") from error


def brightness_range(image: Image.Image) -> tuple[float, float]:
    """The darkest and the brightest grey of a picture, each in [0, 1]; a mask without white is empty."""
    if image.mode in DEEP_MODES:
        low, high = image.getextrema()
        return float(low) / 65535.0, float(high) / 65535.0  # type: ignore[arg-type]
    low, high = image.convert("L").getextrema()
    return float(low) / 255.0, float(high) / 255.0  # type: ignore[arg-type]
