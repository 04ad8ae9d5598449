"""Blend: a round's network drawn back towards the one it was trained from, weight by weight.

    w = (1 - share) * start + share * trained        (Wortsman et al. 2022, "Robust fine-tuning", arXiv 2109.01903)

What few pictures teach survives the middle of that line, what they make a network forget mostly does not. A stage of
its own, so that another share trains nothing anew. Settings: task, share. Inputs: start, trained. Output: `inserter/`
or `remover/`.
"""

from pathlib import Path

from magic_insert.bootstrap.payload import read_payload
from magic_insert.core.ranks import rank
from magic_insert.models.edit_start import blended, save_unet
from magic_insert.models.inserter import load_edit_unet
from magic_insert.training.insertion_fit import PRODUCTS


def run_blend(path: Path) -> None:
    """Stage: write the blended network; one rank's work."""
    payload = read_payload(path)
    if rank() != 0:
        return
    product = PRODUCTS[payload.settings["task"]]
    start = load_edit_unet(payload.inputs["start"])
    trained = load_edit_unet(payload.inputs["trained"])
    save_unet(payload.out / product, blended(start, trained, payload.settings["share"]))
