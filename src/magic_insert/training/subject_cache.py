"""What one run trains on, as latents: views of the subject, and pictures of its class for prior preservation."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from magic_insert.config.schema import PersonalizationConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb
from magic_insert.core.records import Subject
from magic_insert.data.subject_images import Augment, is_cut_out, make_view, place
from magic_insert.models.sampling import image_size
from magic_insert.models.style import has_adapter, style_embeds
from magic_insert.training.prior import class_pictures
from magic_insert.training.view_cache import FILE as LATENTS_FILE
from magic_insert.training.view_cache import CachedViews, cache_views


def counts_only_subject(subjects: Sequence[Subject], cfg: PersonalizationConfig) -> bool:
    """Whether the ground is left out of the loss: it was asked for, and every picture says where the subject is."""
    return cfg.mask_loss and all(map(is_cut_out, subjects))


def check_own_style(pipe: Any, cfg: PersonalizationConfig) -> None:
    """That the model has an adapter where one is to hear the training pictures.

    Raises:
        UserError: it has none.
    """
    if cfg.own_style != "none" and not has_adapter(pipe):
        raise UserError(
            f"expected a model with an IP-Adapter for personalization.own_style={cfg.own_style}, got none; "
            "set personalization.own_style=none"
        )


def own_look(pipe: Any, cfg: PersonalizationConfig) -> Callable[[Tensor], Tensor] | None:
    """What the adapter hears of a training picture, where `cfg.own_style` asks for it."""
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
        heard_of=own_look(pipe, cfg),
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
        pipe.vae, view_at, len(files), mask_loss=False, heard_of=own_look(pipe, cfg), file=file
    )
