#!/usr/bin/env python3
"""Converts the public checkpoint of CSD to safetensors, once. Usage: tools/convert_csd.py pytorch_model.bin OUT

The checkpoint (Somepalli et al. 2024) is a pickle; only tensors and plain records are read, nothing in it is run.
"""

import argparse
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.models.tensor_file import save_tensors

# pytorch_model.bin of tomg-group-umd/CSD-ViT-L at 5bc26a6fb0487f3f00a2a7313135103a005b1b67
CHECKPOINT_SHA256 = "40e92fad63a361b8136100cd234c42d401ef9b34ff1748234318929ebcc7e7a1"
STYLE_HEAD, CONTENT_HEAD = "last_layer_style", "last_layer_content"


def style_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint's tensors under `CsdNet`'s names: the wrapper's prefix off, the content head left out.

    Raises:
        UserError: keys that are no part of CSD, or no style head: another layout must not load half.
    """
    named = {key.removeprefix("module."): value for key, value in state.items()}
    strange = [
        key for key in named if not key.startswith("backbone.") and key not in (STYLE_HEAD, CONTENT_HEAD)
    ]
    if strange or STYLE_HEAD not in named:
        raise UserError(
            f"expected a CSD checkpoint with backbone.* and {STYLE_HEAD}, got "
            f"{', '.join(strange[:3]) or 'no style head'}; is it another model?"
        )
    return {key: value.float().contiguous() for key, value in named.items() if key != CONTENT_HEAD}


def convert(checkpoint: Path, out: Path, *, expected_sha256: str | None = CHECKPOINT_SHA256) -> str:
    """Write the style model of a CSD checkpoint as safetensors; returns the sha256 of the file written.

    The checkpoint is read with `weights_only=True`: besides tensors only the training script's argument record and the
    optimiser's numpy scalars are allowed, and nothing is executed.

    Raises:
        UserError: no such file, another digest than `expected_sha256`, not a CSD checkpoint.
    """
    if not checkpoint.is_file():
        raise UserError(f"expected the CSD checkpoint, got no file at {checkpoint}")
    found = sha256_file(checkpoint)
    if expected_sha256 is not None and found != expected_sha256:
        raise UserError(
            f"expected {checkpoint} with sha256 {expected_sha256[:16]}..., got {found[:16]}...; download it again"
        )
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    allowed: list[Any] = [
        argparse.Namespace,
        np.dtype,
        np.dtypes.Float64DType,
        np.dtypes.Int64DType,
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise UserError(
            f"expected a checkpoint with only tensors and records in {checkpoint}, got something else; "
            "nothing of it was run"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("model_state_dict"), dict):
        raise UserError(f"expected model_state_dict in {checkpoint}, got none; is it another model?")
    tensors = style_tensors(content["model_state_dict"])
    save_tensors(out, tensors, {"source_sha256": found})
    return sha256_file(out)


def main(arguments: list[str]) -> int:
    """`CHECKPOINT OUT`: convert, print the digest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    try:
        print(convert(options.checkpoint, options.out))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
