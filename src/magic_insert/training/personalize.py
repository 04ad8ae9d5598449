"""Style-aware personalisation of one subject: pictures in, a run folder of LoRA and learned tokens out.

Killed at any step and started again, it goes on from its checkpoint and writes the same bytes. Source: Magic Insert
(arXiv 2407.02489), section 3.1.
"""

import hashlib
import json
import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, RichProgressBar
from torch import Tensor
from torch.utils.data import DataLoader

from magic_insert.config.schema import LoggerConfig, PersonalizationConfig, PersonalizeConfig
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import write_json
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Subject
from magic_insert.data.subject_images import Augment, check_subject, is_cut_out, load_subjects, make_views
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.lora import add_lora, remove_lora, save_lora
from magic_insert.models.sampling import image_size
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.models.text import attached, initial_tokens, save_tokens
from magic_insert.models.zoo import fingerprint, load_pipeline
from magic_insert.tracking import open_tracker
from magic_insert.training.checkpoint import list_checkpoints, read_last_checkpoint
from magic_insert.training.denoising import cache_views
from magic_insert.training.fit import StopOnNonFinite
from magic_insert.training.personalize_module import PersonalizeModule, SaveState

CARD_FILE = "card.json"
CLAIM_FILE = "personalization.json"
JSONL = LoggerConfig()


def run_key(pipe: Any, subjects: Sequence[Subject], cfg: PersonalizationConfig, seed: int) -> dict[str, Any]:
    """What the product depends on, as plain JSON: model, pictures, settings, seed."""
    pictures = [[s.id, _pixels(s.rgb), _pixels(s.alpha)] for s in subjects]
    return {"model": fingerprint(pipe), "subjects": pictures, "config": asdict(cfg), "seed": seed}


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

    Raises:
        UserError: `out` holds another run, or the subject cannot be trained on.
    """
    subjects = [check_subject(s) for s in ([subject] if isinstance(subject, Subject) else subject)]
    contents = run_key(pipe, subjects, cfg, seed)
    seed = fold_in(seed, "personalize", cfg.seed)
    key = digest(contents)
    out = Path(out)
    if _claim(out, key, contents):
        return out
    began = time.perf_counter()
    augment = Augment(cfg.augment_scale, cfg.augment_shift, cfg.augment_flip)
    views = make_views(subjects, image_size(pipe), cfg.views, seed=seed, augment=augment)
    mask_loss = cfg.mask_loss and all(map(is_cut_out, subjects))
    cache = cache_views(pipe.vae, views, mask_loss=mask_loss)
    tokens = initial_tokens(pipe, cfg.num_tokens, word=cfg.initial_word)
    for part in (pipe.unet, pipe.text_encoder, pipe.text_encoder_2):
        part.requires_grad_(False)
    with attached(pipe, tokens):
        lora = add_lora(
            pipe.unet, rank=cfg.rank, alpha=cfg.alpha, targets=cfg.targets, seed=fold_in(seed, "lora start")
        )
        try:
            module = PersonalizeModule(pipe, tokens, lora, cache, cfg, seed=seed)
            if (last := read_last_checkpoint(out, key)) is not None:
                module.restore(last)
            with open_tracker(out, "personalize", logger, contents) as tracker:
                saver = SaveState(out, key, cfg.checkpoint_every, tracker)
                _fit(module, out, progress=progress, callbacks=[saver, *callbacks])
            save_lora(out / LORA_FILE, pipe.unet)
        finally:
            remove_lora(pipe.unet, "subject")
    save_tokens(out / TOKENS_FILE, tokens)
    card = {
        "key": key,
        "prompt": cfg.prompt_template,
        "tokens": list(tokens.names),
        "steps": cfg.steps,
        "seconds": round(time.perf_counter() - began, 2),
        "resumed_from": module.start.step if module.start else 0,
        "mask_loss": mask_loss,
        **contents,
    }
    write_json(out / CARD_FILE, card)
    for path in list_checkpoints(out):
        path.unlink()
    return out


def _claim(out: Path, key: str, contents: dict[str, Any]) -> bool:
    """Whether `out` already holds this run's product; an empty folder is claimed for it.

    Raises:
        UserError: the folder belongs to another run.
    """
    for name in (CLAIM_FILE, CARD_FILE):
        path = out / name
        if path.is_file() and (found := json.loads(path.read_text()).get("key")) != key:
            raise UserError(
                f"expected run {key} or an empty folder at {out}, got run {found}; choose another out="
            )
    if (out / CARD_FILE).is_file():
        return True
    write_json(out / CLAIM_FILE, {"key": key, **contents})
    return False


def _fit(module: PersonalizeModule, out: Path, *, progress: bool, callbacks: Sequence[Callback]) -> None:
    """Runs the steps that are left; step numbers are the data."""
    cfg, device = module.cfg, module.pipe.device
    start = module.start.step if module.start else 0
    if start >= cfg.steps:
        return
    watchers: list[Callback] = [StopOnNonFinite(), *callbacks]
    if progress:
        watchers.append(RichProgressBar(leave=False))
    steps: Any = range(start, cfg.steps)
    gpu = device.type == "cuda"
    # Lightning announces the devices it does not use; a bar and a log are enough.
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    trainer = pl.Trainer(
        max_steps=cfg.steps - start,
        accelerator="gpu" if gpu else "cpu",
        devices=[device.index or 0] if gpu else 1,
        precision=cfg.precision,  # type: ignore[arg-type]
        gradient_clip_val=cfg.clip_norm,
        callbacks=watchers,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
        log_every_n_steps=1,
        default_root_dir=out,
    )
    with warnings.catch_warnings():
        # The loader hands out step numbers; workers would cost more than they carry.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        trainer.fit(module, DataLoader(steps, batch_size=None))


def run_personalize(cfg: PersonalizeConfig) -> Path:
    """The job: pictures in `cfg.subject` to a run folder at `cfg.out`.

    Raises:
        UserError: see `load_subjects`, `load_pipeline` and `personalize`.
    """
    subjects = load_subjects(cfg.pictures)
    pipe = load_pipeline(cfg.model)
    return personalize(
        pipe,
        subjects,
        cfg.personalization,
        seed=cfg.seed,
        out=Path(cfg.out),
        progress=True,
        logger=cfg.logger,
    )
