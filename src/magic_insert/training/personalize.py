"""Style-aware personalisation of one subject: pictures in, a run folder of LoRA and learned tokens out.

Killed at any step and started again, it goes on from its checkpoint and writes the same bytes. Source: Magic Insert
(arXiv 2407.02489), section 3.1.
"""

import hashlib
import json
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, RichProgressBar
from torch import Tensor
from torch.utils.data import DataLoader

from magic_insert.config.schema import LoggerConfig, PersonalizationConfig
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb
from magic_insert.core.jsonl import write_bytes, write_json
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Subject
from magic_insert.data.subject_files import CLAIM_FILE
from magic_insert.data.subject_images import Augment, check_subject, is_cut_out, make_view, place
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.sampling import image_size
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.models.text import initial_tokens, refuse_known_words
from magic_insert.models.zoo import fingerprint
from magic_insert.tracking import Tracker, open_tracker
from magic_insert.training.checkpoint import list_checkpoints, read_last_checkpoint
from magic_insert.training.fidelity_curve import pick_best, write_curve
from magic_insert.training.fit import StopOnNonFinite
from magic_insert.training.look import open_validation
from magic_insert.training.personalize_callbacks import Keep, Watch
from magic_insert.training.personalize_module import PersonalizeModule
from magic_insert.training.prior import class_pictures
from magic_insert.training.stopping import StopRequest, between_steps
from magic_insert.training.trainables import trainables_of
from magic_insert.training.validation import CARD_FILE, Validation, step_folder
from magic_insert.training.view_cache import FILE as LATENTS_FILE
from magic_insert.training.view_cache import CachedViews, cache_views, vae_on

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
    contents = run_key(pipe, subjects, cfg, seed)
    if request is not None:
        contents = {**contents, "request": dict(request)}
    key = digest({name: value for name, value in contents.items() if name != "request"})
    seed = fold_in(seed, "personalize", cfg.seed)
    out = Path(out)
    if _claim(out, key, contents):
        return out
    began = time.perf_counter()
    with between_steps() as stop:
        cache = _subject_cache(pipe, subjects, cfg, seed, out)
        prior = _class_cache(pipe, cfg, seed, class_root or out, out) if cfg.prior_images else None
        validation = open_validation(pipe, subjects, tokens, cfg, seed=seed, out=out)
        with (
            trainables_of(pipe, tokens, cfg, seed=fold_in(seed, "lora start")) as trainables,
            vae_on(pipe, "cpu"),
            checkpointed(pipe, cfg.gradient_checkpointing),
            open_tracker(out, "personalize", logger, contents) as tracker,
        ):
            module = PersonalizeModule(trainables, cache, cfg, seed=seed, prior=prior)
            if (last := read_last_checkpoint(out, key)) is not None:
                module.restore(last)
            _look(validation, module, tracker, stop)  # a run that ended while it drew its samples owes them
            keep = Keep(out, key, tracker, stop, validation)
            fit(module, out, progress=progress, callbacks=[keep, *callbacks])
            with module.product():
                trainables.save(out)
        picked = _finish_validation(validation, cfg, out)
        card = {
            "key": key,
            "prompt": cfg.prompt,
            "tokens": list(tokens.names),
            "steps": cfg.steps,
            "seconds": round(time.perf_counter() - began, 2),
            "resumed_from": module.start.step if module.start else 0,
            "image_size": image_size(pipe),
            "prediction_type": pipe.scheduler.config.prediction_type,
            "mask_loss": cfg.mask_loss and all(map(is_cut_out, subjects)),
            **picked,
            **contents,
        }
        write_json(out / CARD_FILE, card)
        for path in (*list_checkpoints(out), *out.glob(f"*{LATENTS_FILE}")):
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


def _subject_cache(
    pipe: Any, subjects: Sequence[Subject], cfg: PersonalizationConfig, seed: int, out: Path
) -> CachedViews:
    augment = Augment(cfg.augment_scale, cfg.augment_shift, cfg.augment_flip, cfg.augment_ground == "colors")
    return cache_views(
        pipe.vae,
        lambda i: make_view(subjects, i, image_size(pipe), seed=seed, augment=augment),
        max(cfg.views, len(subjects)),
        mask_loss=cfg.mask_loss and all(map(is_cut_out, subjects)),
        file=out / LATENTS_FILE if cfg.latent_cache == "disk" else None,
    )


def _class_cache(pipe: Any, cfg: PersonalizationConfig, seed: int, root: Path, out: Path) -> CachedViews:
    files = class_pictures(pipe, cfg, seed=seed, root=root)

    def view_at(i: int) -> tuple[Tensor, Tensor]:
        rgb = load_rgb(files[i])
        return place(Subject(rgb, rgb.new_ones(1, *rgb.shape[-2:]), files[i].stem), image_size(pipe))

    file = out / f"class-{LATENTS_FILE}" if cfg.latent_cache == "disk" else None
    return cache_views(pipe.vae, view_at, len(files), mask_loss=False, file=file)


@contextmanager
def checkpointed(pipe: Any, wanted: bool) -> Iterator[None]:
    """Inside this block the UNet's activations are computed again in the backward pass instead of kept, if `wanted`."""
    if not wanted:
        yield
        return
    pipe.unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        pipe.unet.disable_gradient_checkpointing()


def _look(
    validation: Validation | None, module: PersonalizeModule, tracker: Tracker, stop: StopRequest
) -> None:
    done = module.start.step if module.start else 0
    if validation is not None and (done or module.cfg.steps == 0):
        validation.look_if_due(done, module, tracker, stop)


def _finish_validation(
    validation: Validation | None, cfg: PersonalizationConfig, out: Path
) -> dict[str, Any]:
    """Draws the curve and puts the picked step's files in the place of the last one's; what the card says of it."""
    if validation is None:
        return {}
    rows = list(validation.rows().values())
    scored = [row for row in rows if "identity" in row and "prompt" in row]
    if scored:
        write_curve(out, scored)
    step = pick_best(scored, cfg.validation.tolerance) if cfg.validation.pick == "best" else cfg.steps
    for name in (LORA_FILE, TOKENS_FILE):
        write_bytes(out / name, (step_folder(out, step) / name).read_bytes())
    return {"picked_step": step, "scores": rows}


def fit(module: PersonalizeModule, out: Path, *, progress: bool, callbacks: Sequence[Callback]) -> None:
    """Runs the steps that are left; numbers of micro-batches are the data."""
    cfg, device = module.cfg, module.device_in_use
    start = module.start.step if module.start else 0
    if start >= cfg.steps:
        return
    watchers: list[Callback] = [Watch(device), StopOnNonFinite(), *callbacks]
    if progress:
        watchers.append(RichProgressBar(leave=False))
    micros: Any = range(start * cfg.accumulate, cfg.steps * cfg.accumulate)
    gpu = device.type == "cuda"
    # Lightning announces the devices it does not use; a bar and a log are enough.
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    trainer = pl.Trainer(
        max_steps=cfg.steps - start,
        accelerator="gpu" if gpu else "cpu",
        devices=[device.index or 0] if gpu else 1,
        precision=cfg.precision,  # type: ignore[arg-type]
        gradient_clip_val=cfg.clip_norm,
        accumulate_grad_batches=cfg.accumulate,
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
        trainer.fit(module, DataLoader(micros, batch_size=None))
