"""How a low-resolution edit comes home to a picture four times its size: as an effect layer, or as the whole picture.

    python tools/bench_composite.py --pairs 8 --out table.json

Held-out Toybox pairs are rendered at `--scale` times the model's size, the true subject is pasted in its true place,
and the result is compared with the true picture. `oracle` stands for a perfect inserter: what it "draws" is the truth
at the model's size, through the autoencoder, so its rows show what compositing alone loses. Pictures are in [0, 1].
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from magic_insert.config.schema.shared import InserterConfig, ModelConfig
from magic_insert.core.compositing import FAINT, Region, area_resize, region_around, resize
from magic_insert.core.effect_layer import EffectConfig, fill_hole
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.fidelity import effect_of, psnr_pooled, region_sums
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.core.masks import bounding_box
from magic_insert.core.records import Scene, Subject
from magic_insert.core.store import Store
from magic_insert.data.pairs import Pair
from magic_insert.data.renders import PairsPlan, ToyboxPairs, render
from magic_insert.inserters import build_inserter
from magic_insert.inserters.base import Insertion, insert_cutout
from magic_insert.models.edit_unet import EditSampling, edit, load_edit_unet, noop
from magic_insert.models.pipeline import decode, encode, load_pipeline
from magic_insert.models.sampling import image_size
from magic_insert.paths import micro_dir

COLUMNS = ("effect dB", "subject dB", "elsewhere dB", "whole dB", "untouched %")


@dataclass(frozen=True)
class Oracle:
    """Draws the truth of its window at the model's size; the best an inserter can do before compositing."""

    pipe: Any
    truth: Float[Tensor, "3 H H"]
    name: str = "oracle"

    @property
    def provenance(self) -> Mapping[str, Any]:
        return {"inserter": self.name}

    def __call__(
        self,
        scene: Float[Tensor, "3 H H"],
        window: Float[Tensor, "3 H H"],
        mask: Float[Tensor, "1 H H"],
        *,
        seed: int,
        id: str,
        on_step: OnStep = no_step,
    ) -> Insertion:
        drawn, reference = (_round_trip(self.pipe, image) for image in (self.truth, window))
        return Insertion.measured(drawn, reference, mask, InserterConfig())


