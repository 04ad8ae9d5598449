"""Joint training of LoRA deltas and learned tokens as a Lightning module on cached latents.

The pipeline is borrowed and its own weights stay frozen. Source: Magic Insert (arXiv 2407.02489), section 3.1; prior
preservation: DreamBooth (Ruiz et al. 2023), equation 2.

Shape letters: B batch, C x h x w latents.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from magic_insert.config.schema import PersonalizationConfig
from magic_insert.models.sampling import time_ids
from magic_insert.models.style import blank_style, has_adapter, set_blocks, silence
from magic_insert.training.averages import RunningMean
from magic_insert.training.checkpoint import Checkpoint
from magic_insert.training.denoising import diffuse, draw, min_snr_weight
from magic_insert.training.optimizers import build_optimizer, set_rates
from magic_insert.training.trainables import Trainables
from magic_insert.training.view_cache import CachedViews

MEAN = "mean."


class PersonalizeModule(pl.LightningModule):
    """One subject's LoRA and tokens under training. A batch is the number of a micro-batch, from 0."""

    def __init__(
        self,
        trainables: Trainables,
        cache: CachedViews,
        cfg: PersonalizationConfig,
        *,
        seed: int,
        prior: CachedViews | None = None,
    ) -> None:
        super().__init__()
        # The pipeline is no torch module, so Lightning neither moves it nor counts its weights as ours.
        self.trainables, self.pipe, self.tokens = trainables, trainables.pipe, trainables.tokens
        self.cache, self.prior, self.cfg, self.seed = cache, prior, cfg, seed
        self.prompt = self.tokens.text(cfg.prompt)
        self.kept = self.pipe.scheduler.alphas_cumprod.float()
        self.prediction = self.pipe.scheduler.config.prediction_type
        unet = self.pipe.unet
        # Asked for once: the pipeline walks through all its layers to answer, at every step a few milliseconds.
        self.unet_device: torch.device = unet.device
        self.unet_dtype: torch.dtype = unet.dtype
        self.fixed: dict[tuple[int, int], dict[str, Any]] = {}
        # Held in a list: as an attribute Lightning would take the frozen network for its own.
        self.network = [unet if cfg.compile == "none" else torch.compile(unet, backend=cfg.compile)]
        self.mean = None
        if cfg.ema_decay is not None:
            self.mean = RunningMean(trainables.parameters(), cfg.ema_decay)
        self.start: Checkpoint | None = None

    def values(self) -> dict[str, Tensor]:
        """Everything that training changes, by name, the running mean included."""
        values = self.trainables.values()
        if self.mean is not None:
            with self.product():
                values.update({MEAN + name: value for name, value in self.trainables.values().items()})
        return values

    @contextmanager
    def product(self) -> Iterator[None]:
        """Inside this block the pipeline is what would be saved as the product: the mean, where one is kept."""
        if self.mean is None:
            yield
            return
        with self.mean.in_place():
            yield

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes back to `checkpoint`; its optimizer state follows when training starts."""
        own = {k: v for k, v in checkpoint.values.items() if not k.startswith(MEAN)}
        if self.mean is not None:
            self.trainables.restore({name: checkpoint.values[MEAN + name] for name in own})
            self.mean.restart()
        self.trainables.restore(own)
        self.start = checkpoint

    def on_train_start(self) -> None:
        if self.start is not None:
            self.start.restore_optimizer(self.optimizers(use_pl_optimizer=False))  # type: ignore[arg-type]
            if self.start.scaler:
                self.trainer.precision_plugin.load_state_dict(dict(self.start.scaler))

    def forward(
        self,
        noisy: Float[Tensor, "B C h w"],
        times: Int[Tensor, " B"],
        prompts: Sequence[str],
        styles: Float[Tensor, "B 1 *T D"] | None = None,
    ) -> Float[Tensor, "B C h w"]:
        """The personalised model's prediction; `prompts` are one per equal share of the rows, in their order."""
        count, pipe = len(noisy), self.pipe
        text, _, pooled, _ = pipe.encode_prompt(
            list(prompts), device=noisy.device, do_classifier_free_guidance=False
        )
        share = count // len(prompts)
        fixed = self.conditions(count, noisy.shape[-1] * pipe.vae_scale_factor)
        if styles is not None:
            fixed = {**fixed, "image_embeds": [styles.to(self.unet_device, self.unet_dtype)]}
        return self.network[0](
            noisy.to(self.unet_dtype),
            times,
            encoder_hidden_states=text.repeat_interleave(share, 0),
            added_cond_kwargs={"text_embeds": pooled.repeat_interleave(share, 0), **fixed},
            return_dict=False,
        )[0].float()

    def conditions(self, count: int, size: int) -> dict[str, Any]:
        """What the UNet is told besides the text, for `count` pictures of `size` pixels: sizes, and no style."""
        if (count, size) not in self.fixed:
            added: dict[str, Any] = {"time_ids": time_ids(self.pipe, size, count).to(self.unet_device)}
            if has_adapter(self.pipe):
                added["image_embeds"] = [blank_style(self.pipe, count).negative.to(self.unet_device)]
            self.fixed[count, size] = added
        return self.fixed[count, size]

    def training_step(self, micro: int) -> Tensor:
        cfg, device = self.cfg, self.unet_device
        caches, prompts, streams = [self.cache], [self.prompt], ["personalize"]
        if self.prior is not None:
            caches, prompts, streams = (
                [*caches, self.prior],
                [*prompts, cfg.class_prompt],
                [*streams, "prior"],
            )
        draws = [
            draw(
                self.seed,
                micro,
                cache,
                cfg.batch_size,
                len(self.kept),
                stream=stream,
                noise_offset=cfg.noise_offset,
            )
            for cache, stream in zip(caches, streams, strict=True)
        ]
        clean = torch.cat([cache.latents[d.views] for cache, d in zip(caches, draws, strict=True)])
        weights = torch.cat([cache.weights[d.views] for cache, d in zip(caches, draws, strict=True)])
        times = torch.cat([d.times for d in draws])
        kept = self.kept[times].to(device)
        noise = torch.cat([d.noise for d in draws])
        noisy, target = diffuse(clean.to(device), noise.to(device), kept, self.prediction)
        styles = None
        if cfg.own_style != "none":
            styles = torch.cat([cache.styles[d.views] for cache, d in zip(caches, draws, strict=True)])  # type: ignore[index]
        error = (self(noisy, times.to(device), prompts, styles) - target).square() * weights.to(device)
        per_row = error.mean(dim=(1, 2, 3))
        if cfg.min_snr_gamma is not None:
            per_row = per_row * min_snr_weight(kept, cfg.min_snr_gamma, self.prediction)
        subject, *prior = per_row.split(cfg.batch_size)
        loss = subject.mean()
        for rows in prior:
            loss = loss + cfg.prior_weight * rows.mean()
        self.log("loss", loss, prog_bar=True, batch_size=len(clean))
        return loss

    def on_train_batch_start(self, batch: int, batch_idx: int) -> None:
        set_rates(self.trainer.optimizers[0], batch // self.cfg.accumulate, self.cfg)
        if self.cfg.own_style != "none":
            set_blocks(self.pipe.unet, self.cfg.own_style, 1.0)

    def on_after_backward(self) -> None:
        # Not before: with gradient checkpointing the backward pass asks the layers again what they said.
        silence(self.pipe.unet)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.cfg, self.trainables.parts, self.unet_device)
