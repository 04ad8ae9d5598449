"""What every part of the foundation trains, on which batches, and what it publishes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from magic_insert.config.schema import PartConfig
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.models.micro import (
    build_image_encoder,
    build_scheduler,
    build_text_encoder,
    build_unet,
    build_vae,
)
from magic_insert.models.micro_controlnet import build_controlnet
from magic_insert.models.micro_parts import (
    assemble_micro,
    load_adapter,
    load_part,
    new_adapter,
    publish_adapter,
    without_adapter,
)
from magic_insert.training.foundation.adapter import AdapterModule, adapter_batches
from magic_insert.training.foundation.clip import ContrastiveModule, contrastive_batches
from magic_insert.training.foundation.controlnet import ControlNetModule, controlnet_batches
from magic_insert.training.foundation.denoiser import DenoiserModule, denoiser_batches
from magic_insert.training.foundation.edit_parts import edit_part
from magic_insert.training.foundation.encoders import Kind
from magic_insert.training.foundation.latents import vae_encoder
from magic_insert.training.foundation.styled import (
    StyledModule,
    StyledSources,
    plain,
    styled_batches,
    tonings,
)
from magic_insert.training.foundation.vae import PatchCode, VaeModule, vae_batches
from magic_insert.training.foundation.workshop import Recipe, Workshop


def _vae(shop: Workshop, part: PartConfig) -> Recipe:
    crop, channels = min(64, shop.sizes.image_size), shop.sizes.latent_channels
    batches = vae_batches(shop.pool, seed=shop.seed, batch_size=part.batch_size, crop=crop, channels=channels)
    # Patches for the linear code come from batches that training never reaches.
    seen = torch.cat([batches(part.steps + number)["image"] for number in range(32)])
    module = VaeModule(build_vae(shop.sizes), PatchCode(seen, channels), lr=part.lr, steps=part.steps)

    def publish(folder: Path) -> None:
        vae = module.vae.to(shop.device).eval()
        vae.register_to_config(scaling_factor=1.0)
        encode = vae_encoder(vae, shop.device, autocast=False)
        sample = [
            encode(torch.from_numpy(shop.pool.subjects[i].copy()))
            for i in range(min(64, len(shop.pool.subjects)))
        ]
        # Unit variance is what the noise schedule expects of clean latents (Rombach et al. 2022, section D.1).
        vae.register_to_config(scaling_factor=1.0 / float(torch.cat(sample).std()))
        vae.save_pretrained(folder / "vae")

    return Recipe(module, batches, publish, 0.995)


def _clip(shop: Workshop, part: PartConfig) -> Recipe:
    text = build_text_encoder(shop.sizes, shop.tokenizer, second=True)
    image = build_image_encoder(shop.sizes)
    module = ContrastiveModule(
        text,
        image,
        embed_dim=shop.sizes.embed_dim,
        num_styles=len(shop.pool.style_names),
        lr=part.lr,
        steps=part.steps,
    )

    def publish(folder: Path) -> None:
        text.save_pretrained(folder / "text_encoder_2")
        image.save_pretrained(folder / "image_encoder")

    batches = contrastive_batches(shop.pool, shop.tokenizer_2, seed=shop.seed, batch_size=part.batch_size)
    return Recipe(module, batches, publish)


def _denoiser(shop: Workshop, part: PartConfig) -> Recipe:
    unet = shop.trainable(build_unet(shop.sizes))
    text = build_text_encoder(shop.sizes, shop.tokenizer, second=False)
    text_2 = load_part(shop.part("clip") / "text_encoder_2", "text_encoder_2")
    module = DenoiserModule(
        unet, text, text_2, build_scheduler(), image_size=shop.sizes.image_size, lr=part.lr, steps=part.steps
    )

    def publish(folder: Path) -> None:
        unet.save_pretrained(folder / "unet")
        text.save_pretrained(folder / "text_encoder")
        text_2.save_pretrained(folder / "text_encoder_2")

    batches = denoiser_batches(
        shop.pool,
        shop.latents("subjects", shop.pool.subjects),
        shop.latents("scenes_with", shop.pool.scenes_with),
        shop.tokenizer,
        shop.tokenizer_2,
        seed=shop.seed,
        batch_size=part.batch_size,
    )
    return Recipe(module, batches, publish, 0.998)


def _adapter(shop: Workshop, part: PartConfig) -> Recipe:
    unet = shop.trainable(shop.load("denoiser", "unet"))
    new_adapter(unet, shop.sizes.embed_dim)
    module = AdapterModule(
        unet,
        *shop.listened_to(),
        image_size=shop.sizes.image_size,
        lr=part.lr,
        steps=part.steps,
    )
    embeds = {
        "scenes_without": shop.embeds("scenes_without", shop.pool.scenes_without),
        "subjects": shop.embeds("subjects", shop.pool.subjects),
    }
    batches = adapter_batches(
        shop.pool,
        shop.latents("subjects", shop.pool.subjects),
        embeds,
        shop.tokenizer,
        shop.tokenizer_2,
        seed=shop.seed,
        batch_size=part.batch_size,
    )
    return Recipe(module, batches, lambda folder: publish_adapter(folder, unet), 0.995)


def _styled(shop: Workshop, part: PartConfig) -> Recipe:
    unet = shop.trainable(shop.load("denoiser", "unet"))
    load_adapter(unet, shop.part("adapter"))
    module = StyledModule(
        unet,
        *shop.listened_to(),
        image_size=shop.sizes.image_size,
        lr=part.lr,
        steps=part.steps,
    )

    def publish(folder: Path) -> None:
        publish_adapter(folder, unet)
        without_adapter(unet).save_pretrained(folder / "unet")

    batches = styled_batches(
        shop.pool,
        styled_sources(shop),
        shop.tokenizer,
        shop.tokenizer_2,
        seed=shop.seed,
        batch_size=part.batch_size,
    )
    return Recipe(module, batches, publish, 0.998)


def styled_sources(shop: Workshop) -> StyledSources:
    """The pool as latents to be drawn and as embeddings that say how, in its own colours and in looks."""
    pool = shop.pool
    bright = tonings(pool.subject_styles, 2, shop.seed)
    tones = tonings(pool.scene_styles, pool.plan.drawings_per_scene, shop.seed)
    return StyledSources(
        subjects=plain(shop.latents("subjects", pool.subjects), pool.subject_styles),
        scenes=plain(shop.latents("scenes_with", pool.scenes_with), pool.scene_styles),
        toned_subjects=bright.seen(
            shop.latents("toned_subjects", (lambda: bright.pictures(pool.subjects), bright.look.shape))
        ),
        said_by_scenes=plain(shop.embeds("scenes_without", pool.scenes_without), pool.scene_styles),
        said_by_subjects=plain(shop.embeds("subjects", pool.subjects), pool.subject_styles),
        said_by_toned_scenes=tones.seen(
            shop.embeds(
                "toned_scenes_without", (lambda: tones.pictures(pool.scenes_without), tones.look.shape)
            )
        ),
    )


def _controlnet(shop: Workshop, part: PartConfig) -> Recipe:
    unet = shop.trainable(shop.load("styled", "unet"))
    network = shop.trainable(build_controlnet(unet))
    module = ControlNetModule(
        unet,
        network,
        *shop.listened_to(),
        image_size=shop.sizes.image_size,
        lr=part.lr,
        steps=part.steps,
    )
    batches = controlnet_batches(
        shop.pool,
        shop.latents("subjects", shop.pool.subjects),
        shop.tokenizer,
        shop.tokenizer_2,
        seed=shop.seed,
        batch_size=part.batch_size,
    )
    return Recipe(module, batches, lambda folder: network.save_pretrained(folder / "controlnet"), 0.995)


PARTS_IN_ORDER: dict[str, Callable[[Workshop, PartConfig], Recipe]] = {
    "vae": _vae,
    "clip": _clip,
    "denoiser": _denoiser,
    "adapter": _adapter,
    "styled": _styled,
    "controlnet": _controlnet,
    "remover": edit_part("remove", "remover"),
    "inserter": edit_part("insert", "inserter"),
}
METRIC_PARTS: dict[str, Kind] = {
    "metric_clip": "clip",
    "metric_identity": "identity",
    "metric_style": "style",
}


def assemble(shop: Workshop, facts: dict[str, Any]) -> Path:
    """One folder in half precision with every part and `training.json`, what trained it."""
    target = shop.out / "micro"
    staged = shop.out / "micro.new"
    shutil.rmtree(staged, ignore_errors=True)
    assemble_micro(staged, shop.out / "parts", shop.tokenizer, shop.tokenizer_2, shop.sizes)
    for name, kind in METRIC_PARTS.items():
        shutil.copytree(shop.part(name) / "encoder", staged / "encoders" / kind)
    done = [read_json(shop.part(n) / "done.json") for n in (*PARTS_IN_ORDER, *METRIC_PARTS)]
    write_json(staged / "training.json", {**facts, "pool": shop.pool.plan.key, "parts": done})
    shutil.rmtree(target, ignore_errors=True)
    staged.rename(target)
    return target
