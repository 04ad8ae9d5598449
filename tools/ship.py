"""Makes a trained micro folder the shipped one: measured first, then put in place by a rename; and what stands on the
page's shelves: Toybox pictures, and subjects already learned by it.

`tools/ship.py MODEL` does both, `tools/ship.py` the shelf alone.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from magic_insert import MagicInsert
from magic_insert.config.schema.jobs import CardConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import save_png
from magic_insert.core.jsonl import read_json, write_json, write_text
from magic_insert.core.rand import fold_in
from magic_insert.data.subject_files import CARD_FILE
from magic_insert.foundation.card import run_card
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.tensor_file import read_tensors, save_tensors
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.page.shelf import Toy, toy_items, toy_seed
from magic_insert.paths import micro_dir, shelf_dir, subjects_dir
from magic_insert.toybox.scenes import scene_world
from magic_insert.toybox.styles import draw
from magic_insert.toybox.subjects import SubjectSpec
from magic_insert.toybox.tracer import trace
from magic_insert.toybox.world import COMPLEXITY, SUPERSAMPLE, render_subjects, shrink
from magic_insert.training.model_card import FILE as MODEL_CARD
from magic_insert.training.model_card import base_of, model_card

LIMIT_MB = 72
RANK = 8  # of a shipped subject's LoRA, which was learned at 32

SIDE = 256  # of the shelf's pictures: a subject of the prior's height then has about the micro model's own pixels
SUBJECTS_LEARNED = ("bunny-01", "robot-01", "penguin-01", "teapot-01")


def ship(model: Path, target: Path) -> Path:
    """Measure `model`, write its card beside the weights and replace `target` by it.

    Raises:
        UserError: no model there, or it is larger than the package may carry.
    """
    if not (model / "model_index.json").is_file():
        raise UserError(
            f"expected a finished micro model in {model}, got none; run `magic-insert foundation` first"
        )
    size = sum(p.stat().st_size for p in model.rglob("*") if p.is_file()) / 1e6
    if size > LIMIT_MB:
        raise UserError(
            f"expected at most {LIMIT_MB} MB of weights, got {size:.1f} MB in {model}; narrow a part"
        )
    staged = target.with_name(target.name + ".new")
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(model, staged)
    run_card(CardConfig(source=str(staged), out=str(staged)))
    shutil.rmtree(target, ignore_errors=True)
    staged.rename(target)
    return target


def rendered(toy: Toy, folder: Path) -> Path:
    """The picture of a Toybox subject or scene, rendered into `folder`."""
    name, spec = toy.item.id, toy.spec
    path = folder / f"{name}.png"
    if isinstance(spec, SubjectSpec):
        images = render_subjects([spec], [toy.style], [COMPLEXITY], [fold_in(0, "page", name)], SIDE)
        save_png(path, torch.cat([images.rgb[0], images.alpha[0]]))
    else:
        g = trace([scene_world(spec)], SUPERSAMPLE * SIDE)
        save_png(path, shrink(draw(g, [toy.style], [COMPLEXITY], [toy_seed(name)]))[0])
    return path


def ship_subject(magic: MagicInsert, picture: Path, target: Path) -> Path:
    """Learns a Toybox subject as the page would and writes it with a LoRA of rank RANK in half precision."""
    run = magic.personalize(picture).run
    assert run is not None
    if run == target:
        return target  # it ships already
    lora, header = read_tensors(run / LORA_FILE)
    scales = json.loads(header["lora_adapter_metadata"])
    scale = scales["unet.lora_alpha"] / scales["unet.r"]
    scales |= {"unet.r": RANK, "unet.lora_alpha": scale * RANK}
    small = {key: tensor.half() for key, tensor in reduced(lora, RANK).items()}
    save_tensors(
        target / LORA_FILE, small, {**header, "lora_adapter_metadata": json.dumps(scales, sort_keys=True)}
    )
    for file in (TOKENS_FILE, picture.name):
        shutil.copy(run / file, target / file)
    card = {
        **read_json(run / CARD_FILE),
        "base_model": base_of(magic.settings.model),
        "reduced": {"rank": RANK, "dtype": "float16"},
    }
    about = model_card(card, picture.stem, lora=LORA_FILE, tokens=TOKENS_FILE, pictures=[picture.name])
    write_text(target / MODEL_CARD, about)
    write_json(target / CARD_FILE, card)
    return target


def reduced(lora: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The nearest LoRA of `rank`: of each layer's change, up times down, the largest singular values."""
    found = {}
    for key, down in lora.items():
        if not key.endswith("lora_A.weight"):
            continue
        other = key.replace("lora_A", "lora_B")
        up = lora[other]
        left, inner_left = torch.linalg.qr(up.flatten(1))
        right, inner_right = torch.linalg.qr(down.flatten(1).T)
        u, values, v = torch.linalg.svd(inner_left @ inner_right.T)
        root = values[:rank].sqrt()
        found[key] = (root[:, None] * (right @ v.T[:, :rank]).T).reshape(-1, *down.shape[1:])
        found[other] = (left @ u[:, :rank] * root).reshape(len(up), -1, *up.shape[2:])
    return found


def main(words: list[str]) -> None:
    """Ships what the command line names."""
    if words:
        print(ship(Path(words[0]), micro_dir()))
        shutil.rmtree(subjects_dir(), ignore_errors=True)  # they are of another model
    toys = toy_items()
    for name in toys.keys() - set(SUBJECTS_LEARNED):
        rendered(toys[name], shelf_dir())
    magic = MagicInsert.from_pretrained("micro", mode="full")
    with tempfile.TemporaryDirectory() as folder:
        for name in SUBJECTS_LEARNED:
            picture = rendered(toys[name], Path(folder))
            print(ship_subject(magic, picture, subjects_dir() / name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
