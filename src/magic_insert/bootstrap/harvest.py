"""Harvest: the remover takes the subject out of every picture of the pool (paper, section 3).

Settings: steps, batch_size, seed. Inputs: pool, model, remover. Output: `without/ID.png`.
"""

from pathlib import Path
from typing import Any

from magic_insert.bootstrap.files import WITH, WITHOUT, ids_of, place, read_index
from magic_insert.bootstrap.payload import chunks, my_share, read_payload, watched
from magic_insert.bootstrap.pictures import load, load_masks, save
from magic_insert.config.schema import ModelConfig
from magic_insert.core.ranks import local_rank
from magic_insert.models.inserter import edit, load_edit_unet
from magic_insert.models.zoo import load_pipeline, resolve_device


def open_model(model: ModelConfig) -> Any:
    """The pipeline that lends autoencoder, text encoders and schedule, on this rank's device."""
    device = resolve_device(model.device)
    return load_pipeline(model, f"cuda:{local_rank()}" if device.type == "cuda" else device)


def run_harvest(path: Path) -> None:
    """Stage: remove every subject."""
    payload = read_payload(path)
    settings, pool = payload.settings, payload.inputs["pool"]
    groups = my_share(
        chunks(read_index(pool), settings["batch_size"]),
        lambda group: all(place(payload.out, WITHOUT, item.id).is_file() for item in group),
    )
    if not groups:
        return
    pipe = open_model(payload.model)
    remover = load_edit_unet(payload.inputs["remover"], device=pipe.device)
    for group in watched(payload, groups, "removing subjects"):
        ids = ids_of(group)
        removed = edit(
            pipe,
            remover,
            load(pool, WITH, ids).to(pipe.device),
            load_masks(pool, ids).to(pipe.device),
            seed=settings["seed"],
            ids=ids,
            steps=settings["steps"],
        )
        for name, picture in zip(ids, removed, strict=True):
            save(payload.out, WITHOUT, name, picture)
