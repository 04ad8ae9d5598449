"""Magic Insert on one pair: stylise, cut, fit, paste, insert, and bring the new light home to the scene's own pixels.

The subject is already personalised (it lives in the stylizer). One call serves the job, the demo and the harness; every
draw is named by the seed, the stage and the pair, so a pair can be replayed alone.
Shape letters: H, W the scene's rows and columns, h, w the stylised picture's. Values are float32 in [0, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from magic_insert.core.effect_layer import EffectConfig
from magic_insert.core.records import Box, Composite, Scene, Subject
from magic_insert.methods.base import Inserter, Insertion, Stylizer
from magic_insert.methods.placing import place
from magic_insert.methods.stages import Stages

__all__ = ["Cutter", "Inserted", "Stages", "insert_subject"]

Cutter = Callable[[Float[Tensor, "3 h w"]], Subject]


@dataclass(frozen=True)
class Inserted:
    """The finished picture and what it was made of, for the page, the sidecar and the metrics."""

    final: Composite
    stylised: Float[Tensor, "3 h w"]
    cut: Subject
    pasted: Composite
    drawn: Insertion
    effect: Float[Tensor, "1 H W"]  # 1 where the scene's own pixels were changed


def insert_subject(
    scene: Scene,
    box: Box,
    *,
    stylizer: Stylizer,
    cut: Cutter,
    inserter: Inserter,
    effect: EffectConfig,
    seed: int,
    pair_id: str,
    stages: Stages,
    on_step: Callable[[int], None],
    style_text: str = "",
    composite: str = "effect_layer",
) -> Inserted:
    """The personalised subject in `scene`, standing in `box`.

    Scene pixels outside the subject and its effect keep their values exactly, unless `composite` is "paper".

    Raises:
        UserError: the box is not inside the scene, or nothing can be cut out of the stylised picture.
    """
    box.require_inside(*scene.size)
    with stages.stage("stylise"):
        stylised = stylizer(scene.rgb, seed=seed, id=pair_id, style_text=style_text)
    with stages.stage("segment"):
        subject = cut(stylised)
    placed = place(
        scene,
        subject,
        box,
        inserter=inserter,
        effect=effect,
        composite=composite,
        seed=seed,
        id=pair_id,
        stages=stages,
        on_step=on_step,
    )
    return Inserted(placed.final, stylised, subject, placed.pasted, placed.drawn, placed.effect)
