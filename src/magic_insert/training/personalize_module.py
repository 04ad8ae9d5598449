"""Joint training of LoRA deltas and learned tokens on cached latents: what is trained, on what, and by which loss.

The pipeline is borrowed and its own weights stay frozen. Every random number of row k of the training is a function of
(seed, k). Source: Magic Insert (arXiv 2407.02489), section 3.1; prior preservation: DreamBooth (Ruiz et al. 2023),
equation 2.

Shape letters: B batch, V views, C x h x w latents.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from magic_insert.config.schema.training import PersonalizationConfig, check_precision, require_optimizer
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.rand import fold_in, generator
from magic_insert.core.records import Subject
from magic_insert.data.subject_images import Augment, Frame, bucket, is_cut_out, make_view, place
from magic_insert.models.ip_adapter import (
    adapter_switch,
    blank_style,
    has_adapter,
    style_embeds,
)
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.lora import (
    TEXT_ATTENTION,
    TEXT_ENCODERS,
    add_lora,
    remove_lora,
    save_lora,
)
from magic_insert.models.pipeline import PRECISIONS, encode, fingerprint
from magic_insert.models.sampling import drawn_together, image_size, sample, time_ids
from magic_insert.models.tensor_file import save_tensors
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.models.text import LearnedTokens, attached, encode_ids, prompt_ids, save_tokens
from magic_insert.training.trainer import Batch, TrainingModule, adamw8bit, lr_factor

UNTRAINED = ("vae", "image_encoder")  # wait on the CPU while a subject is learned

LATENTS_FILE = "latents.safetensors"
CLASS_BATCH = 4


@dataclass(frozen=True)
class CachedViews:
    """Latents of training views of one size, and the weight of every latent pixel in the loss (mean 1 per view).

    `styles`: the image adapter's input for each view while it is learned; None for no style.
    """

    latents: Float[Tensor, "V C h w"]
    weights: Float[Tensor, "V 1 h w"]
    styles: Float[Tensor, "V 1 *T D"] | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Whatever there is, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def cache_views(
    vae: Any,
    view_at: Callable[[int], tuple[Float[Tensor, "3 H W"], Float[Tensor, "1 H W"]]],
    numbers: Sequence[int],
    *,
    mask_loss: bool,
    style_of: Callable[[Float[Tensor, "3 H W"]], Tensor] | None = None,
    file: Path | None = None,
) -> CachedViews:
    """Encodes the views of `numbers` one by one; with `mask_loss` the ground does not count in the loss.

    Args:
        vae: the pipeline's autoencoder, on the device to encode on.
        view_at: picture and coverage of view i.
        numbers: of the V views, which have one size.
        mask_loss: weigh by the subject's coverage.
        style_of: the adapter's input for the picture of a view, 1 x 1 x D; None for no style.
        file: keep the latents there and not in memory.
    """
    latents, weights, styles = [], [], []
    for i in numbers:
        rgb, alpha = view_at(i)
        latents.append(encode(vae, rgb[None]).cpu())
        inside = torch.ones_like(latents[-1][:, :1])
        if mask_loss:
            inside = functional.adaptive_max_pool2d(alpha[None], inside.shape[-2:])
            inside = inside / inside.mean().clamp(min=1e-6)
        weights.append(inside)
        if style_of is not None:
            styles.append(style_of(rgb).cpu())
    views = CachedViews(torch.cat(latents), torch.cat(weights), torch.cat(styles) if styles else None)
    if file is None:
        return views
    save_tensors(file, views.tensors(), {"format": "pt"})
    # Tensors of a safetensors file are pages of the file: they cost memory only while they are used.
    with safe_open(file, framework="pt") as content:
        return CachedViews(**{name: content.get_tensor(name) for name in views.tensors()})


def counts_only_subject(subjects: Sequence[Subject], cfg: PersonalizationConfig) -> bool:
    """Whether the ground is left out of the loss: it was asked for, and every picture says where the subject is."""
    return cfg.mask_loss and all(map(is_cut_out, subjects))


def _own_style(pipe: Any, cfg: PersonalizationConfig) -> Callable[[Tensor], Tensor] | None:
    """The adapter's input for a training picture, where `cfg.own_style` asks for it."""
    return None if cfg.own_style == "none" else lambda picture: style_embeds(pipe, [picture]).positive


