"""`mode=preview`: a subject in a scene without the diffusion model, and when it is chosen by itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import oval
from torch import Tensor

from magic_insert import MagicInsert
from magic_insert.cli.main import main
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.masks import blur
from magic_insert.core.rand import generator

WORDS = ["model.device=cpu", "personalization.steps=1", "sampling.steps=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cut-out subject and a background larger than the Toybox's."""
    made = tmp_path_factory.mktemp("real")
    inside = oval(300)[3:]
    save_png(
        made / "slime.png",
        torch.cat([texture(300, 300, 0) * torch.tensor([0.4, 1, 0.4])[:, None, None], inside]),
    )
    save_png(made / "room.png", texture(300, 400, 1))
    return made


def texture(height: int, width: int, seed: int) -> Tensor:
    return (0.5 + blur(torch.randn(3, height, width, generator=generator(seed, "t")), 4.0)).clamp(0, 1)


@pytest.mark.slow
def test_a_preview_imports_no_model_library_and_is_the_command_lines(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from magic_insert import MagicInsert; m = MagicInsert.from_pretrained('micro', mode='preview');"
        f"m.insert({str(folder / 'slime.png')!r}, {str(folder / 'room.png')!r}).save({str(tmp_path / 'a.png')!r});"
        "print([name for name in ('diffusers', 'transformers', 'pytorch_lightning', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    pictures = [f"subject={folder / 'slime.png'}", f"background={folder / 'room.png'}"]
    main(["insert", *pictures, f"out={tmp_path / 'b.png'}", "mode=preview", *WORDS])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    story = json.loads((tmp_path / "b.json").read_text())
    assert (story["config"]["mode"], story["config"]["stylizer"]["name"]) == ("preview", "tone")
    assert story["weights"] == {}
    changed = (load_rgb(tmp_path / "b.png") - load_rgb(folder / "room.png")).abs().amax(dim=0) > 0
    assert 0.02 < float(changed.float().mean()) < 0.6


def test_preview_is_chosen_on_a_cpu_if_large(tiny_micro: Path, caplog: pytest.LogCaptureFixture) -> None:
    magic = MagicInsert.from_pretrained(tiny_micro, device="cpu")
    assert magic.suited(1024).settings.mode == "preview"
    assert "mode=full" in caplog.text
    chosen = magic.using(inserter=magic.settings.inserter.__class__(name="diffusion"))
    told = (chosen, magic.using(mode="full"))
    for other in (magic.suited(200), magic.suited(1024, run=Path("r")), *(one.suited(1024) for one in told)):
        assert other.settings.mode == "full"
        assert other.settings.stylizer.name == "personalized"
    assert magic.suited(1024).using(mode="full").settings.stylizer.name == "personalized"
