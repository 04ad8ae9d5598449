"""The door for pictures: sound files come in as they look, hostile files are refused with one line that names them."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from magic_insert.core import images, picture_files
from magic_insert.core.errors import UserError


def gradient(height: int, width: int) -> torch.Tensor:
    across = torch.linspace(0, 1, width).expand(height, width)
    down = torch.linspace(0, 1, height)[:, None].expand(height, width)
    return torch.stack([across, down, 0.5 * (across + down)])


def write_png(path: Path, header: bytes, pixels: bytes) -> None:
    """A PNG chunk by chunk, whatever its header claims."""
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(content)


def test_a_saved_picture_and_its_alpha_come_back_within_half_a_level(tmp_path: Path) -> None:
    image, alpha = gradient(7, 11), torch.linspace(0, 1, 11).expand(1, 7, 11)
    images.save_png(tmp_path / "deep" / "er" / "a.png", torch.cat([image, alpha]))
    rgb, loaded = images.load_rgba(tmp_path / "deep" / "er" / "a.png")
    assert loaded is not None
    assert (torch.cat([rgb - image, loaded - alpha])).abs().max() <= 0.5 / 255 + 1e-6
    images.save_png(tmp_path / "clear.png", torch.zeros(4, 3, 3))
    assert torch.equal(images.load_rgb(tmp_path / "clear.png"), torch.ones(3, 3, 3))


def test_values_beyond_the_range_are_clamped_and_not_wrapped(tmp_path: Path) -> None:
    images.save_png(tmp_path / "a.png", torch.stack([torch.full((2, 2), v) for v in (-0.5, 1.5, 0.0)]))
    assert torch.equal(images.load_rgb(tmp_path / "a.png")[:, 0, 0], torch.tensor([0.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match="finite"):
        images.save_png(tmp_path / "nan.png", torch.full((3, 2, 2), float("nan")))
    assert not (tmp_path / "nan.png").exists()


def test_sixteen_bits_keep_their_precision_in_grey_and_colour(tmp_path: Path) -> None:
    levels = np.array([[0, 257, 1000, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    rgb, alpha = images.load_rgba(tmp_path / "a.png")
    assert alpha is None
    assert torch.allclose(rgb[2, 0], torch.tensor([0, 257, 1000, 65535]) / 65535)
    samples = struct.pack(">3H", 0x8000, 0x0000, 0xFFFF)
    write_png(tmp_path / "a.png", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0), b"\0" + samples)
    assert torch.allclose(
        images.load_rgb(tmp_path / "a.png")[:, 0, 0], torch.tensor([0.5, 0.0, 1.0]), atol=0.005
    )


def test_the_orientation_tag_turns_the_picture_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 4), "white")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert images.load_rgb(tmp_path / "a.jpg").shape == (3, 8, 4)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole)
    half = tmp_path / f"half.{suffix}"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(UserError, match="half"):
        images.load_rgb(half)


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    write_png(tmp_path / "bomb.png", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0), b"\0" * 1000)
    with pytest.raises(UserError, match=r"pixels in .*bomb\.png"):
        images.load_rgb(tmp_path / "bomb.png")


@pytest.mark.parametrize(("limit", "least"), [("MAX_PIXELS", 110), ("MAX_BYTES", None)])
def test_a_picture_over_a_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, least: int | None
) -> None:
    Image.new("L", (11, 10)).save(tmp_path / "a.png")
    least = least or (tmp_path / "a.png").stat().st_size
    monkeypatch.setattr(picture_files, limit, least)
    images.load_rgb(tmp_path / "a.png")
    monkeypatch.setattr(picture_files, limit, least - 1)
    with pytest.raises(UserError, match=f"at most {least - 1}"):
        images.load_rgb(tmp_path / "a.png")


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"GIF89a" + b"\0" * 50, b"\x89PNG\r\n\x1a\n", "BMP", None]
)
def test_what_is_no_picture_is_refused_by_name(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "fake.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        Image.new("RGB", (4, 4)).save(path, format=content)
    with pytest.raises(UserError, match=r"fake\.png"):
        images.load_rgb(path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_anywhere_gives_a_picture_or_a_user_error_and_nothing_else(data: st.DataObject) -> None:
    import tempfile

    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        Image.fromarray(np.arange(12 * 12 * 3, dtype=np.uint8).reshape(12, 12, 3)).save(path, format=kind)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
        try:
            image = images.load_rgb(path)
        except UserError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)
        else:
            assert image.shape[0] == 3
            assert 0 <= image.min() <= image.max() <= 1


def test_a_contact_sheet_holds_every_picture_in_its_place() -> None:
    red, green = torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)
    red[0], green[1] = 1, 1
    sheet = images.contact_sheet([[red, green], [green]], cell=8)
    assert sheet.shape == (3, 2 + 2 * 10, 2 * 10 + 2)
    assert torch.equal(sheet[:, 2:10, 0:10][:, :, 2:10], red)
    assert torch.equal(sheet[:, 2:10, 12:20], green)
    assert torch.equal(sheet[:, 12:20, 2:10], green)
    assert torch.equal(sheet[:, 12:20, 12:20], torch.ones(3, 8, 8))
