"""Style-aware personalisation of one subject: pictures in, a run folder of LoRA and learned tokens out.

Killed at any step and started again, it goes on from its checkpoint and writes the same bytes. Source: Magic Insert
(arXiv 2407.02489), section 3.1.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import Callback
from torch import Tensor

from magic_insert.config.schema import LoggerConfig, PersonalizationConfig, check_precision
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.events import OnStep
from magic_insert.core.jsonl import write_json
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Subject
from magic_insert.data.subject_files import CARD_FILE, CLAIM_FILE
from magic_insert.data.subject_images import check_subject
from magic_insert.models.lora import refuse_unknown_layers
from magic_insert.models.pipeline import fingerprint
from magic_insert.models.sampling import image_size
from magic_insert.models.style import silence
from magic_insert.models.text import initial_tokens, refuse_known_words
from magic_insert.tracking import open_tracker
from magic_insert.training.checkpoint import clear_checkpoints
from magic_insert.training.personalize_module import (
    PersonalizeModule,
    check_device,
    checkpointed,
    subject_batches,
    trainables_of,
)
from magic_insert.training.personalize_validation import open_validation
from magic_insert.training.subject_views import (
    LATENTS_FILE,
    check_own_style,
    class_cache,
    counts_only_subject,
    subject_cache,
    vae_on,
)
from magic_insert.training.trainer import TrainerOptions, fit

JSONL = LoggerConfig()


class ReportSteps(Callback):
    """Reports (steps done, steps to do) of a run after each update; an exception from `on_step` ends the run."""

    def __init__(self, on_step: OnStep) -> None:
        self.on_step = on_step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.on_step(trainer.global_step, trainer.max_steps)


def run_key(model: str, subjects: Sequence[Subject], cfg: PersonalizationConfig, seed: int) -> dict[str, Any]:
    """What the product depends on, as plain JSON: the model's fingerprint, pictures, settings, seed."""
    pictures = [[s.id, _pixels(s.rgb), _pixels(s.alpha)] for s in subjects]
    return {"model": model, "subjects": pictures, "config": asdict(cfg), "seed": seed}


def _pixels(image: Tensor) -> str:
    samples = (image.cpu() * 255).round().byte().contiguous().numpy().tobytes()
    return digest([list(image.shape), hashlib.sha256(samples).hexdigest()])


def personalize(
    pipe: Any,
    subject: Subject | Sequence[Subject],
    cfg: PersonalizationConfig,
    *,
    seed: int,
    out: Path,
    progress: bool,
    logger: LoggerConfig = JSONL,
    callbacks: Sequence[Callback] = (),
    request: Mapping[str, Any] | None = None,
    class_root: Path | None = None,
) -> Path:
    """Trains one subject's LoRA and tokens; the run folder with the product is returned, `pipe` is left as it came.

    A finished folder of the same run is returned at once, an interrupted one is continued from its checkpoint.

    Args:
        pipe: a StableDiffusionXLPipeline, its IP-Adapter (if any) at scale 0.
        subject: one to five pictures of one subject.
        cfg: how to train.
        seed: with `cfg.seed`, the root of every draw.
        out: run folder; gets `pytorch_lora_weights.safetensors`, `learned_embeds.safetensors`, `card.json`.
        progress: draw a progress bar.
        logger: where the loss goes besides `metrics.jsonl` in `out`.
        callbacks: further Lightning callbacks.
        request: what the user asked for (`data.subject_files.request_of`), kept in the claim and the card.
        class_root: where the pictures of prior preservation are kept, for several runs; `out` by default.

    Raises:
        UserError: `out` holds another run, the subject cannot be trained on, or a token is a word already.
    """
    subjects = [check_subject(s) for s in ([subject] if isinstance(subject, Subject) else subject)]
    tokens = initial_tokens(pipe, cfg.num_tokens, word=cfg.initial_word, pattern=cfg.token_pattern)
    refuse_known_words(pipe, tokens.names)
    contents = run_key(fingerprint(pipe), subjects, cfg, seed)
    if request is not None:
        contents = {**contents, "request": dict(request)}
    key = digest({name: value for name, value in contents.items() if name != "request"})
    seed = fold_in(seed, "personalize", cfg.seed)
    out = Path(out)
    if _is_finished(out, key):
        return out
    refuse_unknown_layers(pipe.unet, cfg.targets)
    check_device(cfg, pipe.unet.device)
    check_own_style(pipe, cfg)
    check_precision(cfg.precision, str(pipe.unet.dtype).removeprefix("torch."))
    facts = {
        "prompt": cfg.prompt,
        "tokens": list(tokens.names),
        "image_size": image_size(pipe),
        "prediction_type": pipe.scheduler.config.prediction_type,
        **contents,
    }
    validation = open_validation(pipe, subjects, tokens, cfg, seed=seed, out=out, facts=facts)
    write_json(out / CLAIM_FILE, {"key": key, **contents})  # all that can be refused is behind us
    began = time.perf_counter()
    cache = subject_cache(pipe, subjects, cfg, seed=seed, out=out)
    prior = class_cache(pipe, cfg, seed=seed, root=class_root or out, out=out)
    with (
        trainables_of(pipe, tokens, cfg, seed=fold_in(seed, "lora start")) as trainables,
        vae_on(pipe, "cpu"),
        checkpointed(pipe, cfg.gradient_checkpointing),
        open_tracker(out, "personalize", logger, contents) as tracker,
    ):
        module = PersonalizeModule(trainables, cfg)
        if validation is not None:
            validation.begin(trainables, tracker)
        try:
            start = fit(
                module,
                subject_batches(cache, cfg, seed=seed, num_times=len(module.kept), prior=prior),
                options_of(cfg, pipe, progress=progress),
                out,
                key=key,
                log=tracker.log,
                validation=validation,
                callbacks=callbacks,
            )
        finally:
            silence(pipe.unet)  # a run that ended within a step leaves the adapter as it found it
        trainables.save(out)
    card = {
        "key": key,
        "steps": cfg.steps,
        "seconds": round(time.perf_counter() - began, 2),
        "resumed_from": start,
        "mask_loss": counts_only_subject(subjects, cfg),
        **(validation.finish() if validation is not None else {}),
        **facts,
    }
    write_json(out / CARD_FILE, card)
    clear_checkpoints(out)
    for path in out.glob(f"*{LATENTS_FILE}"):
        path.unlink()
    return out


def options_of(cfg: PersonalizationConfig, pipe: Any, *, progress: bool) -> TrainerOptions:
    """How the trainer runs what `cfg` asks for: on the device of `pipe`, in this process alone."""
    return TrainerOptions(
        steps=cfg.steps,
        device=str(pipe.unet.device),
        precision=cfg.precision,
        accumulate=cfg.accumulate,
        clip_norm=cfg.clip_norm,
        ema_decay=cfg.ema_decay,
        ema_warmup=True,
        save_every=cfg.checkpoint_every,
        log_every=10,
        alone=True,
        progress=progress,
        title="personalising",
    )


def _is_finished(out: Path, key: str) -> bool:
    """Whether `out` already holds this run's product.

    Raises:
        UserError: the folder belongs to another run.
    """
    for name in (CLAIM_FILE, CARD_FILE):
        path = out / name
        if path.is_file() and (found := json.loads(path.read_text()).get("key")) != key:
            raise UserError(
                f"expected run {key} or an empty folder at {out}, got run {found}; choose another out="
            )
    return (out / CARD_FILE).is_file()
