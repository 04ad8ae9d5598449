"""Fits the relighting network to the drawings that the effect network learns from.

The subject is lit by its own picture, the truth by the scene. What the effect network reads of the scene's light is
part of the input, so that network comes first and stays as it is; a share of the rows is told the true sun. Only what
lies well inside the subject counts.

Shape letters: B rows of a batch, H, W its pictures, h, w half of them. Everything is float32 in [0, 1].
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from magic_insert.core.effect_layer import in_shade
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.rand import Dice, fold_in
from magic_insert.models.effect_net import SIDE, EffectNet, hedged, predict
from magic_insert.models.relight_net import RelightNet, predict_shade
from magic_insert.paths import relight_weights
from magic_insert.training.effect import (
    TOLD,
    Batch,
    Drawings,
    EffectFit,
    LightModule,
    as_batch,
    drawn_in_use,
    fit_light,
    framed,
    looked,
    shaded,
    textured,
)

SCENE_LIT, SHADED = 0.12, 0.35  # shares of rows: whose subject keeps the scene's light; under a made-up one
SOLID = 0.9  # coverage from which a cell of the gain is judged
FEWEST = 20  # cells that a subject counts as at least
WHOLE, BROAD, PLAIN = 20.0, 10.0, 0.01  # weights: of every cell, of the mean colour, of no gain at all


@dataclass(frozen=True)
class RelightFit(EffectFit):
    """How the network is fitted; `effect`: digest of the effect network that reads the light."""

    effect: str = ""


class RelightModule(LightModule):
    """The relighting network, the effect network whose reading it takes, and its loss."""

    def __init__(self, net: RelightNet, effect: EffectNet, settings: RelightFit) -> None:
        super().__init__(net, settings, weight_decay=0.05)
        self.effect = effect.requires_grad_(False)

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        seed = fold_in(self.seed, "relight looks", batch["step"])
        dice = Dice(torch.Generator(self.device).manual_seed(seed))
        with torch.autocast(self.device.type, enabled=False):
            shown = relight_rows(as_batch(batch["pictures"], batch["suns"]), dice)
        given = dice.chance(len(shown.scene), TOLD).view(-1) * shown.known
        with torch.no_grad():
            found = self.effect(shown.scene, shown.pasted, shown.mask, shown.sun, given)
            found = replace(
                hedged(found, shown.mask), sun=torch.where(given[:, None] > 0, shown.sun, found.sun)
            )
        parts = relight_loss(self.net(shown.scene, shown.pasted, shown.mask, found), shown)
        loss = torch.stack(list(parts.values())).sum()
        self.log_dict({"loss": loss, **parts}, batch_size=len(shown.scene))
        return loss


def fit_relight(
    settings: RelightFit,
    folder: Path,
    drawings: Drawings,
    effect: EffectNet,
    *,
    device: str,
    log: Callable[[int, Mapping[str, float]], None] | None = None,
    on_step: OnStep = no_step,
) -> Path:
    """Trains the network and writes `relight.safetensors` and `card.json` into `folder`; the path of the weights.

    Raises:
        UserError: the folder holds another fit.
    """
    with torch.random.fork_rng():
        torch.manual_seed(fold_in(settings.seed, "relight start") % 2**32)
        net = RelightNet()
    module = RelightModule(net.train(), effect, settings)
    product = folder / relight_weights().name
    return fit_light(module, settings, product, drawings, device=device, log=log, on_step=on_step)


def relight_rows(batch: Batch, dice: Dice) -> Batch:
    """A batch as it is trained on: in a window, some subjects in the scene's light or a made-up one, under a look."""
    rows = len(batch.scene)
    batch = framed(batch, dice, SIDE)
    batch = batch._replace(own=torch.where(dice.chance(rows, SCENE_LIT) > 0, batch.truth, batch.own))
    other, made_up = shaded(batch, dice), dice.chance(rows, SHADED) > 0
    batch = batch._replace(
        own=torch.where(made_up, other.own, batch.own), mask=torch.where(made_up, other.mask, batch.mask)
    )
    return looked(textured(batch, dice), dice)


def relight_loss(log_gain: Float[Tensor, "B 1 h w"], batch: Batch) -> dict[str, Tensor]:
    """The parts of the loss, on pictures reduced to the size of the gain."""
    own, truth, mask = (functional.avg_pool2d(x, 2) for x in (batch.own, batch.truth, batch.mask))
    solid = (mask > SOLID).to(own.dtype)
    cells = solid.sum((1, 2, 3)).clamp_min(FEWEST)[:, None]
    error = (own * torch.exp(log_gain) - truth) * solid
    return {
        "whole": WHOLE * (error.square().sum((2, 3)) / cells).mean(),
        "broad": BROAD * (error.sum((2, 3)) / cells).square().mean(),
        "plain": PLAIN * log_gain.square().mean(),
    }


def draw_relit(net: RelightNet, effect: EffectNet, drawings: Drawings) -> tuple[Batch, Tensor]:
    """All drawings, and the true pictures with their subject as shaded from its own light: B 3 H W."""

    def draw(batch: Batch) -> Tensor:
        found = predict(effect, batch.scene, batch.pasted, batch.mask)
        shade = predict_shade(net, batch.scene, batch.pasted, batch.mask, found)
        large = functional.interpolate(shade, (SIDE, SIDE), mode="bilinear")
        lit = torch.stack([in_shade(*row) for row in zip(batch.own, large, strict=True)])
        return batch.mask * lit + (1 - batch.mask) * batch.truth

    return drawn_in_use(drawings, draw)
