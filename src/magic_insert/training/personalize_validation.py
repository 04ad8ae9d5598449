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

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from magic_insert.config.schema.training import PersonalizationConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import contact_sheet, load_rgb, save_png
from magic_insert.core.jsonl import append_jsonl, read_jsonl, write_bytes, write_json, write_text
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Subject
from magic_insert.data.subject_files import CARD_FILE
from magic_insert.data.subject_images import place
from magic_insert.models.encoders import load_encoders
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.sampling import image_size, sample
from magic_insert.models.style import has_adapter, listening, style_embeds
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.models.text import LearnedTokens
from magic_insert.paths import micro_dir
from magic_insert.toybox.scenes import sample_scene, scene_world
from magic_insert.toybox.styles import draw
from magic_insert.toybox.tracer import trace
from magic_insert.tracking import Tracker
from magic_insert.training.checkpoint import StopRequest
from magic_insert.training.personalize_module import Trainables
from magic_insert.training.subject_views import vae_on

ROWS_FILE = "validation.jsonl"
BATCH = 4
STYLE, STYLE_SEED, STYLE_SIZE = "watercolour", 4, 128
CURVE = "curve"
COLUMNS = ("step", "identity", "prompt")
Embed = Callable[[Tensor], Tensor]


class SampleScorer:
    """Judges samples against one subject and a list of edit texts; all embeddings are unit rows."""

    def __init__(
        self,
        *,
        subject: Float[Tensor, "B 3 S S"],
        texts: Sequence[str],
        identity: Embed,
        clip_image: Embed,
        clip_text: Callable[[list[str]], Tensor],
    ) -> None:
        self.identity, self.clip_image = identity, clip_image
        self.subject = identity(subject)
        self.texts = clip_text(list(texts)) if texts else None

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
    """Validates a run in `out` every `cfg.validation.every` steps and at its last one (a `trainer.Validation`)."""

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
        cfg: how it is trained and validated.
        words: the training prompt with the learned words.
        picture: the subject as it is trained on, for the sheet.
        style_picture: the style of the last column.
        scorer: judges the samples; None for no scores.
        seed: root of the samples' seeds.
        out: run folder.
        facts: what the card of every saved step records besides the step: how to use the product and how it came about.
        """
        self.pipe, self.cfg, self.picture, self.out = pipe, cfg, picture, out
        self.style_picture, self.scorer, self.words, self.facts = style_picture, scorer, words, facts
        phrase = words.rstrip().rstrip(".")
        self.prompts = [words, *(f"{phrase} {edit.strip()}." for edit in cfg.validation.edits)]
        self.seeds = [fold_in(seed, "look", i) for i in range(cfg.validation.seeds)]

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
        plain, edits, styled = self._draw(stop)
        columns = ["subject", "plain", *self.cfg.validation.edits]
        rows = []
        for i in range(len(self.seeds)):
            row = [self.picture, plain[i], *(edit[i] for edit in edits)]
            rows.append([*row, styled[i]] if styled is not None else row)
        if styled is not None:
            columns.append("styled")
        save_png(self.out / "samples" / f"step-{step:06d}.png", contact_sheet(rows, None, columns))
        scores = {} if self.scorer is None else self.scorer.scores(plain, edits)
        found = {"step": step, **scores}
        home = step_folder(self.out, step)
        self.trainables.save(home)
        write_json(home / CARD_FILE, {**self.facts, "steps": step, "scores": [found]})
        append_jsonl(self.out / ROWS_FILE, found)
        if scores:
            self.tracker.log(step, scores)

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


def toybox_style() -> Float[Tensor, "3 S S"]:
    """A small landscape in watercolour: a style that no photograph has."""
    buffer = trace([scene_world(sample_scene(STYLE_SEED))], STYLE_SIZE)
    return draw(buffer, [STYLE], [0.5], [STYLE_SEED])[0]


def open_validation(
    pipe: Any,
    subjects: Sequence[Subject],
    tokens: LearnedTokens,
    cfg: PersonalizationConfig,
    *,
    seed: int,
    out: Path,
    facts: Mapping[str, Any],
) -> SampleValidation | None:
    """The validation of a run as `cfg.validation` asks for it; None for none. `pipe` carries no LoRA yet.

    The card of every saved step will hold `facts`.

    Raises:
        UserError: the style picture cannot be read, or the scorer does not fit the model.
    """
    asked = cfg.validation
    if not asked.every:
        return None
    pictures = torch.stack([place(subject, image_size(pipe))[0] for subject in subjects])
    return SampleValidation(
        pipe,
        cfg,
        words=tokens.text(cfg.prompt),
        picture=pictures[0],
        style_picture=toybox_style() if asked.style is None else load_rgb(asked.style),
        scorer=build_scorer(asked.scorer, pipe, pictures, edit_texts(cfg.class_noun, asked.edits)),
        seed=seed,
        out=out,
        facts=facts,
    )


def edit_texts(noun: str, edits: Sequence[str]) -> list[str]:
    """What an edited sample should look like, in words that a judge knows."""
    return [f"a {noun.strip() or 'toy'} {edit.strip()}" for edit in edits]


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
    if name == "micro":
        encoders = load_encoders(micro_dir() / "encoders", pipe.unet.device)
        device = pipe.unet.device

        def on_device(embed: Embed) -> Embed:
            return lambda images: embed(images.to(device)).cpu()

        return SampleScorer(
            subject=subject,
            texts=texts,
            identity=on_device(encoders["identity"].embed_images),
            clip_image=on_device(encoders["clip"].embed_images),
            clip_text=lambda words: encoders["clip"].embed_texts(words).cpu(),
        )
    width = pipe.text_encoder_2.config.projection_dim
    if pipe.image_encoder is None or pipe.image_encoder.config.projection_dim != width:
        raise UserError(
            "expected a model whose image encoder shares a space with its second text encoder, got none; "
            "set personalization.validation.scorer=none"
        )

    def embed_images(images: Tensor) -> Tensor:
        with torch.no_grad():
            positive = style_embeds(pipe, list(images), how="pad").positive
        rows = positive.flatten(1)
        return functional.normalize(rows.float(), dim=-1).cpu()

    def embed_texts(words: list[str]) -> Tensor:
        tokenizer = pipe.tokenizer_2
        ids = tokenizer(
            words,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        with torch.no_grad():
            rows = pipe.text_encoder_2(ids.to(pipe.text_encoder_2.device)).text_embeds
        return functional.normalize(rows.float(), dim=-1).cpu()

    return SampleScorer(
        subject=subject, texts=texts, identity=embed_images, clip_image=embed_images, clip_text=embed_texts
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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([[row.get(name, "") for name in COLUMNS] for row in rows])
    write_text(out / f"{CURVE}.csv", text.getvalue())
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
