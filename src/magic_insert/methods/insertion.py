"""Magic Insert on one pair: stylise, cut, fit, paste, insert, and bring the new light home to the scene's own pixels.

The subject is already personalised (it lives in the stylizer). One call serves the job, the demo and the harness; every
draw is named by the seed, the stage and the pair, so a pair can be replayed alone.
Shape letters: H, W the scene's rows and columns, h, w the stylised picture's. Values are float32 in [0, 1].
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.compositing import area_resize, paste, region_around
from magic_insert.core.effect_layer import EffectConfig, apply_effect, measure_effect, upsample_effect
from magic_insert.core.records import Box, Composite, Scene, Subject
from magic_insert.methods.base import Inserter, Insertion, Stylizer

Cutter = Callable[[Float[Tensor, "3 h w"]], Subject]


@dataclass
class Stages:
    """The wall-clock seconds of each named stage, and a listener that is told when one begins."""

    announce: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times its body under `name`; a stage entered again adds up."""
        self.announce(name)
        began = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - began, 3)


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
) -> Inserted:
    """The personalised subject in `scene`, standing in `box`.

    Scene pixels outside the subject and its effect keep their values exactly.

    Raises:
        UserError: the box is not inside the scene, or nothing can be cut out of the stylised picture.
    """
    box.require_inside(*scene.size)
    with stages.stage("stylise"):
        stylised = stylizer(scene.rgb, seed=seed, id=pair_id)
    with stages.stage("segment"):
        subject = cut(stylised)
    with stages.stage("paste"):
        pasted = paste(scene, subject, box)
        region = region_around(box, *scene.size)
        below, above, alpha = (region.crop(image) for image in (scene.rgb, pasted.rgb, pasted.mask))
    with stages.stage("insert"):
        drawn = inserter(above, alpha, seed=seed, id=pair_id, on_step=on_step)
    with stages.stage("composite"):
        h, w = drawn.output.shape[-2:]
        coarse = measure_effect(drawn.output, drawn.reference, area_resize(alpha, h, w), effect)
        layer = upsample_effect(coarse, above, alpha, effect)
        rgb = region.put_back(pasted.rgb, apply_effect(below, above, alpha, layer))
        changed = region.put_back(torch.zeros_like(pasted.mask), layer.region.to(pasted.mask.dtype))
    provenance = {**pasted.provenance, **inserter.provenance, "box": [box.x, box.y, box.w, box.h]}
    provenance["window"] = [region.x, region.y, region.side]
    return Inserted(Composite(rgb, pasted.mask, provenance), stylised, subject, pasted, drawn, changed)
