"""The heart as a notebook uses it, on a tiny model: pictures of any kind in, records out, cancelled by raising."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import noise, oval, rectangle
from PIL import Image

from magic_insert import Drop, MagicInsert, Redrawn, Subject, UserError
from magic_insert.core.images import load_rgb, load_rgba, save_png
from magic_insert.core.rand import generator
from magic_insert.core.records import Box, Scene
from magic_insert.paths import CHECKOUT

FAST = [
    "personalization.steps=2", "personalization.batch_size=1", "personalization.views=1",
    "personalization.targets=[to_q]", "sampling.steps=2", "inserter.name=diffusion", "inserter.steps=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A subject, a background, a mask."""
    made = tmp_path_factory.mktemp("pictures")
    save_png(made / "bunny.png", oval())
    save_png(made / "beach.png", noise(0, 150, 200))
    save_png(made / "mask.png", rectangle(150, 200, (40, 90), (60, 100)))
    return made


@pytest.fixture(scope="module")
def magic(tiny_micro: Path, folder: Path) -> MagicInsert:
    words = [*FAST, f"subjects={folder / 'subjects'}"]
    return MagicInsert.from_pretrained(tiny_micro, device="cpu", overrides=words)


def test_importing_the_package_and_judging_inputs_costs_no_torch() -> None:
    code = "import magic_insert, magic_insert.cli.insert, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_ten_lines_of_python(magic: MagicInsert, folder: Path, tmp_path: Path) -> None:
    bunny = magic.personalize(folder / "bunny.png")
    drop = magic.insert(bunny, folder / "beach.png", box=(30, 40, 60, 90), seed=7)
    drop.save(tmp_path / "out.png")
    moved = magic.place(drop.redrawn, folder / "beach.png", box=(120, 40, 60, 90))
    clean = magic.remove(folder / "beach.png", mask=folder / "mask.png")
    assert isinstance(bunny, Subject)
    assert isinstance(drop, Drop)
    assert isinstance(drop.redrawn, Redrawn)
    for record in (bunny, drop, drop.redrawn, moved, clean):
        assert record._repr_png_().startswith(b"\x89PNG")
    assert set(drop.timings) == {"stylise", "segment", "paste", "insert", "composite"}
    assert set(drop.layers) == {"shade", "light", "subject"}
    story = json.loads((tmp_path / "out.json").read_text())
    assert story["pair_id"] == "bunny__beach"
    assert story["seeds"]["seed"] == 7
    assert story["weights"]["learned_embeds.safetensors"] is not None
    before = np.asarray(Image.open(folder / "beach.png"))
    for made in (drop, moved, clean):
        same = (np.asarray(made.image) == before).all(axis=2)
        changed = made.plane(made.changed)[0].numpy() > 0
        assert same[~changed].all()
        assert not same[changed].all()
    assert magic.personalize(folder / "bunny.png").run == bunny.run


def test_the_layers_of_a_drop_make_the_picture(magic: MagicInsert, folder: Path) -> None:
    front = np.zeros((*magic.scene(folder / "beach.png").size, 3), np.uint8)
    front[60:150, 50:75] = 255  # something before the subject and its shadow
    drop = magic.place(folder / "bunny.png", folder / "beach.png", (30, 40, 60, 90), occluders=front)
    picture = load_rgb(folder / "beach.png")
    before = torch.from_numpy(front[..., 0] > 0)
    assert torch.equal(drop.scene.rgb[:, before], picture[:, before])
    for name, layer in drop.layers.items():
        height, width = layer.pixels.shape[-2:]
        spot = (slice(None), slice(layer.y, layer.y + height), slice(layer.x, layer.x + width))
        colour, alpha = layer.pixels[:3], layer.pixels[3:]
        below = picture[spot]
        if name == "subject":
            picture[spot] = alpha * colour + (1 - alpha) * below
        else:
            picture[spot] = below * colour if name == "shade" else (below + colour).clamp(0, 1)
    assert (picture - drop.scene.rgb).abs().max() < 1.5 / 255


def test_a_picture_may_be_a_path_a_pil_picture_an_array_or_a_tensor(magic: MagicInsert, folder: Path) -> None:
    rgb, _ = load_rgba(folder / "beach.png")
    levels = (rgb * 255).round().byte().permute(1, 2, 0).numpy()
    given: dict[str, Any] = {
        "path": str(folder / "beach.png"),
        "pil": Image.fromarray(levels),
        "array": levels,
        "floats": levels / np.float32(255),
        "tensor": rgb,
        "grey": levels[..., 0],
    }
    for kind, picture in given.items():
        scene = magic.scene(picture)
        assert torch.equal(scene.rgb, rgb[:1].expand(3, -1, -1) if kind == "grey" else rgb), kind
    for wrong in (np.zeros((4, 4, 2), np.uint8), torch.full((3, 20, 20), 2.0), np.zeros((9, 9))):
        with pytest.raises(UserError, match="expected"):
            magic.scene(wrong)


