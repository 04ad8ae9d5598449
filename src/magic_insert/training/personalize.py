"""Style-aware personalisation of one subject: pictures in, a run folder of LoRA and learned tokens out; and the job.

Killed at any step and started again, it goes on from its checkpoint and writes the same bytes. The job trains one
subject after the other, or one subject per process of a group. Source: Magic Insert (arXiv 2407.02489), section 3.1.

While it is learned the subject is drawn at fixed seeds. Every validation writes `samples/step-K.png` (one row per seed;
the subject, the plain prompt, its edits, and the plain prompt in another style), a row in `validation.jsonl`, and
`steps/K/` with a product that every job of ours can load. Question asked: fidelity against editability over training
length; a pose edit survives to about 1500 steps in the paper and is lost after, shown in pictures and not in numbers.

Two scorers: `model`, the CLIP inside the pipeline (its image encoder and second text encoder share one space, in
SDXL's adapter as in the micro model), and `micro`, the shipped metric encoders. Values are cosines. A scorer is made
before any LoRA is, so that it does not change while the model learns.

Shape letters: B pictures, S side in pixels, D embedding dimensions, T texts.
"""

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from magic_insert.config.schema.jobs import PersonalizeConfig
from magic_insert.config.schema.shared import LoggerConfig, ModelConfig
from magic_insert.config.schema.training import PersonalizationConfig
from magic_insert.core import ranks
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.events import OnStep, no_step, stage, terminal_bars
from magic_insert.core.images import contact_sheet, load_rgb, save_png, to_pil
from magic_insert.core.jsonl import append_jsonl, read_jsonl, write_bytes, write_json, write_text
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Subject
from magic_insert.core.tables import csv_table
from magic_insert.data.subject_files import (
    CARD_FILE,
    CLAIM_FILE,
    SubjectFiles,
    check_run_folder,
    request_of,
    subjects_of,
)
from magic_insert.data.subject_images import check_subject, load_subjects, place
from magic_insert.models.encoders.micro import load_encoders
from magic_insert.models.ip_adapter import (
    adapter_at,
    disable_adapter,
    has_adapter,
    picture_rows,
    require_adapter,
    style_embeds,
    text_rows,
)
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.lora import TEXT_ENCODERS, as_one_weight, refuse_unknown_layers
from magic_insert.models.pipeline import (
    PRECISIONS,
    fingerprint,
    load_pipeline,
    own_device,
    parts_on,
    require_drawing,
)
from magic_insert.models.sampling import SAMPLE_BATCH, drawn_together, image_size, sample
from magic_insert.models.segment import cut_subject
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.models.text import LearnedTokens, initial_tokens, refuse_known_words
from magic_insert.pages.charts import png_of
from magic_insert.paths import micro_dir
from magic_insert.toybox.scenes import sample_scene, scene_world
from magic_insert.toybox.styles import draw
from magic_insert.toybox.tracer import trace
from magic_insert.tracking import Tracker, open_tracker
from magic_insert.training.checkpoint import StopRequest, clear_checkpoints, is_finished
from magic_insert.training.model_card import FILE as MODEL_CARD
from magic_insert.training.model_card import base_of, model_card
from magic_insert.training.personalize_module import (
    LATENTS_FILE,
    UNTRAINED,
    PersonalizeModule,
    Trainables,
    check_device,
    checkpointed,
    class_cache,
    counts_only_subject,
    subject_batches,
    subject_cache,
    trainables_of,
)
from magic_insert.training.trainer import TrainerOptions, fit, wait_for_all

