"""Samples of a subject while it is learned: pictures at fixed seeds, scores, and the product of that step.

Every validation writes `samples/step-K.png` (one row per seed; the subject, the plain prompt, its edits, and the plain
prompt in another style), a row in `validation.jsonl`, and `steps/K/` with a product that every job of ours can load.
Source of the question asked: Magic Insert (arXiv 2407.02489), fidelity against editability over training length; a pose
edit survives to about 1500 steps there and is lost after, which the paper shows in pictures and not in numbers.

Two scorers: `model`, the CLIP inside the pipeline (its image encoder and second text encoder share one space, in
SDXL's adapter as in the micro model), and `micro`, the shipped metric encoders. Values are cosines. A scorer is made
before any LoRA is, so that it does not change while the model learns.

Shape letters: B pictures, S side in pixels, D embedding dimensions, T texts.
"""

import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas
import torch
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from magic_insert.config.schema.training import PersonalizationConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import contact_sheet, load_rgb, save_png
from magic_insert.core.jsonl import append_jsonl, read_jsonl, write_bytes, write_json, write_text
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Subject
from magic_insert.data.subject_files import CARD_FILE
from magic_insert.data.subject_images import place
from magic_insert.models.encoders.micro import load_encoders
from magic_insert.models.ip_adapter import adapter_at, has_adapter, picture_rows, style_embeds, text_rows
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.pipeline import parts_on
from magic_insert.models.sampling import image_size, sample
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.models.text import LearnedTokens
from magic_insert.paths import micro_dir
from magic_insert.toybox.scenes import sample_scene, scene_world
from magic_insert.toybox.styles import draw
from magic_insert.toybox.tracer import trace
from magic_insert.tracking import Tracker
from magic_insert.training.checkpoint import StopRequest
from magic_insert.training.personalize_module import UNTRAINED, Trainables

ROWS_FILE = "validation.jsonl"
BATCH = 4
STYLE, STYLE_SEED, STYLE_SIZE = "watercolour", 4, 128
CURVE = "curve"
COLUMNS = ("step", "identity", "prompt")
Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SampleScorer:
    """Judges samples against one subject (B D) and the texts of the edits (T D); all embeddings are unit rows."""

    identity: Embed
    clip_image: Embed
    subject: Tensor
    texts: Tensor | None

    def scores(self, plain: Float[Tensor, "B 3 S S"], edits: Sequence[Tensor]) -> dict[str, float]:
        """`identity`: mean cosine of plain samples and subject; `prompt`: of edited samples and their texts."""
        found = {"identity": float((self.identity(plain) @ self.subject.T).mean())}
        if self.texts is not None:
            rows = [self.clip_image(edit) @ text for edit, text in zip(edits, self.texts, strict=True)]
            found["prompt"] = float(torch.stack(rows).mean())
        return found


def step_folder(out: Path, step: int) -> Path:
    """Where the product of `step` is kept."""
    return out / "steps" / f"{step:06d}"


