"""Style-aware personalisation: LoRA deltas and learned tokens, trained jointly on one subject with the plain loss.

The module sees cached latents only. Step k's views, times and noise are functions of (seed, k), so a resumed run goes
on exactly where it stopped. Source: Magic Insert (arXiv 2407.02489), section 3.1.

Shape letters: B batch, V views, C x h x w latents, L x D prompt.
"""

import json
import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from pytorch_lightning.callbacks import Callback, RichProgressBar
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from magic_insert.config.schema import PersonalizationConfig, PersonalizeConfig
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import append_jsonl, write_json
from magic_insert.core.rand import fold_in, generator
from magic_insert.core.records import Subject
from magic_insert.data.subject_images import (
    Augment,
    Views,
    check_subject,
    is_cut_out,
    load_subjects,
    make_views,
)
from magic_insert.models.latents import encode
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.lora import add_lora, lora_state, remove_lora, restore_lora, save_lora
from magic_insert.models.sampling import image_size, time_ids
from magic_insert.models.style import blank_style, has_adapter
from magic_insert.models.text import LearnedTokens, attached, initial_tokens, save_tokens
from magic_insert.models.zoo import fingerprint, load_pipeline
from magic_insert.training.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from magic_insert.training.fit import StopOnNonFinite
from magic_insert.training.schedule import lr_factor

TOKENS_FILE = "learned_embeds.safetensors"
CARD_FILE = "card.json"
CHECKPOINT_FILE = "checkpoint.safetensors"
RUN_FILE = "run.json"
LOG_FILE = "train.jsonl"


@dataclass(frozen=True)
class CachedViews:
    """Latents of the training views and the weight of every latent pixel in the loss (mean 1 per view)."""

    latents: Float[Tensor, "V C h w"]
    weights: Float[Tensor, "V 1 h w"]


@dataclass(frozen=True)
class Draw:
    """The random numbers of one step."""

    views: Int[Tensor, " B"]
    times: Int[Tensor, " B"]
    noise: Float[Tensor, "B C h w"]


def cache_views(vae: Any, views: Views, *, mask_loss: bool) -> CachedViews:
    """Encodes every view once; with `mask_loss` the ground does not count in the loss."""
    latents = encode(vae, views.rgb).cpu()
    weights = torch.ones_like(latents[:, :1])
    if mask_loss:
        inside = functional.adaptive_max_pool2d(views.alpha, latents.shape[-2:])
        weights = inside / inside.mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
    return CachedViews(latents, weights)


def draw(seed: int, step: int, cache: CachedViews, batch: int, num_times: int) -> Draw:
    """What step `step` trains on: independent of every other step."""
    numbers = generator(seed, "personalize", step)
    count, *shape = cache.latents.shape
    return Draw(
        views=torch.randint(count, (batch,), generator=numbers),
        times=torch.randint(num_times, (batch,), generator=numbers),
        noise=torch.randn(batch, *shape, generator=numbers),
    )


def diffuse(
    clean: Float[Tensor, "B C h w"],
    noise: Float[Tensor, "B C h w"],
    kept: Float[Tensor, " B"],
    prediction: str,
) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
    """The noisy latents and what the model should say about them; `kept` is the share of signal power left.

    Prediction types are the scheduler's: epsilon (Ho et al. 2020), v_prediction (Salimans and Ho 2022), sample.

    Raises:
        UserError: another prediction type.
    """
    signal, spread = kept.sqrt().view(-1, 1, 1, 1), (1 - kept).sqrt().view(-1, 1, 1, 1)
    noisy = signal * clean + spread * noise
    if prediction == "epsilon":
        return noisy, noise
    if prediction == "v_prediction":
        return noisy, signal * noise - spread * clean
    if prediction == "sample":
        return noisy, clean
    raise UserError(f"expected a scheduler that predicts epsilon, v_prediction or sample, got {prediction!r}")


def min_snr_weight(kept: Float[Tensor, " B"], gamma: float, prediction: str) -> Float[Tensor, " B"]:
    """Loss weights that cap the signal-to-noise ratio at `gamma` (Hang et al. 2023), for each prediction type."""
    snr = kept / (1 - kept).clamp(min=1e-8)
    capped = snr.clamp(max=gamma)
    if prediction == "epsilon":
        return capped / snr.clamp(min=1e-8)
    return capped / (snr + 1) if prediction == "v_prediction" else capped