VALIDATION_ROWS = "validation.jsonl"
SAMPLE_STYLE, STYLE_SEED, STYLE_SIZE = "watercolour", 4, 128
CURVE = "curve"
LOST = 0.5  # of the best identity: below it the subject is gone
CURVE_COLUMNS = ("step", "identity", "prompt")
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
        self.style = None  # encoded once: the image encoder is not needed while samples are drawn
        if has_adapter(pipe):
            picture = toybox_style() if asked.style is None else load_rgb(asked.style)
            self.style = style_embeds(pipe, [picture])
        texts = edit_texts(cfg.class_noun, asked.edits, asked.scorer)
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
        found = read_jsonl(self.out / VALIDATION_ROWS, begun=False)
        return {row["step"]: row for row in sorted(found, key=lambda row: row["step"])}

    def due(self, step: int) -> bool:
        """Whether there is a validation after update `step` that was not done yet."""
        every, last = self.cfg.validation.every, self.cfg.steps
        timely = step == last or (step > 0 and step % every == 0)
        return timely and step not in self.rows()

    def run(self, step: int, stop: StopRequest) -> None:
        """Draws, judges and saves what the run would produce if it ended after update `step`."""
        encodes = self.cfg.validation.scorer == "model"
        with _parts_that_draw(self.pipe, encodes=encodes), torch.no_grad():
            plain, edits, styled = self._draw(stop)
            scores = {} if self.scorer is None else self.scorer.scores(plain, edits)
        columns, drawn = ["subject", "plain", *self.cfg.validation.edits], [plain, *edits]
        if styled is not None:
            columns, drawn = [*columns, "styled"], [*drawn, styled]
        rows = [[self.picture, *(pictures[i] for pictures in drawn)] for i in range(len(self.seeds))]
        save_png(self.out / "samples" / f"step-{step:06d}.png", contact_sheet(rows, None, columns))
        found = {"step": step, **scores}
        home = step_folder(self.out, step)
        self.trainables.save(home)
        write_json(home / CARD_FILE, {**self.facts, "steps": step, "scores": [found]})
        append_jsonl(self.out / VALIDATION_ROWS, found)
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
        if self.style is None:
            return sets[0], sets[1:], None
        with adapter_at(self.pipe, validation.style_blocks, 1.0):
            styled = self._sample(self.prompts[0], stop, self.style)
        return sets[0], sets[1:], styled

    def _sample(self, prompt: str, stop: StopRequest, style: Any = None) -> Float[Tensor, "B 3 S S"]:
        pictures, together = [], drawn_together(image_size(self.pipe), SAMPLE_BATCH)
        for start in range(0, len(self.seeds), together):
            stop.obey()  # the checkpoint of this step is written
            seeds = self.seeds[start : start + together]
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


def _parts_that_draw(pipe: Any, *, encodes: bool) -> AbstractContextManager[None]:
    """Inside this block what waits on the CPU during the training is where the UNet is: the VAE, and where pictures are
    encoded the image encoder, if it does not come by itself."""
    names = UNTRAINED if encodes and not getattr(pipe, "offloads", False) else UNTRAINED[:1]
    return parts_on(pipe, pipe.unet.device, names)


def toybox_style() -> Float[Tensor, "3 S S"]:
    """A small landscape in watercolour: a style that no photograph has."""
    buffer = trace([scene_world(sample_scene(STYLE_SEED))], STYLE_SIZE)
    return draw(buffer, [SAMPLE_STYLE], [0.5], [STYLE_SEED])[0]


def edit_texts(noun: str, edits: Sequence[str], scorer: str) -> list[str]:
    """What an edited sample should look like, in words that the judge called `scorer` knows; without a noun of a thing
    the edit alone, but that every subject of the Toybox, whose judge is `micro`, is a toy."""
    thing = noun.strip() or ("toy" if scorer == "micro" else "")
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

    Steps that have lost the subject, whose pictures may fit words best, do not count. Ties go to the earlier step; a
    best prompt score below 0 allows nothing but itself.
    """
    assert rows
    kept = [row for row in rows if row["identity"] >= LOST * max(row["identity"] for row in rows)]
    best = max(row["prompt"] for row in kept)
    floor = best - tolerance * abs(best) if best > 0 else best
    obedient = [row for row in kept if row["prompt"] >= floor]
    return int(max(obedient, key=lambda row: (row["identity"], -row["step"]))["step"])


def write_curve(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes `curve.csv` (step, identity, prompt) and `curve.png` (prompt fit across, identity up, steps as labels)."""
    write_text(out / f"{CURVE}.csv", csv_table(rows, CURVE_COLUMNS))
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
    write_bytes(out / f"{CURVE}.png", png_of(figure))


Work = tuple[SubjectFiles, dict[str, Any]]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
    """What a run does besides training.

    `logger`: where the loss goes besides `metrics.jsonl`. `request`: what the user asked for
    (`data.subject_files.request_of`), kept in the claim and the card. `class_root`: where the pictures of prior
    preservation are kept, for several runs; None is the run's own folder. `base`: the model, for the model card.
    """

    logger: LoggerConfig = field(default_factory=LoggerConfig)
    request: Mapping[str, Any] | None = None
    class_root: Path | None = None
    base: ModelConfig = field(default_factory=partial(ModelConfig, name="a model in SDXL's format"))


PLAIN = RunOptions()
SKETCH_STEPS = 8