def subject_cache(
    pipe: Any, subjects: Sequence[Subject], cfg: PersonalizationConfig, *, seed: int, out: Path
) -> list[CachedViews]:
    """The views of `subjects` as `cfg` augments them, by their sizes; with `latent_cache=disk` in files in `out`.

    With `buckets` the pictures of a subject may have several sizes, else they are squares.
    """
    size = image_size(pipe)
    augment = Augment(cfg.augment_scale, cfg.augment_shift, cfg.augment_flip, cfg.augment_ground == "colors")
    frames = [bucket(subject, size) if cfg.buckets else (size, size) for subject in subjects]

    def view_at(i: int) -> tuple[Tensor, Tensor]:
        return make_view(subjects, i, frames[i % len(frames)], seed=seed, augment=augment)

    numbers = range(max(cfg.views, len(subjects)))
    return [
        cache_views(
            pipe.vae,
            view_at,
            [i for i in numbers if frames[i % len(frames)] == frame],
            mask_loss=counts_only_subject(subjects, cfg),
            style_of=_own_style(pipe, cfg),
            file=out / f"{frame[0]}x{frame[1]}-{LATENTS_FILE}" if cfg.latent_cache == "disk" else None,
        )
        for frame in dict.fromkeys(frames)
    ]


def class_cache(
    pipe: Any, cfg: PersonalizationConfig, *, seed: int, root: Path, out: Path
) -> CachedViews | None:
    """The base model's pictures of the class, kept below `root`; None where no prior preservation is asked for."""
    if not cfg.prior_images:
        return None
    files = class_pictures(pipe, cfg, seed=seed, root=root)

    def view_at(i: int) -> tuple[Tensor, Tensor]:
        rgb = load_rgb(files[i])
        return place(Subject(rgb, rgb.new_ones(1, *rgb.shape[-2:]), files[i].stem), image_size(pipe))

    file = out / f"class-{LATENTS_FILE}" if cfg.latent_cache == "disk" else None
    return cache_views(
        pipe.vae, view_at, range(len(files)), mask_loss=False, style_of=_own_style(pipe, cfg), file=file
    )


def class_pictures(pipe: Any, cfg: PersonalizationConfig, *, seed: int, root: Path) -> list[Path]:
    """`cfg.prior_images` pictures of `cfg.class_noun` by the base model; those that are there are not drawn again.

    The folder's name under `root` is a digest of everything they depend on. `pipe` carries no LoRA that is on.
    """
    sampler = cfg.validation
    request = {
        "model": fingerprint(pipe),
        "prompt": cfg.class_prompt,
        "steps": sampler.steps,
        "guidance": sampler.guidance,
        "size": image_size(pipe),
        "seed": seed,
    }
    folder = root / f"class-{digest(request)}"
    files = [folder / f"{i:04d}.png" for i in range(cfg.prior_images)]
    together = drawn_together(image_size(pipe), CLASS_BATCH)
    for start in range(0, len(files), together):
        # Always whole batches: the last bit of a picture may depend on how many are drawn together.
        numbers = range(start, start + together)
        if all(file.is_file() for file in files[start : start + together]):
            continue
        drawn = sample(
            pipe,
            [cfg.class_prompt] * len(numbers),
            [fold_in(seed, "class", i) for i in numbers],
            steps=sampler.steps,
            guidance=sampler.guidance,
        )
        for i, picture in zip(numbers, drawn, strict=True):
            save_png(folder / f"{i:04d}.png", picture.cpu())
    return files


