"""Style-aware personalisation of one subject: pictures in, a run folder of LoRA and learned tokens out; and the job.

Killed at any step and started again, it goes on from its checkpoint and writes the same bytes. The job trains one
subject after the other, or one subject per process of a group. Source: Magic Insert (arXiv 2407.02489), section 3.1.
"""

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from magic_insert.config.schema.jobs import PersonalizeConfig
from magic_insert.config.schema.shared import LoggerConfig, ModelConfig
from magic_insert.config.schema.training import PersonalizationConfig, check_precision
from magic_insert.core import ranks
from magic_insert.core.digest import digest
from magic_insert.core.events import OnStep, no_step, stage
from magic_insert.core.images import save_png, to_pil
from magic_insert.core.jsonl import write_json, write_text
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Subject
from magic_insert.data.subject_files import (
    CARD_FILE,
    CLAIM_FILE,
    SubjectFiles,
    check_run_folder,
    request_of,
    subjects_of,
)
from magic_insert.data.subject_images import check_subject, load_subjects, place
from magic_insert.models.ip_adapter import adapter_at, disable_adapter, style_embeds
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.lora import as_one_weight, refuse_unknown_layers
from magic_insert.models.pipeline import fingerprint, load_pipeline, parts_on
from magic_insert.models.sampling import image_size, sample
from magic_insert.models.segment import cut_subject
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.models.text import initial_tokens, refuse_known_words
from magic_insert.tracking import open_tracker
from magic_insert.training.checkpoint import clear_checkpoints, is_finished
from magic_insert.training.model_card import FILE as MODEL_CARD
from magic_insert.training.model_card import base_of, model_card
from magic_insert.training.personalize_module import (
    LATENTS_FILE,
    UNTRAINED,
    PersonalizeModule,
    check_device,
    check_own_style,
    checkpointed,
    class_cache,
    counts_only_subject,
    subject_batches,
    subject_cache,
    trainables_of,
)
from magic_insert.training.personalize_validation import SampleValidation
from magic_insert.training.trainer import TrainerOptions, first_rank_bars, fit, wait_for_all

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
        check_device(cfg, pipe.unet.device, pipe.unet.dtype)
        check_own_style(pipe, cfg)
        check_precision(cfg.precision, str(pipe.unet.dtype).removeprefix("torch."))
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
        with parts_on(pipe, pipe.unet.device, UNTRAINED), ExitStack() as stack:
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
    return TrainerOptions(
        steps=cfg.steps,
        key=key,
        device=str(pipe.unet.device),
        precision=cfg.precision,
        accumulate=cfg.accumulate,
        clip_norm=cfg.clip_norm,
        ema_decay=cfg.ema_decay,
        ema_warmup=True,
        save_every=cfg.checkpoint_every,
        log_every=10,
        alone=True,
    )


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
    pipe = load_pipeline(cfg.model, device=own_device(cfg.model))
    with first_rank_bars() as on_event:
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


def own_device(model: ModelConfig) -> str | None:
    """The GPU of this process in a group; None leaves the choice to the configuration."""
    grouped = ranks.world_size() > 1 and model.device != "cpu" and torch.cuda.is_available()
    return f"cuda:{ranks.local_rank()}" if grouped else None
