"""A finished personalisation in the file formats of other programs: `format=kohya` or `format=diffusers`.

Both are one LoRA file and one embedding file with a ModelSpec header (Stability's standard for metadata), so that a
program that shows models can say what they are. kohya's trainer, whose names ComfyUI and A1111 read, calls the UNet's
layers as Stability's own code does (`input_blocks`, `middle_block`, `output_blocks`), joins them with underscores, and
stores each layer's alpha beside its matrices; diffusers reads such files too.
"""

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magic_insert.config.schema.jobs import ExportConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_object, write_text
from magic_insert.core.store import Request, claim
from magic_insert.data.subject_files import CARD_FILE, finished_run
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.tensor_file import read_tensors, save_tensors
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.training.model_card import FILE as MODEL_CARD
from magic_insert.training.model_card import model_card

SDXL = "stable-diffusion-xl-v1-base"
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}
LAYERS_PER_BLOCK = 2  # of SDXL, and of the micro model that copies its plan
PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
MATRICES = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}
MAGNITUDE = "lora_magnitude_vector"
INNER = {"resnets": 0, "attentions": 1}
RESNET_PARTS = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
BLOCK = re.compile(
    r"(down_blocks\.(?P<down>\d+)|mid_block|up_blocks\.(?P<up>\d+))\."
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<n>\d+)\.(?P<rest>.+)"
)


def run_export(cfg: ExportConfig) -> list[Path]:
    """Writes the LoRA and the embedding of `cfg.run` into `cfg.out`; their paths.

    Raises:
        UserError: no finished personalisation there, or a LoRA on layers that kohya's format has no name for.
    """
    run, out = finished_run(cfg.run), Path(cfg.out)
    card = read_object(run / CARD_FILE)
    name, base = cfg.name or run.resolve().name, card["base_model"]["name"]
    lora, lora_header = read_tensors(run / LORA_FILE)
    rows, rows_header = read_tensors(run / TOKENS_FILE)
    lora_file, rows_file = out / LORA_FILE, out / TOKENS_FILE
    if cfg.format == "kohya":
        # ComfyUI reads brackets and spaces as syntax.
        name = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "subject"
        lora_file, rows_file = out / f"{name}.safetensors", out / f"{name}-tokens.safetensors"
        stored = json.loads(lora_header["lora_adapter_metadata"])
        scales = {k.removesuffix(".lora_alpha"): v for k, v in stored.items() if k.endswith(".lora_alpha")}
        lora = kohya_state(lora, scales)
        lora_header = {
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(stored["unet.r"]),
            "ss_network_alpha": str(scales["unet"]),
            "ss_base_model_version": "sdxl_base_v1-0" if base == "sdxl" else base,
            "ss_output_name": name,
        }
        rows_header = {}
    claim(out, Request("export", 1, {"of": card.get("key"), "format": cfg.format, "name": name}))
    save_tensors(lora_file, lora, {**lora_header, **model_spec(card, name, "lora", lora)})
    save_tensors(rows_file, rows, {**rows_header, **model_spec(card, name, "textual-inversion", rows)})
    write_text(out / MODEL_CARD, model_card(card, name, lora=lora_file.name, tokens=rows_file.name))
    if cfg.format == "kohya":
        # Up to the next space all is the embedding's name.
        prompt = " ".join(card["prompt"].replace("{tokens}", f" embedding:{rows_file.stem} ").split())
        print(f"in ComfyUI, with {rows_file.name} in models/embeddings, write: {prompt}", file=sys.stderr)
    return [lora_file, rows_file]


def model_spec(
    card: Mapping[str, Any], name: str, kind: str, tensors: Mapping[str, Tensor]
) -> dict[str, str]:
    """The ModelSpec 1.0.0 header of a `kind` (lora, textual-inversion) trained on the model of `card`."""
    size, model = card["image_size"], card["base_model"]["name"]
    sha = hashlib.sha256()
    for _, tensor in sorted(tensors.items()):
        sha.update(tensor.contiguous().numpy().tobytes())
    words = " ".join(card["tokens"])
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{SDXL if model == 'sdxl' else model}/{kind}",
        "modelspec.implementation": "diffusers",
        "modelspec.title": name,
        "modelspec.description": "One subject, learned by Magic Insert: use LoRA and tokens together.",
        "modelspec.trigger_phrase": card["prompt"].replace("{tokens}", words),
        "modelspec.resolution": f"{size}x{size}",
        "modelspec.prediction_type": PREDICTIONS[card["prediction_type"]],
        "modelspec.hash_sha256": f"0x{sha.hexdigest()}",
    }


def stability_name(layer: str) -> str:
    """A UNet layer's name in Stability's code, from its name in diffusers.

    Raises:
        UserError: a layer that SDXL's UNet does not have.
    """
    if layer in OUTER:
        return OUTER[layer]
    found = BLOCK.fullmatch(layer)
    if found is None:
        raise UserError(
            f"expected a layer of SDXL's UNet, got {layer}; export format=diffusers keeps any name"
        )
    kind, number, rest = found["kind"], int(found["n"]), found["rest"]
    span = LAYERS_PER_BLOCK + 1
    if kind == "resnets":
        part, _, tail = rest.partition(".")
        rest = ".".join(filter(None, (RESNET_PARTS[part], tail)))
    if kind == "downsamplers":
        return f"input_blocks.{span * (int(found['down']) + 1)}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{span * int(found['up']) + LAYERS_PER_BLOCK}.2.{rest}"
    if found["down"] is not None:
        return f"input_blocks.{1 + span * int(found['down']) + number}.{INNER[kind]}.{rest}"
    if found["up"] is not None:
        return f"output_blocks.{span * int(found['up']) + number}.{INNER[kind]}.{rest}"
    return f"middle_block.{1 if kind == 'attentions' else 2 * number}.{rest}"


def kohya_state(state: Mapping[str, Tensor], scales: Mapping[str, float]) -> dict[str, Tensor]:
    """A LoRA in kohya's names.

    Args:
        state: the tensors of a diffusers LoRA file.
        scales: alpha of each network (`unet`, `text_encoder`, `text_encoder_2`) that has a LoRA.

    Raises:
        UserError: see `stability_name`.
    """
    renamed = {}
    for key, tensor in state.items():
        network, _, rest = key.partition(".")
        ending = next((end for end in (*MATRICES, MAGNITUDE) if rest.endswith(f".{end}")), None)
        if ending is None:
            raise UserError(
                f"expected LoRA matrices, got {rest}; export a folder that magic-insert personalize wrote"
            )
        layer = rest.removesuffix(f".{ending}")
        own = stability_name(layer) if network == "unet" else layer
        name = PREFIXES[network] + own.replace(".", "_")
        renamed[f"{name}.alpha"] = torch.tensor(float(scales[network]))
        if ending == MAGNITUDE:
            # One number per output channel, along the first axis of the weight it scales.
            channels = tensor.numel()
            renamed[f"{name}.dora_scale"] = tensor.reshape(channels, *([1] * max(1, tensor.dim() - 1)))
        else:
            renamed[f"{name}.{MATRICES[ending]}"] = tensor
    return renamed
