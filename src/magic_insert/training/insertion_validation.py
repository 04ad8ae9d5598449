"""What a remover or inserter does on pairs it was not trained on: decibels inside the true effect, and pictures.

The effect is what the subject changed outside its own mask by more than the Toybox's step; in photographs that were not
taken with one exposure it also holds their noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.fidelity import effect_of, psnr_pooled, region_sums
from magic_insert.core.images import contact_sheet, save_png
from magic_insert.data.pairs import PairSet
from magic_insert.models.edit_unet import edit
from magic_insert.models.sampling import image_size
from magic_insert.training.insertion import Task
from magic_insert.training.insertion_data import ViewConfig, view_of

TOGETHER = 8  # pictures drawn at once
SHOWN = 8


@dataclass(frozen=True)
class Drawn:
    """Held-out pictures B 3 H W of one task: what went in, what came out, the truth; mask and true effect B 1 H W."""

    condition: Float[Tensor, "B 3 H W"]
    output: Float[Tensor, "B 3 H W"]
    truth: Float[Tensor, "B 3 H W"]
    mask: Float[Tensor, "B 1 H W"]
    effect: Float[Tensor, "B 1 H W"]

    def numbers(self, rows: Sequence[int] | None = None) -> dict[str, float]:
        """Decibels of all rows, or of some: in the effect, in the subject's place, elsewhere; doing nothing beside it.

        A region that is empty has no number.
        """
        chosen = list(range(len(self.output))) if rows is None else list(rows)
        output, truth, condition = (x[chosen] for x in (self.output, self.truth, self.condition))
        effect, subject = self.effect[chosen], (self.mask[chosen] > 0.5).to(output.dtype)
        values = {
            "effect_psnr": region_sums(output, truth, effect),
            "effect_psnr_nothing": region_sums(condition, truth, effect),
            "subject_psnr": region_sums(output, truth, subject),
            "rest_psnr": region_sums(output, truth, (1 - effect) * (self.mask[chosen] <= 0)),
        }
        pooled = {name: psnr_pooled(sums) for name, sums in values.items()}
        return {name: round(value, 3) for name, value in pooled.items() if value is not None}


def draw_held_out(
    pipe: Any, unet: Any, pairs: PairSet, task: Task, config: ViewConfig, *, steps: int, seed: int
) -> Drawn:
    """Every pair of `pairs`, drawn by `unet`; pair i does not depend on the others."""
    views = [view_of(pairs.load(i), 0, image_size(pipe), config) for i in range(len(pairs.ids))]
    with_subject, without, pasted, mask = (
        torch.stack([getattr(view, name) for view in views])
        for name in ("with_subject", "without", "pasted", "mask")
    )
    condition, truth = (with_subject, without) if task == "remove" else (pasted, with_subject)
    device = unet.device
    output = [
        edit(
            pipe,
            unet,
            condition[i : i + TOGETHER].to(device),
            mask[i : i + TOGETHER].to(device),
            seed=seed,
            ids=list(pairs.ids[i : i + TOGETHER]),
            steps=steps,
        ).cpu()
        for i in range(0, len(views), TOGETHER)
    ]
    return Drawn(condition, torch.cat(output), truth, mask, effect_of(with_subject, without, mask))


def save_sheet(path: Path, drawn: Drawn, ids: Sequence[str]) -> None:
    """Condition, output, truth and effect of the first pairs, a row each."""
    rows = [
        [drawn.condition[i], drawn.output[i], drawn.truth[i], drawn.effect[i].expand(3, -1, -1)]
        for i in range(min(SHOWN, len(ids)))
    ]
    save_png(path, contact_sheet(rows, list(ids[:SHOWN]), ["input", "output", "truth", "effect"]))