class SampleValidation:
    """Validates a run in `out` every `cfg.validation.every` steps and at its last one (a `trainer.Validation`).

    Made while `pipe` carries no LoRA yet. `facts`: what the card of every saved step records besides the step: how to
    use the product and how it came about.

    Raises:
        UserError: the style picture cannot be read, or the scorer does not fit the model.
    """

    def __init__(
        self,
        pipe: Any,
        subjects: Sequence[Subject],
        tokens: LearnedTokens,
        cfg: PersonalizationConfig,
        *,
        seed: int,
        out: Path,
        facts: Mapping[str, Any],
    ) -> None:
        asked = cfg.validation
        self.pipe, self.cfg, self.out, self.facts = pipe, cfg, out, facts
        pictures = torch.stack([place(subject, image_size(pipe))[0] for subject in subjects])
        self.picture = pictures[0]
        self.style_picture = toybox_style() if asked.style is None else load_rgb(asked.style)
        texts = edit_texts(cfg.class_noun, asked.edits, toys=asked.scorer == "micro")
        self.scorer = build_scorer(asked.scorer, pipe, pictures, texts)
        words = tokens.text(cfg.prompt)
        phrase = words.rstrip().rstrip(".")
        self.prompts = [words, *(f"{phrase} {edit.strip()}." for edit in asked.edits)]
        self.seeds = [fold_in(seed, "look", i) for i in range(asked.seeds)]

    def begin(self, trainables: Trainables, tracker: Tracker) -> None:
        """From here on `run` saves `trainables`, and scores go to `tracker`."""
        self.trainables, self.tracker = trainables, tracker

    def rows(self) -> dict[int, dict[str, Any]]:
        """What was found so far, by step."""
        file = self.out / ROWS_FILE
        found = read_jsonl(file) if file.is_file() else []
        return {row["step"]: row for row in sorted(found, key=lambda row: row["step"])}

    def due(self, step: int) -> bool:
        """Whether there is a validation after update `step` that was not done yet."""
        every, last = self.cfg.validation.every, self.cfg.steps
        timely = step == last or (step > 0 and step % every == 0)
        return timely and step not in self.rows()

    def run(self, step: int, stop: StopRequest) -> None:
        """Draws, judges and saves what the run would produce if it ended after update `step`."""
        with parts_on(self.pipe, self.pipe.unet.device, UNTRAINED), torch.no_grad():
            plain, edits, styled = self._draw(stop)
            scores = {} if self.scorer is None else self.scorer.scores(plain, edits)
        columns = ["subject", "plain", *self.cfg.validation.edits]
        rows = []
        for i in range(len(self.seeds)):
            row = [self.picture, plain[i], *(edit[i] for edit in edits)]
            rows.append([*row, styled[i]] if styled is not None else row)
        if styled is not None:
            columns.append("styled")
        save_png(self.out / "samples" / f"step-{step:06d}.png", contact_sheet(rows, None, columns))
        found = {"step": step, **scores}
        home = step_folder(self.out, step)
        self.trainables.save(home)
        write_json(home / CARD_FILE, {**self.facts, "steps": step, "scores": [found]})
        append_jsonl(self.out / ROWS_FILE, found)
        if scores:
            self.tracker.log(step, scores)
        self._clear()

    def _clear(self) -> None:
        """Removes the saved steps that `keep` does not want; the best one so far stays where it is to be picked."""
        asked = self.cfg.validation
        if not asked.keep:
            return
        steps = sorted(path for path in (self.out / "steps").iterdir() if path.is_dir())
        kept = set(steps[-asked.keep :])
        if asked.pick == "best":
            kept.add(step_folder(self.out, pick_best(list(self.rows().values()), asked.tolerance)))
        for path in steps:
            if path not in kept:
                shutil.rmtree(path)

    def finish(self) -> dict[str, Any]:
        """Draws the curve and puts the picked step's files in the place of the last one's; what goes into the card."""
        asked, rows = self.cfg.validation, list(self.rows().values())
        scored = [row for row in rows if "identity" in row and "prompt" in row]
        if scored:
            write_curve(self.out, scored)
        step = pick_best(scored, asked.tolerance) if asked.pick == "best" else self.cfg.steps
        for name in (LORA_FILE, TOKENS_FILE):
            write_bytes(self.out / name, (step_folder(self.out, step) / name).read_bytes())
        return {"picked_step": step, "scores": rows}

    def _draw(self, stop: StopRequest) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Samples of the plain prompt, of each edit, and of the plain prompt in another style (with an adapter)."""
        validation = self.cfg.validation
        sets = [self._sample(prompt, stop) for prompt in self.prompts]
        if not has_adapter(self.pipe):
            return sets[0], sets[1:], None
        with adapter_at(self.pipe, validation.style_blocks, 1.0):
            style = style_embeds(self.pipe, [self.style_picture])
            styled = self._sample(self.prompts[0], stop, style)
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


def toybox_style() -> Float[Tensor, "3 S S"]:
    """A small landscape in watercolour: a style that no photograph has."""
    buffer = trace([scene_world(sample_scene(STYLE_SEED))], STYLE_SIZE)
    return draw(buffer, [STYLE], [0.5], [STYLE_SEED])[0]


def edit_texts(noun: str, edits: Sequence[str], *, toys: bool) -> list[str]:
    """What an edited sample should look like, in words that a judge knows; without a noun of a thing the edit alone.

    `toys`: the judge is of the Toybox, where every subject is a toy.
    """
    thing = noun.strip() or ("toy" if toys else "")
    return [f"a {thing} {edit.strip()}" if thing else edit.strip() for edit in edits]


@torch.no_grad()
def build_scorer(
    name: str, pipe: Any, subject: Float[Tensor, "B 3 S S"], texts: Sequence[str]
) -> SampleScorer | None:
    """The judge called `name` (personalization.validation.scorer); None for `none`.

    Raises:
        UserError: `model`, and the pipeline has no image encoder that shares a space with its second text encoder.
    """
    if name == "none":
        return None
    device = pipe.unet.device
    identity: Embed
    clip: Embed
    if name == "micro":
        encoders = load_encoders(micro_dir() / "encoders", device)
        identity, clip = encoders["identity"].embed_images, encoders["clip"].embed_images
        words = encoders["clip"].embed_texts
    else:
        if (
            pipe.image_encoder is None
            or pipe.image_encoder.config.projection_dim != pipe.text_encoder_2.config.projection_dim
        ):
            raise UserError(
                "expected a model whose image encoder shares a space with its second text encoder, got none; "
                "set personalization.validation.scorer=none"
            )

        def own_clip(images: Tensor) -> Tensor:
            return picture_rows(style_embeds(pipe, list(images), how="pad"))

        identity, clip, words = own_clip, own_clip, partial(text_rows, pipe)

    def on_device(embed: Embed) -> Embed:
        return lambda images: embed(images.to(device)).cpu()

    return SampleScorer(
        on_device(identity),
        on_device(clip),
        subject=on_device(identity)(subject),
        texts=words(list(texts)).cpu() if texts else None,
    )


def pick_best(rows: Sequence[Mapping[str, Any]], tolerance: float) -> int:
    """The step of the highest identity among those whose prompt score is at least (1 - tolerance) of the best one.

    Ties go to the earlier step. A best prompt score below 0 allows nothing but itself.
    """
    assert rows
    best = max(row["prompt"] for row in rows)
    floor = best - tolerance * abs(best) if best > 0 else best
    obedient = [row for row in rows if row["prompt"] >= floor]
    return int(max(obedient, key=lambda row: (row["identity"], -row["step"]))["step"])


def write_curve(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes `curve.csv` (step, identity, prompt) and `curve.png` (prompt fit across, identity up, steps as labels)."""
    table = pandas.DataFrame(rows).reindex(columns=list(COLUMNS))
    write_text(out / f"{CURVE}.csv", table.to_csv(index=False, lineterminator="\n"))
    figure = Figure(figsize=(5, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    across, up = [row["prompt"] for row in rows], [row["identity"] for row in rows]
    axes.plot(across, up, marker="o")
    for row in rows:
        axes.annotate(
            str(row["step"]), (row["prompt"], row["identity"]), textcoords="offset points", xytext=(4, 4)
        )
    axes.set_xlabel("editability: fit of edited samples to their text")
    axes.set_ylabel("fidelity: identity with the subject")
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture, metadata={"Software": None})
    write_bytes(out / f"{CURVE}.png", picture.getvalue())
