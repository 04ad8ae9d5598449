"""A look at the subject while it is learned: samples at fixed seeds, scores, and the product of that step.

Every look writes `samples/step-K.png` (one row per seed; the subject, the plain prompt, its edits, and the plain
prompt in another style), a row in `validation.jsonl`, and `steps/K/` with a product that every job of ours can load.
Source of the question asked: Magic Insert (arXiv 2407.02489), fidelity against editability over training length.

Shape letters: S side in pixels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema import PersonalizationConfig
from magic_insert.core.images import contact_sheet, save_png
from magic_insert.core.jsonl import append_jsonl, read_jsonl, write_json
from magic_insert.core.rand import fold_in
from magic_insert.data.subject_files import CARD_FILE
from magic_insert.models.sampling import sample
from magic_insert.models.style import has_adapter, listening, style_embeds
from magic_insert.tracking import Tracker
from magic_insert.training.personalize_module import PersonalizeModule
from magic_insert.training.sample_scores import SampleScorer
from magic_insert.training.stopping import StopRequest
from magic_insert.training.trainables import Trainables
from magic_insert.training.view_cache import vae_on

ROWS_FILE = "validation.jsonl"
BATCH = 4


def step_folder(out: Path, step: int) -> Path:
    """Where the product of `step` is kept."""
    return out / "steps" / f"{step:06d}"


class Validation:
    """Looks at a run in `out` every `cfg.validation.every` steps and at its last one."""

    def __init__(
        self,
        pipe: Any,
        cfg: PersonalizationConfig,
        *,
        words: str,
        picture: Float[Tensor, "3 S S"],
        style_picture: Float[Tensor, "3 _ _"],
        scorer: SampleScorer | None,
        seed: int,
        out: Path,
        facts: Mapping[str, Any],
    ) -> None:
        """Args:
        pipe: the pipeline in training.
        cfg: how it is trained and looked at.
        words: the training prompt with the learned words.
        picture: the subject as it is trained on, for the sheet.
        style_picture: what the last column hears.
        scorer: judges the samples; None for no scores.
        seed: root of the samples' seeds.
        out: run folder.
        facts: what the card of every saved step says besides the step: how to use the product and how it came about.
        """
        self.pipe, self.cfg, self.picture, self.out = pipe, cfg, picture, out
        self.style_picture, self.scorer, self.words, self.facts = style_picture, scorer, words, facts
        phrase = words.rstrip().rstrip(".")
        self.prompts = [words, *(f"{phrase} {edit.strip()}." for edit in cfg.validation.edits)]
        self.seeds = [fold_in(seed, "look", i) for i in range(cfg.validation.seeds)]

    def due(self, step: int) -> bool:
        """Whether there is a look after update `step`."""
        return step % self.cfg.validation.every == 0 or step == self.cfg.steps

    def rows(self) -> dict[int, dict[str, Any]]:
        """What was found so far, by step."""
        file = self.out / ROWS_FILE
        found = read_jsonl(file) if file.is_file() else []
        return {row["step"]: row for row in sorted(found, key=lambda row: row["step"])}

    def has(self, step: int) -> bool:
        """Whether `step` was looked at."""
        return step in self.rows()

    def look_if_due(self, step: int, module: PersonalizeModule, tracker: Tracker, stop: StopRequest) -> None:
        """Looks at the run after update `step` if it is time and was not done yet; scores go to `tracker` too."""
        if not self.due(step) or self.has(step):
            return
        with module.product():
            found = self.look(step, module.trainables, stop)
        if scores := {name: value for name, value in found.items() if name != "step"}:
            tracker.log(step, scores)

    def look(self, step: int, trainables: Trainables, stop: StopRequest) -> dict[str, Any]:
        """Draws, judges and saves what the run would produce if it ended after update `step`."""
        plain, edits, styled = self._draw(stop)
        columns = ["subject", "plain", *self.cfg.validation.edits]
        rows = []
        for i in range(len(self.seeds)):
            row = [self.picture, plain[i], *(edit[i] for edit in edits)]
            rows.append([*row, styled[i]] if styled is not None else row)
        if styled is not None:
            columns.append("styled")
        save_png(self.out / "samples" / f"step-{step:06d}.png", contact_sheet(rows, None, columns))
        found: dict[str, Any] = {"step": step}
        if self.scorer is not None:
            found.update(self.scorer.scores(plain, edits))
        place = step_folder(self.out, step)
        trainables.save(place)
        write_json(place / CARD_FILE, {**self.facts, "steps": step, "scores": [found]})
        append_jsonl(self.out / ROWS_FILE, found)
        return found

    def _draw(self, stop: StopRequest) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Samples of the plain prompt, of each edit, and of the plain prompt in another style (with an adapter)."""
        validation = self.cfg.validation
        device = self.pipe.unet.device
        with vae_on(self.pipe, device), torch.no_grad():
            sets = [self._sample(prompt, stop) for prompt in self.prompts]
            if not has_adapter(self.pipe):
                return sets[0], sets[1:], None
            with listening(self.pipe, validation.style_blocks, 1.0):
                style = style_embeds(self.pipe, [self.style_picture])
                styled = self._sample(self.words, stop, style)
        return sets[0], sets[1:], styled

    def _sample(self, prompt: str, stop: StopRequest, style: Any = None) -> Float[Tensor, "B 3 S S"]:
        pictures = []
        for start in range(0, len(self.seeds), BATCH):
            stop.obey()  # the checkpoint of this step is written
            seeds = self.seeds[start : start + BATCH]
            drawn = sample(
                self.pipe,
                [prompt] * len(seeds),
                seeds,
                steps=self.cfg.validation.steps,
                guidance=self.cfg.validation.guidance,
                style=style,
            )
            pictures.append(drawn.cpu())
        return torch.cat(pictures)
