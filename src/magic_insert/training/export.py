"""A finished personalisation in the file formats of other programs: `format=kohya` or `format=diffusers`.

Both are one LoRA file and one embedding file with a ModelSpec header (Stability's standard for metadata), so that a
program that shows models can say what they are.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from magic_insert.config.schema import ExportConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_object
from magic_insert.core.store import Request, claim
from magic_insert.data.subject_files import CARD_FILE
from magic_insert.models.kohya import alphas, kohya_state
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.tensor_file import read_tensors, save_tensors
from magic_insert.models.text import FILE as TOKENS_FILE

SDXL = "stable-diffusion-xl-v1-base"
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}


def run_export(cfg: ExportConfig) -> list[Path]:
    """Writes the LoRA and the embedding of `cfg.run` into `cfg.out`; their paths.

    Raises:
        UserError: no finished personalisation there, or a LoRA on layers that kohya's format has no name for.
    """
    run, out = Path(cfg.run), Path(cfg.out)
    if not (run / CARD_FILE).is_file():
        raise UserError(
            f"expected a finished personalisation at {run}, got no {CARD_FILE} there; set run=FOLDER"
        )
    card = read_object(run / CARD_FILE)
    name = cfg.name or run.resolve().name
    lora, lora_header = read_tensors(run / LORA_FILE)
    rows, rows_header = read_tensors(run / TOKENS_FILE)
    lora_file, rows_file = out / LORA_FILE, out / TOKENS_FILE
    if cfg.format == "kohya":
        lora_file, rows_file = out / f"{name}.safetensors", out / f"{name}-tokens.safetensors"
        scales = alphas(lora_header)
        lora = kohya_state(lora, scales)
        config = card["config"]
        lora_header = {
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(config["rank"]),
            "ss_network_alpha": str(config["alpha"]),
            "ss_base_model_version": "sdxl_base_v1-0",
            "ss_output_name": name,
        }
        rows_header = {}
    claim(out, Request("export", 1, {"of": card.get("key"), "format": cfg.format, "name": name}))
    save_tensors(lora_file, lora, {**lora_header, **model_spec(card, name, "lora", lora)})
    save_tensors(rows_file, rows, {**rows_header, **model_spec(card, name, "textual-inversion", rows)})
    return [lora_file, rows_file]


def model_spec(
    card: Mapping[str, Any], name: str, kind: str, tensors: Mapping[str, Tensor]
) -> dict[str, str]:
    """The ModelSpec 1.0.0 header of a `kind` (lora, textual-inversion) trained on the model of `card`."""
    size = card["image_size"]
    model = card.get("request", {}).get("model", {}).get("name", "sdxl")
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