class Trainables:
    """Everything that training changes, in parts with rates of their own: LoRA of the UNet, rows of the learned tokens,
    LoRA of the text encoders. Made by `trainables_of`, valid inside its block."""

    def __init__(
        self,
        pipe: Any,
        tokens: LearnedTokens,
        parts: Mapping[str, list[nn.Parameter]],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`dtype` is the precision of the LoRA's file."""
        self.pipe, self.tokens, self.parts, self.dtype = pipe, tokens, dict(parts), dtype

    def parameters(self) -> dict[str, nn.Parameter]:
        """All parameters by part and number, in a fixed order."""
        return {f"{name}.{i}": p for name, part in self.parts.items() for i, p in enumerate(part)}

    def save(self, folder: Path) -> None:
        """Writes the product: a LoRA file and a token file that diffusers reads."""
        save_lora(folder / LORA_FILE, self.pipe, dtype=self.dtype)
        save_tokens(folder / TOKENS_FILE, self.tokens)


@contextmanager
def trainables_of(
    pipe: Any, tokens: LearnedTokens, cfg: PersonalizationConfig, *, seed: int
) -> Iterator[Trainables]:
    """Inside this block `pipe` carries `tokens` and fresh LoRAs as `cfg` says; afterwards it is what it was.

    Raises:
        UserError: a token is already a word of the model; see `add_lora`.
    """
    for part in (pipe.unet, pipe.text_encoder, pipe.text_encoder_2):
        part.requires_grad_(False)
    with attached(pipe, tokens):
        try:
            parts = {
                "unet": add_lora(
                    pipe.unet, rank=cfg.rank, alpha=cfg.alpha, targets=cfg.targets, seed=seed, dora=cfg.dora
                ),
                "tokens": list(tokens.parameters()),
            }
            if cfg.text_rank:
                how: dict[str, Any] = {"rank": cfg.text_rank, "alpha": cfg.text_alpha, "dora": cfg.dora}
                parts["text"] = []
                for name in TEXT_ENCODERS:
                    part = getattr(pipe, name)
                    parts["text"] += add_lora(part, targets=TEXT_ATTENTION, seed=fold_in(seed, name), **how)
            yield Trainables(pipe, tokens, parts, PRECISIONS[cfg.save_precision])
        finally:
            remove_lora(pipe, "subject")


@contextmanager
def checkpointed(unet: Any, wanted: bool) -> Iterator[None]:
    """Inside this block the UNet's activations are computed again in the backward pass instead of kept, if `wanted`."""
    if not wanted:
        yield
        return
    unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()


def check_device(
    cfg: PersonalizationConfig, device: torch.device, dtype: torch.dtype = torch.float32
) -> None:
    """That `device` can do what `cfg` asks for, with frozen weights of `dtype`, and the optimizer is installed.

    Raises:
        UserError: float16 was asked for without a GPU, or a package is missing.
    """
    require_optimizer(cfg.optimizer)
    check_precision(cfg.precision, str(dtype).removeprefix("torch."), device.type)
    if device.type != "cuda" and cfg.precision == "16-mixed":
        raise UserError(
            f"expected a GPU for personalization.precision=16-mixed, got {device}; "
            "set personalization.precision=bf16-mixed"
        )


def build_optimizer(
    cfg: PersonalizationConfig, parts: Mapping[str, Sequence[nn.Parameter]], device: torch.device
) -> torch.optim.Optimizer:
    """The optimizer of `cfg` over `parts` (unet, tokens, text), each with its own rate and weight decay.

    Raises:
        UserError: see `check_device`.
    """
    groups: list[dict[str, Any]] = [
        {
            "params": list(parameters),
            "name": name,
            "lr": getattr(cfg, f"lr_{name}"),
            "weight_decay": getattr(cfg, f"wd_{name}"),
        }
        for name, parameters in parts.items()
    ]
    check_device(cfg, device)
    if cfg.optimizer == "adamw8bit":
        return adamw8bit(groups)
    if cfg.optimizer == "prodigy":
        from prodigyopt import Prodigy

        # Learning rates start with a warm-up of their own (safeguard) and decay is decoupled, as its authors advise.
        return Prodigy(groups, decouple=True, use_bias_correction=True, safeguard_warmup=True)
    # In mixed precision Lightning does not clip what a fused optimizer is given.
    return torch.optim.AdamW(groups, fused=cfg.precision == "32-true")


def rate_of(cfg: PersonalizationConfig, step: int, part: str) -> float:
    """The factor of a part's learning rate at update `step` (from 0); past `token_fraction` of the steps the tokens
    stand still."""
    if part == "tokens" and step >= cfg.token_fraction * cfg.steps:
        return 0.0
    return lr_factor(step, cfg.steps, cfg.lr_schedule, warmup=cfg.warmup_steps)


def draw(
    seed: int,
    number: int,
    buckets: Sequence[CachedViews],
    cfg: PersonalizationConfig,
    *,
    num_times: int,
    stream: str,
) -> Batch:
    """What micro-batch `number` trains on: its rows are numbers `number * B` and on, each a function of its number.

    So n micro-batches of one row are one batch of n rows where there is one bucket, and a resumed run needs nothing but
    the step. Of several buckets a micro-batch is of one, drawn in proportion to their views. Another `stream` gives
    other numbers. `cfg.noise_offset` adds noise that is the same all over each channel, so that very dark and very
    bright pictures can be learned (Guttenberg 2023).
    """
    cache = buckets[0]
    if len(buckets) > 1:
        sizes = torch.tensor([float(len(views.latents)) for views in buckets])
        cache = buckets[int(sizes.multinomial(1, generator=generator(seed, stream, "bucket", number)))]
    count, *shape = cache.latents.shape
    views, times, noise = [], [], []
    for row in range(number * cfg.batch_size, (number + 1) * cfg.batch_size):
        numbers = generator(seed, stream, row)
        views.append(torch.randint(count, (1,), generator=numbers))
        times.append(torch.randint(num_times, (1,), generator=numbers))
        drawn = torch.randn(1, *shape, generator=numbers)
        if cfg.noise_offset:
            drawn = drawn + cfg.noise_offset * torch.randn(1, shape[0], 1, 1, generator=numbers)
        noise.append(drawn)
    rows = torch.cat(views)
    picked = {name: value[rows] for name, value in cache.tensors().items()}
    return {**picked, "times": torch.cat(times), "noise": torch.cat(noise)}


def subject_batches(
    buckets: Sequence[CachedViews],
    cfg: PersonalizationConfig,
    *,
    seed: int,
    num_times: int,
    prior: CachedViews | None = None,
) -> Callable[[int], Batch]:
    """Batch k as a function of k: rows of the subject, then as many of its class where there is a `prior`."""
    sources = [("personalize", buckets)] + ([("prior", [prior])] if prior is not None else [])

    def batch_at(number: int) -> Batch:
        draws = [
            draw(seed, number, views, cfg, num_times=num_times, stream=stream) for stream, views in sources
        ]
        return {name: torch.cat([part[name] for part in draws]) for name in draws[0]}

    return batch_at


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


class PersonalizeModule(TrainingModule):
    """One subject's LoRA and tokens under training, on batches of `subject_batches`."""

    def __init__(self, trainables: Trainables, cfg: PersonalizationConfig) -> None:
        super().__init__(lr=cfg.lr_unet, steps=cfg.steps)
        # The pipeline is no torch module, so Lightning neither moves it nor counts its weights as ours.
        self.trainables, self.pipe, self.tokens = trainables, trainables.pipe, trainables.tokens
        self.cfg = cfg
        prompts = [self.tokens.text(cfg.prompt)] + ([cfg.class_prompt] if cfg.prior_images else [])
        self.ids = prompt_ids(self.pipe, prompts)
        self.kept = self.pipe.scheduler.alphas_cumprod.float()
        self.prediction = self.pipe.scheduler.config.prediction_type
        unet = self.pipe.unet
        # Asked for once: the pipeline walks through all its layers to answer, at every step a few milliseconds.
        self.unet_device: torch.device = unet.device
        self.unet_dtype: torch.dtype = unet.dtype
        self.fixed: dict[tuple[int, Frame], dict[str, Any]] = {}
        self.switch_adapter = (
            (lambda on: None) if cfg.own_style == "none" else adapter_switch(unet, cfg.own_style)
        )
        # Held in a list: as an attribute Lightning would take the frozen network for its own.
        self.network = [unet if cfg.compile == "none" else torch.compile(unet, backend=cfg.compile)]

    def trained(self) -> dict[str, nn.Parameter]:
        return self.trainables.parameters()

    def forward(
        self,
        noisy: Float[Tensor, "B C h w"],
        times: Int[Tensor, " B"],
        styles: Float[Tensor, "B 1 *T D"] | None = None,
    ) -> Float[Tensor, "B C h w"]:
        """The personalised model's prediction; the rows are the subject's, then as many of its class, if any."""
        count, pipe = len(noisy), self.pipe
        text, pooled = encode_ids(pipe, [ids.to(noisy.device) for ids in self.ids])
        share = count // len(text)
        height, width = (side * pipe.vae_scale_factor for side in noisy.shape[-2:])
        fixed = self.conditions(count, (height, width))
        if styles is not None:
            fixed = {**fixed, "image_embeds": [styles.to(self.unet_device, self.unet_dtype)]}
        return self.network[0](
            noisy.to(self.unet_dtype),
            times,
            encoder_hidden_states=text.repeat_interleave(share, 0),
            added_cond_kwargs={"text_embeds": pooled.repeat_interleave(share, 0), **fixed},
            return_dict=False,
        )[0].float()

    def conditions(self, count: int, size: Frame) -> dict[str, Any]:
        """What the UNet is told besides the text, for `count` pictures of that height and width: sizes, no style."""
        if (count, size) not in self.fixed:
            added: dict[str, Any] = {"time_ids": time_ids(self.pipe, size, count).to(self.unet_device)}
            if has_adapter(self.pipe):
                added["image_embeds"] = [blank_style(self.pipe, count).negative.to(self.unet_device)]
            self.fixed[count, size] = added
        return self.fixed[count, size]

    def training_step(self, batch: Batch, _: int = 0) -> Tensor:
        cfg, device = self.cfg, self.unet_device
        kept = self.kept[batch["times"].cpu()].to(device)
        noisy, target = diffuse(batch["latents"].to(device), batch["noise"].to(device), kept, self.prediction)
        predicted = self(noisy, batch["times"].to(device), batch.get("styles"))
        per_row = ((predicted - target).square() * batch["weights"].to(device)).mean(dim=(1, 2, 3))
        if cfg.min_snr_gamma is not None:
            per_row = per_row * min_snr_weight(kept, cfg.min_snr_gamma, self.prediction)
        subject, *prior = per_row.split(cfg.batch_size)
        loss = subject.mean()
        for rows in prior:
            loss = loss + cfg.prior_weight * rows.mean()
        self.log("loss", loss, batch_size=len(noisy))
        return loss

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.switch_adapter(True)

    def on_after_backward(self) -> None:
        # Not before: with gradient checkpointing the backward pass computes the layers again.
        self.switch_adapter(False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.cfg, self.trainables.parts, self.unet_device)

    def rate(self, step: int, group: str) -> float:
        return rate_of(self.cfg, step, group)
