"""Joint training of LoRA deltas and learned tokens as a Lightning module, and the callback that makes it resumable.

The module sees cached latents only; the pipeline's own weights stay frozen. Source: Magic Insert (arXiv 2407.02489),
section 3.1.

Shape letters: B batch, V views, C x h x w latents, L x D prompt.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from magic_insert.config.schema import PersonalizationConfig
from magic_insert.models.lora import lora_state, restore_lora
from magic_insert.models.sampling import time_ids
from magic_insert.models.style import blank_style, has_adapter
from magic_insert.models.text import LearnedTokens
from magic_insert.tracking import Tracker
from magic_insert.training.checkpoint import Checkpoint, save_checkpoint
from magic_insert.training.denoising import CachedViews, diffuse, draw, min_snr_weight
from magic_insert.training.schedule import lr_factor


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
    """Writes the checkpoint every `period` steps and hands the loss to `tracker` every `log_period`.

    A resumed run repeats the rows between its checkpoint and the kill, number for number.
    """

    def __init__(self, folder: Path, key: str, period: int, tracker: Tracker, log_period: int = 10) -> None:
        self.folder, self.key, self.period = folder, key, period
        self.tracker, self.log_period = tracker, log_period

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: int, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PersonalizeModule)
        done = batch + 1
        if done % self.log_period == 0:
            self.tracker.log(done, {"loss": float(trainer.callback_metrics["loss"])})
        if done % self.period == 0 and done < pl_module.cfg.steps:
            save_checkpoint(
                self.folder,
                step=done,
                key=self.key,
                values=pl_module.values(),
                optimizer=trainer.optimizers[0],
            )
