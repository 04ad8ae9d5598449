"""A complete micro model with random weights, for tests and benches."""

from dataclasses import replace
from pathlib import Path

import torch

from magic_insert.models.edit_unet import edit_start, save_unet
from magic_insert.models.micro import (
    MICRO,
    TINY,
    build_controlnet,
    build_image_encoder,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    build_vae,
    ip_adapter_state,
    load_tokenizers,
    save_ip_adapter,
    save_pipeline,
)

# `tiny` is as shallow as the UNet's blocks allow; `deep` has as many layers in a block as SDXL.
SIZES = {"tiny": replace(TINY, unet_layers=1), "deep": TINY, "micro": MICRO}


def build_micro(folder: Path, *, seed: int = 0, size: str = "tiny") -> Path:
    """Write a complete micro folder with random weights: pipeline, adapter, ControlNet, remover, inserter."""
    sizes = SIZES[size]
    folder = Path(folder)
    phrases = ["a yellow striped bunny with a red hat, sitting, as a pencil drawing"]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        build_tokenizer(folder / "tokenizer", phrases, context=sizes.context)
        tokenizer, tokenizer_2 = load_tokenizers(folder / "tokenizer")
        unet = build_unet(sizes)
        parts = {
            "vae": build_vae(sizes),
            "text_encoder": build_text_encoder(sizes, tokenizer, second=False),
            "text_encoder_2": build_text_encoder(sizes, tokenizer, second=True),
            "tokenizer": tokenizer,
            "tokenizer_2": tokenizer_2,
            "unet": unet,
            "image_encoder": build_image_encoder(sizes),
        }
        save_pipeline(folder, sizes, parts)
        state = ip_adapter_state(unet, sizes.embed_dim)
        flat = {f"{part}.{k}": v for part, values in state.items() for k, v in values.items()}
        save_ip_adapter(folder, flat)
        controlnet = build_controlnet(unet)
        # Zero convolutions would make it a network that no test can tell from its absence.
        for layer in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
            torch.nn.init.normal_(layer.weight, std=0.05)
        torch.nn.init.normal_(controlnet.controlnet_cond_embedding.conv_out.weight, std=0.1)
        controlnet.save_pretrained(folder / "controlnet")
        for task in ("remover", "inserter"):
            save_unet(folder / task, edit_start(unet))
    return folder
