"""ToyPlop as a benchmark: held-out Toybox subjects for held-out scenes, every answer known and rendered on demand."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from magic_insert.config.schema import BenchmarkConfig
from magic_insert.core.fidelity import effect_of
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Subject
from magic_insert.data.benchmarks import BenchBackground, BenchSubject, Truth, article
from magic_insert.toybox.benchmark import COMPLEXITY, toyplop_pair, toyplop_scenes, toyplop_subjects
from magic_insert.toybox.captions import caption, style_phrase
from magic_insert.toybox.world import render_subjects

VERSION = 1  # of the pictures: raised when the Toybox draws the same specs differently


class ToyPlop:
    """The split `mini` (5 x 4) or `full` (35 x 20) at `size` pixels."""

    has_truth = True
    deviations: Sequence[str] = ()

    def __init__(self, cfg: BenchmarkConfig) -> None:
        self.split, self.size = cfg.split, cfg.size
        self.name = f"toyplop {cfg.split}"
        # The first so many should differ: bunny-01, bird-01, ... come before bunny-02.
        named = sorted(toyplop_subjects(cfg.split), key=lambda item: item[0].rpartition("-")[2])
        self.specs = dict(named)
        self.scenes = {scene[0]: scene for scene in toyplop_scenes(cfg.split)}
        self.subjects: Sequence[BenchSubject] = [
            BenchSubject(name, f"{article(spec.template)} {spec.template}", caption(spec))
            for name, spec in named
        ]
        self.backgrounds: Sequence[BenchBackground] = [
            BenchBackground(name, style, style_phrase(style)) for name, _, style in self.scenes.values()
        ]

    @property
    def whole(self) -> tuple[int, int]:
        """The split's own size."""
        return len(self.subjects), len(self.backgrounds)

    @property
    def contents(self) -> Any:
        """Specs of every subject and scene, how they are drawn, and every text that prompts and encoders are given."""
        scenes = [[name, asdict(spec), style] for name, spec, style in self.scenes.values()]
        subjects = [[name, asdict(spec)] for name, spec in self.specs.items()]
        texts = [[s.id, s.simple, s.detailed] for s in self.subjects]
        texts += [[b.id, b.style_text] for b in self.backgrounds]
        return [VERSION, self.size, subjects, scenes, texts]

    def subject(self, name: str) -> Subject:
        """The subject alone, as a photograph."""
        seed = fold_in(0, "toyplop", name)
        alone = render_subjects([self.specs[name]], ["photo"], [COMPLEXITY], [seed], self.size)
        return Subject(alone.rgb[0], alone.alpha[0], name)

    def background(self, name: str) -> torch.Tensor:
        """The scene without a subject: it is the same whoever will stand there."""
        first = next(iter(self.specs))
        return toyplop_pair((first, self.specs[first]), self.scenes[name], self.size).background

    def truth(self, subject: str, background: str) -> Truth:
        """The rendered answer."""
        made = toyplop_pair((subject, self.specs[subject]), self.scenes[background], self.size)
        # Methods hand in eight-bit pictures: an effect is what can be seen in such a picture.
        composite, alone, mask = map(_eight_bit, (made.with_subject, made.background, made.mask))
        effect = effect_of(composite[None], alone[None], mask[None])[0]
        return Truth(made.subject_styled, composite, mask, effect)


def _eight_bit(image: torch.Tensor) -> torch.Tensor:
    """The picture as its file will hold it."""
    return (image * 255).round() / 255
