"""What one run trains on, as latents: views of the subject, and pictures of its class for prior preservation.

Pictures are encoded once, into memory or into a file of which the system keeps in memory what is used; afterwards the
VAE has nothing to do until a picture is drawn, so it can leave the device. Class pictures are drawn once, one file
each, and used by every run that asks for the same (DreamBooth, Ruiz et al. 2023).

Shape letters: V views, C x h x w latents, S side in pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from magic_insert.config.schema.training import PersonalizationConfig
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Subject
from magic_insert.data.subject_images import Augment, is_cut_out, make_view, place
from magic_insert.models.pipeline import encode, fingerprint
from magic_insert.models.sampling import image_size, sample
from magic_insert.models.style import has_adapter, style_embeds
from magic_insert.models.tensor_file import save_tensors

LATENTS_FILE = "latents.safetensors"
CLASS_BATCH = 4


@dataclass(frozen=True)
class CachedViews:
    """Latents of the training views and the weight of every latent pixel in the loss (mean 1 per view).

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
    view_at: Callable[[int], tuple[Float[Tensor, "3 S S"], Float[Tensor, "1 S S"]]],
    count: int,
    *,
    mask_loss: bool,
    style_of: Callable[[Float[Tensor, "3 S S"]], Tensor] | None = None,
    file: Path | None = None,
) -> CachedViews:
    """Encodes `count` views one by one; with `mask_loss` the ground does not count in the loss.

    Args:
        vae: the pipeline's autoencoder, on the device to encode on.
        view_at: picture and coverage of view i.
        count: number of views V.
        mask_loss: weigh by the subject's coverage.
        style_of: the adapter's input for the picture of a view, 1 x 1 x D; None for no style.
        file: keep the latents there and not in memory.
    """
    latents, weights, styles = [], [], []
    for i in range(count):
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


def check_own_style(pipe: Any, cfg: PersonalizationConfig) -> None:
    """That the model has an adapter where one is to see the training pictures.

    Raises:
        UserError: it has none.
    """
    if cfg.own_style != "none" and not has_adapter(pipe):
        raise UserError(
            f"expected a model with an IP-Adapter for personalization.own_style={cfg.own_style}, got none; "
            "set personalization.own_style=none"
        )


def _own_style(pipe: Any, cfg: PersonalizationConfig) -> Callable[[Tensor], Tensor] | None:
    """The adapter's input for a training picture, where `cfg.own_style` asks for it."""
    return None if cfg.own_style == "none" else lambda picture: style_embeds(pipe, [picture]).positive


def subject_cache(
    pipe: Any, subjects: Sequence[Subject], cfg: PersonalizationConfig, *, seed: int, out: Path
) -> CachedViews:
    """The views of `subjects` as `cfg` augments them; with `latent_cache=disk` in a file in `out`."""
    augment = Augment(cfg.augment_scale, cfg.augment_shift, cfg.augment_flip, cfg.augment_ground == "colors")
    return cache_views(
        pipe.vae,
        lambda i: make_view(subjects, i, image_size(pipe), seed=seed, augment=augment),
        max(cfg.views, len(subjects)),
        mask_loss=counts_only_subject(subjects, cfg),
        style_of=_own_style(pipe, cfg),
        file=out / LATENTS_FILE if cfg.latent_cache == "disk" else None,
    )


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
        pipe.vae, view_at, len(files), mask_loss=False, style_of=_own_style(pipe, cfg), file=file
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
    for start in range(0, len(files), CLASS_BATCH):
        # Always whole batches: the last bit of a picture may depend on how many are drawn together.
        numbers = range(start, start + CLASS_BATCH)
        if all(file.is_file() for file in files[start : start + CLASS_BATCH]):
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