def test_events_count_steps_and_raising_cancels(tiny_micro: Path, folder: Path, tmp_path: Path) -> None:
    magic = MagicInsert.from_pretrained(
        tiny_micro,
        device="cpu",
        overrides=[*FAST, f"subjects={tmp_path}", "personalization.checkpoint_every=1"],
    )
    seen: list[tuple[str, int, int]] = []

    def cancel(stage: str, step: int, total: int, preview: Any) -> None:
        seen.append((stage, step, total))
        if stage == "personalise" and step == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        magic.insert(folder / "bunny.png", folder / "beach.png", on_event=cancel)
    assert seen[0][0] == "cut"
    assert not (tmp_path / "subject").exists()
    events: list[tuple[str, int, int]] = []
    previews: dict[str, Any] = {}

    def note(stage: str, step: int, total: int, preview: Any) -> None:
        events.append((stage, step, total))
        previews[stage] = preview

    drop = magic.insert(folder / "bunny.png", folder / "beach.png", on_event=note)
    (card,) = tmp_path.glob("subject/*/card.json")
    assert json.loads(card.read_text())["resumed_from"] == 1
    stages = list(dict.fromkeys(stage for stage, _, _ in events))
    assert stages == ["cut", "personalise", "stylise", "segment", "paste", "insert", "composite"]
    assert set(drop.timings) == set(stages)
    for stage in stages:
        steps = [(step, total) for name, step, total in events if name == stage]
        assert steps[0] == (0, 1)
        assert steps[-1][0] == steps[-1][1]
    assert previews["insert"]().size == (64, 64)
    assert previews["stylise"]().size == (40, 64)  # with its own detail it is as large as its own picture


def test_redraw_is_a_batch_whose_rows_do_not_depend_on_it(magic: MagicInsert, folder: Path) -> None:
    bunny = magic.personalize(folder / "bunny.png")
    other = magic.scene(torch.rand(3, 90, 120, generator=generator(1, "scene")))
    both = magic.redraw(bunny, [folder / "beach.png", other])
    alone = magic.redraw(bunny, other)
    assert [row.pair_id for row in both] == ["bunny__beach", "bunny__picture"]
    torch.testing.assert_close(both[1].rgb, alone[0].rgb, atol=2e-4, rtol=0)
    with pytest.raises(UserError, match="as many subjects"):
        magic.redraw([bunny, bunny, bunny], [other, other])


def test_another_inserter_shares_the_model_and_is_judged_too(magic: MagicInsert, folder: Path) -> None:
    plain = magic.using(inserter=replace(magic.settings.inserter, name="copy_paste"))
    drop = plain.place(folder / "bunny.png", folder / "beach.png")
    assert plain.models is magic.models
    assert (drop.parts["pasted"] - drop.scene.crop(drop.window)).abs().max() < 0.51 / 255
    magic.load()
    with pytest.raises(UserError, match="hears the adapter, got 'nowhere'"):
        magic.using(style=replace(magic.settings.style, blocks=["nowhere"])).load()


def test_a_large_picture_is_worked_on_in_its_window_and_costs_what_the_window_costs(
    magic: MagicInsert, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = torch.randint(0, 256, (3, 40, 50), generator=generator(3, "large")).to(torch.uint8)
    large = levels.repeat_interleave(60, 1).repeat_interleave(60, 2)
    before = large.clone()
    drop = magic.place(folder / "bunny.png", Scene(large, "large"), (1000, 900, 60, 90))
    assert drop.window == Box(931, 846, 198, 198)
    assert drop.scene.pixels.dtype == torch.uint8
    outside = torch.ones(2400, 3000, dtype=torch.bool)
    outside[846:1044, 931:1129] = False
    assert torch.equal(large, before)
    assert torch.equal(drop.scene.pixels[:, outside], before[:, outside])
    monkeypatch.setattr("magic_insert.drops.free_memory", lambda: 3_000_000)
    with pytest.raises(UserError, match="of 198 x 198 pixels"):
        magic.place(folder / "bunny.png", Scene(large, "large"), (1000, 900, 60, 90))


@pytest.mark.slow
def test_the_notebook_runs(tiny_micro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (CHECKOUT / "notebooks" / "first_steps.ipynb").read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in cells)
    monkeypatch.chdir(tmp_path)
    loading = f'from_pretrained({str(tiny_micro)!r}, device="cpu", overrides={FAST})'
    names: dict[str, Any] = {}
    for cell in cells:
        exec("".join(cell["source"]).replace('from_pretrained("micro")', loading), names)
    assert names["magic"].settings.model.source == str(tiny_micro)
    assert len(names["drops"]) == 3
    assert (tmp_path / "first_steps" / "out" / "first.json").is_file()