def personalize(
    pipe: Any,
    subject: Subject | Sequence[Subject],
    cfg: PersonalizationConfig,
    *,
    seed: int,
    out: Path,
    options: RunOptions = PLAIN,
    on_step: OnStep = no_step,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Trains one subject's LoRA and tokens; the run folder with the product is returned, `pipe` is left as it came.

    A finished folder of the same run is returned at once, an interrupted one is continued from its checkpoint.

    Args:
        pipe: a StableDiffusionXLPipeline, its IP-Adapter (if any) at scale 0.
        subject: one to five pictures of one subject.
        cfg: how to train.
        seed: with `cfg.seed`, the root of every draw.
        out: run folder; gets `pytorch_lora_weights.safetensors`, `learned_embeds.safetensors`, the cut-outs, a model
            card (`README.md`) and `card.json`.
        callbacks: further Lightning callbacks.

    Raises:
        UserError: `out` holds another run, the subject cannot be trained on, or a token is a word already.
    """
    subjects = [check_subject(s) for s in ([subject] if isinstance(subject, Subject) else subject)]
    run = _Run(pipe, subjects, cfg, seed, Path(out), options)
    if not is_finished(run.out / CARD_FILE, run.key, run.out / CLAIM_FILE):
        validation = run.begin()
        began = time.perf_counter()
        start = run.train(validation, on_step, callbacks)
        run.publish(validation, start, round(time.perf_counter() - began, 2))
    return run.out


class _Run:
    """One run of `personalize`, from its settings to its card."""

    def __init__(
        self,
        pipe: Any,
        subjects: Sequence[Subject],
        cfg: PersonalizationConfig,
        seed: int,
        out: Path,
        options: RunOptions,
    ) -> None:
        self.pipe, self.subjects, self.cfg, self.out, self.options = pipe, subjects, cfg, out, options
        self.tokens = initial_tokens(pipe, cfg.num_tokens, word=cfg.initial_word, pattern=cfg.token_pattern)
        refuse_known_words(pipe, self.tokens.names)
        self.contents = run_key(fingerprint(pipe), subjects, cfg, seed)
        self.key = digest(self.contents)
        if options.request is not None:
            self.contents["request"] = dict(options.request)
        self.seed = fold_in(seed, "personalize", cfg.seed)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """How to use the product, and how it came about."""
        return {
            "prompt": self.cfg.prompt,
            "tokens": list(self.tokens.names),
            "image_size": image_size(self.pipe),
            "prediction_type": self.pipe.scheduler.config.prediction_type,
            "base_model": base_of(self.options.base),
            **self.contents,
        }

    def begin(self) -> SampleValidation | None:
        """Refuses what can be refused, then claims the folder."""
        pipe, cfg = self.pipe, self.cfg
        refuse_unknown_layers(pipe.unet, cfg.targets)
        require_drawing(pipe)
        check_device(cfg, pipe.unet.device, pipe.unet.dtype)
        if cfg.own_style != "none":
            require_adapter(pipe, "personalization.own_style=none")
        validation = None
        if cfg.validation.every:
            validation = SampleValidation(
                pipe, self.subjects, self.tokens, cfg, seed=self.seed, out=self.out, facts=self.facts
            )
        write_json(self.out / CLAIM_FILE, {"key": self.key, **self.contents})
        return validation

    def train(
        self, validation: SampleValidation | None, on_step: OnStep, callbacks: Sequence[Callback]
    ) -> int:
        """Writes LoRA and tokens; the step that the training went on from."""
        pipe, cfg, seed, out = self.pipe, self.cfg, self.seed, self.out
        buckets = subject_cache(pipe, self.subjects, cfg, seed=seed, out=out)
        prior = class_cache(pipe, cfg, seed=seed, root=self.options.class_root or out, out=out)
        with (
            trainables_of(pipe, self.tokens, cfg, seed=fold_in(seed, "lora start")) as trainables,
            parts_on(pipe, "cpu", UNTRAINED),
            parts_on(pipe, pipe.unet.device, TEXT_ENCODERS),  # also those that wait on the CPU elsewhere
            checkpointed(pipe.unet, cfg.gradient_checkpointing),
            as_one_weight(pipe.unet) if one_weight_pays(pipe.unet, cfg) else nullcontext(),
            open_tracker(out, "personalize", self.options.logger, self.contents) as tracker,
        ):
            module = PersonalizeModule(trainables, cfg)
            if validation is not None:
                validation.begin(trainables, tracker)
            try:
                start = fit(
                    module,
                    subject_batches(buckets, cfg, seed=seed, num_times=len(module.kept), prior=prior),
                    options_of(cfg, pipe, key=self.key),
                    out,
                    log=tracker.log,
                    on_step=lambda done, total: on_step(done, total, self.sketch),
                    validation=validation,
                    callbacks=callbacks,
                )
            finally:
                disable_adapter(pipe.unet)  # a run that ended within a step leaves the adapter as it found it
            trainables.save(out)
        return start

    @torch.no_grad()
    def sketch(self) -> Image.Image:
        """The subject as the model knows it by now, in a few steps; in the look of its picture where it learns so."""
        pipe, cfg = self.pipe, self.cfg
        words, seed = self.tokens.text(cfg.prompt), fold_in(self.seed, "sketch")
        with _parts_that_draw(pipe, encodes=cfg.own_style != "none"), ExitStack() as stack:
            style = None
            if cfg.own_style != "none":
                stack.enter_context(adapter_at(pipe, cfg.own_style, 1.0))
                style = style_embeds(pipe, [place(self.subjects[0], image_size(pipe))[0]])
            return to_pil(sample(pipe, [words], [seed], steps=SKETCH_STEPS, style=style)[0])

    def publish(self, validation: SampleValidation | None, start: int, seconds: float) -> None:
        """Writes cut-outs and model card, then the card by which the folder counts as finished; clears what only the
        training needed."""
        card = {
            "key": self.key,
            "steps": self.cfg.steps,
            "seconds": seconds,
            "resumed_from": start,
            "mask_loss": counts_only_subject(self.subjects, self.cfg),
            **(validation.finish() if validation is not None else {}),
            **self.facts,
        }
        pictures = [f"{subject.id}.png" for subject in self.subjects]
        for name, subject in zip(pictures, self.subjects, strict=True):
            save_png(self.out / name, subject.rgb, subject.alpha)
        about = model_card(card, self.subjects[0].id, lora=LORA_FILE, tokens=TOKENS_FILE, pictures=pictures)
        write_text(self.out / MODEL_CARD, about)
        write_json(self.out / CARD_FILE, card)
        clear_checkpoints(self.out)
        for path in self.out.glob(f"*{LATENTS_FILE}"):
            path.unlink()


def one_weight_pays(unet: Any, cfg: PersonalizationConfig) -> bool:
    """Whether a LoRA learns faster within its layers' weights: on a CPU, in the LoRA's own precision."""
    plain = cfg.compile == "none" and cfg.precision == "32-true" and unet.dtype == torch.float32
    return plain and unet.device.type == "cpu"


def run_key(model: str, subjects: Sequence[Subject], cfg: PersonalizationConfig, seed: int) -> dict[str, Any]:
    """What the product depends on, as plain JSON: the model's fingerprint, pictures, settings, seed."""
    pictures = [[s.id, _pixels(s.rgb), _pixels(s.alpha)] for s in subjects]
    settings = asdict(cfg)
    del settings["checkpoint_every"]  # changes nothing
    return {"model": model, "subjects": pictures, "config": settings, "seed": seed}


def _pixels(image: Tensor) -> str:
    samples = (image.cpu() * 255).round().byte().contiguous().numpy().tobytes()
    return digest([list(image.shape), hashlib.sha256(samples).hexdigest()])


def options_of(cfg: PersonalizationConfig, pipe: Any, *, key: str = "") -> TrainerOptions:
    """How the trainer runs what `cfg` asks for: on the device of `pipe`, in this process alone."""
    own = {"ema_warmup": True, "save_every": cfg.checkpoint_every, "log_every": 10, "alone": True}
    return TrainerOptions.of(cfg, key=key, device=str(pipe.unet.device), **own)


def run_personalize(cfg: PersonalizeConfig) -> list[Path]:
    """Trains every subject that `cfg.subject` names and that is this process's share; their run folders.

    Raises:
        UserError: see `subjects_of`, `load_subjects`, `load_pipeline` and `personalize`.
    """
    jobs = subjects_of(cfg)
    requests = [request_of(cfg, job) for job in jobs]
    for job, request in zip(jobs, requests, strict=True):
        check_run_folder(job.out, request)
        load_subjects(job.pictures)  # judged before the model is loaded
    mine = share(list(zip(jobs, requests, strict=True)))
    if not mine:
        return []
    if any(not (job.out / CARD_FILE).is_file() for job, _ in mine):
        check_device(cfg.personalization, own_device(cfg.model.device), PRECISIONS[cfg.model.dtype])
    pipe = load_pipeline(cfg.model)
    with terminal_bars() as on_event:
        for number, (job, request) in enumerate(mine, start=1):
            if len(mine) > 1:
                log.warning("magic-insert: subject %d of %d: %s", number, len(mine), job.out.name)
            options = RunOptions(cfg.logger, request, Path(cfg.out), cfg.model)
            subjects = [
                cut_subject(subject.rgb, subject.alpha, subject.id) for subject in load_subjects(job.pictures)
            ]
            with stage(on_event, "personalise") as running:
                personalize(
                    pipe,
                    subjects,
                    cfg.personalization,
                    seed=cfg.seed,
                    out=job.out,
                    options=options,
                    on_step=running,
                )
    return [job.out for job, _ in mine]


def share(work: Sequence[Work]) -> list[Work]:
    """This process's part of the subjects: of those still to learn, and of those that only have to be looked at.

    A folder that is half done is shared out anew, so that no process is left with nothing but finished subjects.
    """
    todo = [item for item in work if not (item[0].out / CARD_FILE).is_file()]
    done = [item for item in work if item not in todo]
    if torch.distributed.is_initialized():
        wait_for_all()  # nobody may finish a subject that another has not counted yet
    return ranks.shard(todo) + ranks.shard(done)
