"""Layered files, opened again by other software: the layers lie where they were and give the picture."""

import io
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from psd_tools import PSDImage

from magic_insert.core.compositing import cover
from magic_insert.core.images import to_pil
from magic_insert.core.layered_files import FileLayer, open_raster, photoshop

LAYERS = {"background": (0, 0), "shade": (3, 5), "light": (3, 5), "subject": (6, 7)}


@pytest.fixture(scope="module")
def painted() -> tuple[list[FileLayer], Image.Image]:
    """A background, a shade, a light and a subject, and the picture that they give."""
    draw = torch.Generator().manual_seed(0)
    background = torch.rand(3, 21, 31, generator=draw)
    shade, light = (
        0.5 + 0.5 * torch.rand(3, 12, 17, generator=draw),
        0.2 * torch.rand(3, 12, 17, generator=draw),
    )
    subject = torch.rand(4, 9, 8, generator=draw)
    whole = background.clone()
    whole[:, 5:17, 3:20] = (whole[:, 5:17, 3:20] * shade + light).clamp(max=1)
    whole[:, 7:16, 6:14] = cover(whole[:, 7:16, 6:14], subject[:3], subject[3:])
    pictures = zip(
        LAYERS.items(), ("over", "multiply", "add", "over"), (background, shade, light, subject), strict=True
    )
    layers = [FileLayer(name, blend, to_pil(pixels), x, y) for (name, (x, y)), blend, pixels in pictures]
    return layers, to_pil(whole)


def difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one.convert("RGB"), int) - np.asarray(other.convert("RGB"), int)).max())


def test_a_psd_opens_in_psd_tools_and_pillow_with_every_layer_in_its_place(
    painted: tuple[list[FileLayer], Image.Image],
) -> None:
    layers, whole = painted
    content = photoshop(layers, whole)
    opened = PSDImage.open(io.BytesIO(content))
    assert [layer.name for layer in opened] == list(LAYERS)
    assert [layer.offset for layer in opened] == list(LAYERS.values())
    assert [layer.blend_mode.name for layer in opened] == ["NORMAL", "MULTIPLY", "LINEAR_DODGE", "NORMAL"]
    assert all(np.array_equal(a.topil(), b.image) for a, b in zip(opened, layers, strict=True))
    assert difference(opened.topil(), whole) == 0
    assert difference(opened.composite(force=True), whole) <= 2  # each layer rounds once
    assert difference(Image.open(io.BytesIO(content)), whole) == 0


def test_an_openraster_file_holds_layers_and_whole_and_opens_in_pyora(
    painted: tuple[list[FileLayer], Image.Image], tmp_path: Path
) -> None:
    layers, whole = painted
    with zipfile.ZipFile(io.BytesIO(open_raster(layers, whole))) as archive:
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type) == ("mimetype", 0)
        assert archive.read(first) == b"image/openraster"
        stack = ElementTree.fromstring(archive.read("stack.xml"))
        assert (stack.get("w"), stack.get("h")) == ("31", "21")
        found = list(stack.iter("layer"))[::-1]
        places = {layer.get("name"): (int(layer.get("x")), int(layer.get("y"))) for layer in found}
        assert list(places.items()) == list(LAYERS.items())
        assert [layer.get("composite-op") for layer in found] == [
            "svg:src-over", "svg:multiply", "svg:plus", "svg:src-over",
        ]  # fmt: skip
        for layer, given in zip(found, layers, strict=True):
            assert np.array_equal(Image.open(archive.open(layer.get("src"))), given.image)
        assert difference(Image.open(archive.open("mergedimage.png")), whole) == 0
        small = Image.open(archive.open("Thumbnails/thumbnail.png"))
        assert small.format == "PNG"
        assert max(small.size) <= 256
    pyora = pytest.importorskip("pyora")
    (tmp_path / "layers.ora").write_bytes(open_raster(layers, whole))
    opened = pyora.Project.load(str(tmp_path / "layers.ora"))
    found = list(opened.children_recursive)[::-1]
    assert [(layer.name, layer.offsets) for layer in found] == [*LAYERS.items()]
    for layer, given in zip(found, layers, strict=True):
        assert np.array_equal(layer.get_image_data(raw=True), given.image.convert("RGBA"))
    assert difference(opened.get_image_data(use_original=True), whole) == 0
    assert difference(opened.get_image_data(use_original=False), whole) <= 2  # drawn by pyora, layer by layer