class PersonalizeModule(pl.LightningModule):
    """One subject's LoRA and tokens under training; the pipeline is borrowed and its own weights stay frozen."""

    def __init__(
        self,
        pipe: Any,
        tokens: LearnedTokens,
        lora: Sequence[nn.Parameter],
        cache: CachedViews,
        cfg: PersonalizationConfig,
        *,
        seed: int,
    ) -> None:
        super().__init__()
        # The pipeline is no torch module, so Lightning neither moves it nor counts its weights as ours.
        self.pipe, self.tokens, self.lora = pipe, tokens, list(lora)
        self.cache, self.cfg, self.seed = cache, cfg, seed
        self.prompt = tokens.text(cfg.prompt_template)
        self.kept = pipe.scheduler.alphas_cumprod.float()
        self.prediction = pipe.scheduler.config.prediction_type
        self.start: Checkpoint | None = None

    def values(self) -> dict[str, Tensor]:
        """Everything that training changes, by name."""
        rows = {f"tokens.{key}": row for key, row in self.tokens.rows.items()}
        return {**lora_state(self.pipe.unet), **rows}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes back to `checkpoint`; its optimizer state follows when training starts."""
        restore_lora(
            self.pipe.unet, {k: v for k, v in checkpoint.values.items() if not k.startswith("tokens.")}
        )
        for key, row in self.tokens.rows.items():
            row.data.copy_(checkpoint.values[f"tokens.{key}"])
        self.start = checkpoint

    def on_train_start(self) -> None:
        if self.start is not None:
            self.start.restore_optimizer(self.optimizers(use_pl_optimizer=False))  # type: ignore[arg-type]

    def forward(self, noisy: Float[Tensor, "B C h w"], times: Int[Tensor, " B"]) -> Float[Tensor, "B C h w"]:
        """The personalised model's prediction for the training prompt."""
        count, pipe = len(noisy), self.pipe
        text, _, pooled, _ = pipe.encode_prompt(
            self.prompt, device=noisy.device, do_classifier_free_guidance=False
        )
        size = noisy.shape[-1] * pipe.vae_scale_factor
        added = {"text_embeds": pooled.expand(count, -1), "time_ids": time_ids(pipe, size, count)}
        if has_adapter(pipe):
            added["image_embeds"] = [blank_style(pipe, count).negative]
        return pipe.unet(
            noisy.to(pipe.unet.dtype),
            times,
            encoder_hidden_states=text.expand(count, -1, -1),
            added_cond_kwargs=added,
            return_dict=False,
        )[0].float()

    def training_step(self, step: int) -> Tensor:
        drawn = draw(self.seed, step, self.cache, self.cfg.batch_size, len(self.kept))
        device = self.pipe.device
        clean = self.cache.latents[drawn.views].to(device)
        kept, times = self.kept[drawn.times].to(device), drawn.times.to(device)
        noisy, target = diffuse(clean, drawn.noise.to(device), kept, self.prediction)
        error = (self(noisy, times) - target).square() * self.cache.weights[drawn.views].to(device)
        per_row = error.mean(dim=(1, 2, 3))
        if self.cfg.min_snr_gamma is not None:
            per_row = per_row * min_snr_weight(kept, self.cfg.min_snr_gamma, self.prediction)
        loss = per_row.mean()
        self.log("loss", loss, prog_bar=True, batch_size=len(clean))
        return loss

    def on_train_batch_start(self, batch: int, batch_idx: int) -> None:
        factor = lr_factor(batch, self.cfg.steps, self.cfg.lr_schedule, self.cfg.warmup_steps)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = group["base_lr"] * factor

    def configure_optimizers(self) -> torch.optim.Optimizer:
        cfg = self.cfg
        groups = [
            {"params": self.lora, "lr": cfg.lr_unet, "base_lr": cfg.lr_unet, "weight_decay": cfg.wd_unet},
            {
                "params": list(self.tokens.parameters()),
                "lr": cfg.lr_tokens,
                "base_lr": cfg.lr_tokens,
                "weight_decay": cfg.wd_tokens,
            },
        ]
        return torch.optim.AdamW(groups)


