"""Pictures whose layers stay apart, as other programs open them: OpenRaster (Krita, GIMP) and PSD (Photoshop, too).

Both are written from 8-bit pictures; the picture of all layers together is stored as well, for programs that show
nothing else. Sources: OpenRaster 0.0.6; Adobe Photoshop File Formats Specification, chapter "Photoshop File Format".
"""

import io
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

from magic_insert.core.errors import UserError

# How a layer acts on what lies below: the names of OpenRaster and of PSD.
BLENDS = {
    "over": ("svg:src-over", b"norm"),
    "multiply": ("svg:multiply", b"mul "),
    "add": ("svg:plus", b"lddg"),
}
PSD_LONGEST = 30_000  # pixels a side
THUMBNAIL = 256


@dataclass(frozen=True)
class FileLayer:
    """An RGB or RGBA picture at (x, y); `blend` is a key of BLENDS."""

    name: str
    blend: str
    image: Image.Image
    x: int = 0
    y: int = 0


def open_raster(layers: Sequence[FileLayer], merged: Image.Image) -> bytes:
    """An OpenRaster file of the layers, the lowest first."""
    files: dict[str, bytes] = {}
    stack: list[str] = []
    for number, layer in enumerate(layers):
        path = f"data/{number}.png"
        files[path] = _png(layer.image)
        attributes = {"name": layer.name, "src": path, "x": layer.x, "y": layer.y}
        attributes["composite-op"] = BLENDS[layer.blend][0]
        stack.insert(0, f"<layer {' '.join(f'{k}={quoteattr(str(v))}' for k, v in attributes.items())}/>")
    size = f'w="{merged.width}" h="{merged.height}"'
    xml = f'<?xml version="1.0" encoding="UTF-8"?><image version="0.0.6" {size}><stack>{"".join(stack)}</stack></image>'
    small = merged.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    files |= {
        "stack.xml": xml.encode(),
        "mergedimage.png": _png(merged),
        "Thumbnails/thumbnail.png": _png(small),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in {"mimetype": b"image/openraster", **files}.items():
            archive.writestr(zipfile.ZipInfo(path), content)  # without the hour: equal pictures, equal bytes
    return buffer.getvalue()


def photoshop(layers: Sequence[FileLayer], merged: Image.Image) -> bytes:
    """A PSD file of the layers, the lowest first.

    Raises:
        UserError: a side is longer than the format allows.
    """
    if max(merged.size) > PSD_LONGEST:
        raise UserError(
            f"expected at most {PSD_LONGEST} pixels a side for PSD, got {merged.size}; save as .ora"
        )
    records, pixels = b"", b""
    for layer in layers:
        planes = _planes(layer.image)
        numbers = [0, 1, 2, -1][: len(planes)]  # the channels' numbers; -1 is the opacity
        records += struct.pack(
            ">4i", layer.y, layer.x, layer.y + layer.image.height, layer.x + layer.image.width
        )
        records += struct.pack(">H", len(planes))
        records += b"".join(
            struct.pack(">hI", n, 2 + len(plane)) for n, plane in zip(numbers, planes, strict=True)
        )
        name = layer.name.encode("ascii", "replace")[:31]
        name = bytes([len(name)]) + name
        extra = struct.pack(">II", 0, 0) + name.ljust(
            -(-len(name) // 4) * 4, b"\0"
        )  # no mask, no ranges, the name
        records += (
            b"8BIM" + BLENDS[layer.blend][1] + bytes([255, 0, 0, 0]) + struct.pack(">I", len(extra)) + extra
        )
        pixels += b"".join(b"\0\0" + plane for plane in planes)
    info = struct.pack(">h", len(layers)) + records + pixels
    info += b"\0" * (len(info) % 2)
    section = struct.pack(">I", len(info)) + info + struct.pack(">I", 0)
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, merged.height, merged.width, 8, 3)
    nothing = struct.pack(">II", 0, 0)  # no palette, no resources
    return (
        header
        + nothing
        + struct.pack(">I", len(section))
        + section
        + b"\0\0"
        + b"".join(_planes(merged.convert("RGB")))
    )


def _planes(image: Image.Image) -> list[bytes]:
    return [plane.tobytes() for plane in np.moveaxis(np.asarray(image), 2, 0)]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