def _round_trip(pipe: Any, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 s s"]:
    size = image_size(pipe)
    return decode(pipe.vae, encode(pipe.vae, area_resize(image, size, size)[None]))[0]


def window_of(pair: Pair, composite: str) -> Region:
    """What a model is shown of the square picture of `pair`: all of it, or the subject's surroundings."""
    height, width = pair.mask.shape[-2:]
    if composite == "paper":
        return Region(0, 0, width)
    return region_around(bounding_box(pair.mask, FAINT), height, width)


def inserted(pipe: Any, pair: Pair, inserter: Any, composite: str) -> Float[Tensor, "3 H W"]:
    """The pair's own subject pasted in its own place and inserted."""
    placed = insert_cutout(
        Scene(pair.without, pair.id),
        Subject(pair.with_subject, pair.mask, pair.id),
        bounding_box(pair.mask, FAINT),
        inserter=inserter,
        composite=composite,
        draw=(0, pair.id),
    )
    return placed.final.rgb


def removed(
    pipe: Any, pair: Pair, draw: Callable[[Pair], tuple[Tensor, Tensor]], composite: str
) -> Float[Tensor, "3 H W"]:
    """The pair without its subject, from a remover's picture of the whole."""
    region = window_of(pair, composite)
    window, truth, hole = (region.crop(x) for x in (pair.with_subject, pair.without, pair.mask))
    output, reference = draw(Pair(pair.id, window, truth, hole))
    if composite == "paper":
        return resize(output, *pair.mask.shape[-2:])
    made, _ = fill_hole(window, hole, output, reference, grow=0.02, config=EffectConfig())
    return region.put_back(pair.with_subject, made)


def remover_draws(pipe: Any, unet: Any, steps: int) -> Callable[[Pair], tuple[Tensor, Tensor]]:
    """A remover, as a function of a window's pair."""

    def draw(pair: Pair) -> Insertion:
        size = image_size(pipe)
        small, hole = (area_resize(x, size, size)[None] for x in (pair.with_subject, pair.mask))
        how = EditSampling(0, [pair.id], steps)
        output = edit(pipe, unet, small, hole, how)[0]
        still = noop(pipe, unet, small, hole, how, reference="vae")[0]
        return output, still

    return draw


def oracle_removal(pipe: Any) -> Callable[[Pair], tuple[Tensor, Tensor]]:
    """A perfect remover at the model's size."""
    return lambda pair: (_round_trip(pipe, pair.without), _round_trip(pipe, pair.with_subject))


def compare(
    results: list[Tensor], truths: list[Tensor], sources: list[Tensor], pairs: list[Pair]
) -> dict[str, float | None]:
    """One row: decibels against the truth by region, and the share of pixels elsewhere that are the source's own."""
    made, truth, source = (torch.stack(x) for x in (results, truths, sources))
    mask = torch.stack([pair.mask for pair in pairs])
    effect = effect_of(
        torch.stack([p.with_subject for p in pairs]), torch.stack([p.without for p in pairs]), mask
    )
    subject = (mask > 0).float()
    elsewhere = (1 - effect) * (1 - subject)
    kept = ((made == source).all(dim=1, keepdim=True) * elsewhere).sum() / elsewhere.sum()
    regions = (effect, subject, elsewhere, torch.ones_like(mask))
    values = (*(psnr_pooled(region_sums(made, truth, region)) for region in regions), 100 * float(kept))
    return dict(zip(COLUMNS, values, strict=True))


def markdown(rows: Mapping[str, Mapping[str, float | None]]) -> str:
    """The table for docs/insertion.md."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for name, row in rows.items():
        cells = ["n/a" if (v := row[c]) is None else f"{v:.1f}" for c in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run(
    source: Path, work: Path, *, pairs: int, scale: int, style: str, steps: int, seed: int
) -> dict[str, dict[str, float | None]]:
    """All rows of the table; renders are kept in `work`."""
    size = int(read_json(source / "unet" / "config.json")["sample_size"]) * 8
    pipe = load_pipeline(ModelConfig(name="micro", source=str(source), image_size=size, device="cpu"))
    plan = PairsPlan(seed, pairs, scale * size, (style,), "heldout", 0.0)
    known = ToyboxPairs(render(Store(work), plan, workers=0), plan)
    loaded = [known.load(i) for i in range(pairs)]
    inserters = {
        name: build_inserter(InserterConfig(name, steps=steps), pipe, source / "inserter")
        for name in ("diffusion", "inpaint", "copy_paste")
    }
    ways: dict[str, Callable[[Pair, str], Tensor]] = {
        "insert, oracle": lambda p, c: inserted(
            pipe, p, Oracle(pipe, window_of(p, c).crop(p.with_subject)), c
        ),
        "insert, shipped": lambda p, c: inserted(pipe, p, inserters["diffusion"], c),
        "insert, inpaint": lambda p, c: inserted(pipe, p, inserters["inpaint"], c),
    }
    takes = {
        "remove, oracle": partial(removed, pipe, draw=oracle_removal(pipe)),
        "remove, shipped": partial(
            removed, pipe, draw=remover_draws(pipe, load_edit_unet(source / "remover"), steps)
        ),
    }
    with_subject, without = [p.with_subject for p in loaded], [p.without for p in loaded]
    rows = {
        "insert, copy-paste": compare(
            [inserted(pipe, p, inserters["copy_paste"], "effect_layer") for p in loaded],
            with_subject,
            without,
            loaded,
        )
    }
    for name, way in ways.items():
        for composite in ("effect_layer", "paper"):
            made = [way(p, composite) for p in loaded]
            rows[f"{name}, {composite}"] = compare(made, with_subject, without, loaded)
    rows["remove, nothing done"] = compare(with_subject, without, with_subject, loaded)
    for name, take in takes.items():
        for composite in ("effect_layer", "paper"):
            made = [take(p, composite=composite) for p in loaded]
            rows[f"{name}, {composite}"] = compare(made, without, with_subject, loaded)
    return rows


def main() -> None:
    """The command line of the bench."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--style", default="photo")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", type=Path, default=micro_dir())
    parser.add_argument("--work", type=Path, default=Path("runs/bench-composite"))
    parser.add_argument("--out", type=Path, default=Path("runs/bench-composite/table.json"))
    args = parser.parse_args()
    rows = run(
        args.source,
        args.work,
        pairs=args.pairs,
        scale=args.scale,
        style=args.style,
        steps=args.steps,
        seed=args.seed,
    )
    settings = {name: str(value) for name, value in vars(args).items() if name not in ("work", "out")}
    write_json(args.out, {"settings": settings, "rows": rows})
    Console(stderr=True).print(f"wrote {args.out}")
    print(markdown(rows))


if __name__ == "__main__":
    main()