class SaveState(Callback):
    """Writes the checkpoint every `period` steps and a line of the log every `log_period`."""

    def __init__(self, folder: Path, key: str, period: int, log_period: int = 10) -> None:
        self.folder, self.key, self.period, self.log_period = folder, key, period, log_period

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: int, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PersonalizeModule)
        done = batch + 1
        if done % self.log_period == 0:
            append_jsonl(
                self.folder / LOG_FILE, {"step": done, "loss": float(trainer.callback_metrics["loss"])}
            )
        if done % self.period == 0 and done < pl_module.cfg.steps:
            save_checkpoint(
                self.folder / CHECKPOINT_FILE,
                step=done,
                key=self.key,
                values=pl_module.values(),
                optimizer=trainer.optimizers[0],
            )


def run_key(pipe: Any, subjects: Sequence[Subject], cfg: PersonalizationConfig, seed: int) -> dict[str, Any]:
    """What the product depends on, as plain JSON: model, pictures, settings, seed."""
    pictures = [[s.id, _pixels(s.rgb), _pixels(s.alpha)] for s in subjects]
    return {"model": fingerprint(pipe), "subjects": pictures, "config": asdict(cfg), "seed": seed}


def _pixels(image: Tensor) -> str:
    return digest([list(image.shape), (image * 255).round().byte().flatten().tolist()])


def personalize(
    pipe: Any,
    subject: Subject | Sequence[Subject],
    cfg: PersonalizationConfig,
    *,
    seed: int,
    out: Path,
    progress: bool,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Trains one subject's LoRA and tokens; the run folder with the product is returned, `pipe` is left as it came.

    A finished folder of the same run is returned at once, an interrupted one is continued from its checkpoint.

    Args:
        pipe: a StableDiffusionXLPipeline, its IP-Adapter (if any) at scale 0.
        subject: one to five pictures of one subject.
        cfg: how to train.
        seed: the root of every draw.
        out: run folder; gets `pytorch_lora_weights.safetensors`, `learned_embeds.safetensors`, `card.json`.
        progress: draw a progress bar.
        callbacks: further Lightning callbacks.

    Raises:
        UserError: `out` holds another run, or the subject cannot be trained on.
    """
    subjects = [check_subject(s) for s in ([subject] if isinstance(subject, Subject) else subject)]
    contents = run_key(pipe, subjects, cfg, seed)
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
            if (out / CHECKPOINT_FILE).is_file():
                module.restore(read_checkpoint(out / CHECKPOINT_FILE, key))
            _fit(module, out, key, progress=progress, callbacks=callbacks)
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
    (out / CHECKPOINT_FILE).unlink(missing_ok=True)
    return out


def _claim(out: Path, key: str, contents: dict[str, Any]) -> bool:
    """Whether `out` already holds this run's product; an empty folder is claimed for it.

    Raises:
        UserError: the folder belongs to another run.
    """
    for name in (RUN_FILE, CARD_FILE):
        path = out / name
        if path.is_file() and (found := json.loads(path.read_text())["key"]) != key:
            raise UserError(
                f"expected run {key} or an empty folder at {out}, got run {found}; choose another out="
            )
    if (out / CARD_FILE).is_file():
        return True
    write_json(out / RUN_FILE, {"key": key, **contents})
    return False


def _fit(
    module: PersonalizeModule, out: Path, key: str, *, progress: bool, callbacks: Sequence[Callback]
) -> None:
    """Runs the steps that are left; step numbers are the data."""
    cfg, device = module.cfg, module.pipe.device
    start = module.start.step if module.start else 0
    if start >= cfg.steps:
        return
    watchers: list[Callback] = [StopOnNonFinite(), SaveState(out, key, cfg.checkpoint_every), *callbacks]
    if progress:
        watchers.append(RichProgressBar(leave=False))
    gpu = device.type == "cuda"
    # Lightning announces the devices it does not use; a bar and a log are enough.
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    trainer = pl.Trainer(
        max_steps=cfg.steps - start,
        accelerator="gpu" if gpu else "cpu",
        devices=[device.index or 0] if gpu else 1,
        precision=cfg.precision,
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
        trainer.fit(module, DataLoader(range(start, cfg.steps), batch_size=None))


def run_personalize(cfg: PersonalizeConfig) -> Path:
    """The job: pictures in `cfg.subject` (one path, or several with commas) to a run folder at `cfg.out`.

    Raises:
        UserError: see `load_subjects`, `load_pipeline` and `personalize`.
    """
    subjects = load_subjects([path.strip() for path in cfg.subject.split(",") if path.strip()])
    pipe = load_pipeline(cfg.model)
    seed = fold_in(cfg.seed, cfg.personalization.seed)
    return personalize(pipe, subjects, cfg.personalization, seed=seed, out=Path(cfg.out), progress=True)
