"""Where the weights of a job lie: folders of models, edit networks and segmenters, judged before torch is imported."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from magic_insert import paths
from magic_insert.config.schema.shared import InserterConfig, ModelConfig, SegmenterConfig
from magic_insert.core.errors import UserError, require_package
from magic_insert.core.jsonl import read_object

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PINNED = re.compile(rf"{HUB_ID.pattern}@[\w.-]+")  # a repository of the hub at a commit
PIPELINES = ("StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline")
VOCABULARIES = ("tokenizer.json", "vocab.json")  # without one a tokenizer knows no word
NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2", "image_encoder")
WEIGHTS = "diffusion_pytorch_model.safetensors"
LORA_WEIGHTS, LORA_CARD = "edit_lora.safetensors", "edit_lora.json"
# What a remover or an inserter is: weights and what describes them, whole or as a LoRA beside the model.
NETWORK_FILES = {WEIGHTS: "config.json", LORA_WEIGHTS: LORA_CARD}
EDIT_INSERTERS = ("diffusion", "bootstrapped")  # are edit networks
REMBG_WEIGHTS = "u2netp.onnx"
PRODUCTS = {"remove": "remover", "insert": "inserter"}  # of a training, by its task


@dataclass(frozen=True)
class Folders:
    """Where the weights lie: the model's folder (None: from the hub), the inserter's, the segmenter's."""

    model: Path | None
    inserter: Path | None
    segmenter: Path | None


def find_folders(model: ModelConfig | None, inserter: InserterConfig, segmenter: SegmenterConfig) -> Folders:
    """The folders of the weights that these settings need; `model` None: they need none.

    Raises:
        UserError: one is missing.
    """
    model_folder = None if model is None else find_model(model)
    return Folders(model_folder, find_inserter(inserter, model_folder), find_segmenter(segmenter))


def find_segmenter(cfg: SegmenterConfig) -> Path | None:
    """The folder of segmentation weights; raises `UserError` where rembg lacks its package or its weights."""
    folder = None if cfg.model_dir is None else Path(cfg.model_dir)
    if cfg.name == "rembg":
        do = "pip install 'magic-insert[rembg]' or set segmenter=grabcut"
        require_package("rembg", "segmenter=rembg", do)
        if folder is None or not (folder / REMBG_WEIGHTS).is_file():
            raise UserError(
                f"expected {REMBG_WEIGHTS} in a folder for segmenter=rembg, got {cfg.model_dir}; "
                "set segmenter.model_dir=FOLDER or segmenter=grabcut"
            )
    return folder


def find_model(cfg: ModelConfig) -> Path | None:
    """The local folder of the model; None when it is a pinned hub id, which only the hub can judge.

    Raises:
        UserError: neither a pinned hub id nor a folder with a whole SDXL model.
    """
    if cfg.source is None and cfg.name != "micro":
        raise UserError(
            f"expected model.source for the model {cfg.name!r}, got null; set model.source=FOLDER"
        )
    folder = paths.micro_dir() if cfg.source is None else Path(cfg.source).expanduser()
    if cfg.source is None or folder.is_dir():
        _check_layout(folder)
        return folder
    if folder.is_absolute() or cfg.source.startswith((".", "~")) or not HUB_ID.fullmatch(cfg.source):
        raise UserError(f"expected a model folder or hub id, got {cfg.source}; set model.source=FOLDER")
    if not cfg.revision:
        raise UserError(
            f"expected a folder at {cfg.source}, or a pinned commit to load it from the hub; "
            "set model.revision=COMMIT"
        )
    return None


def variant_of(model: ModelConfig, folder: Path | None) -> str | None:
    """The variant to load: of a folder whichever is there, the plain files where the asked-for ones are not."""
    if folder is None:
        return model.variant
    home = folder / "unet"
    stored = {path.name.split(".")[1] for path in home.glob("diffusion_pytorch_model.*.safetensors")}
    if model.variant in stored or not (home / WEIGHTS).is_file():
        return model.variant if model.variant in stored else min(stored, default=None)
    return None


def _check_layout(folder: Path) -> None:
    index = folder / "model_index.json"
    parts = read_object(index) if index.is_file() else {}
    trouble = None
    if not parts:
        trouble = "no model_index.json there"
    elif (kind := parts.get("_class_name")) not in PIPELINES:
        trouble = f"a {kind}"
    for name, library in parts.items():
        if isinstance(library, list) and None not in library:
            files = VOCABULARIES if name.startswith("tokenizer") else ("*",)
            if not any(any((folder / name).glob(file)) for file in files):
                trouble = trouble or f"no {name} there"
            elif name in NETWORKS and not any((folder / name).glob("*.safetensors")):
                trouble = trouble or f"no *.safetensors in {name}"
    if trouble:
        raise UserError(f"expected a complete SDXL model in {folder}, got {trouble}; set model.source=FOLDER")


def find_inserter(cfg: InserterConfig, model_folder: Path | None) -> Path | None:
    """Where the weights of the inserter lie: shipped with the model, or left by a run; None where none are needed.

    Raises:
        UserError: they are not there.
    """
    if cfg.name == "effect":
        folder = paths.effect_weights().parent if cfg.run is None else Path(cfg.run)
        weights = [folder / path.name for path in (paths.effect_weights(), paths.relight_weights())]
        if not any(os.access(path, os.R_OK) for path in weights):
            raise UserError(
                f"expected {weights[0].name} or {weights[1].name} for inserter=effect in {folder}, got neither; "
                "set inserter.run=FOLDER"
            )
        return folder
    if cfg.name == "diffusers":
        find_pipeline(cfg.run or "", "inserter.run")
        return None
    if cfg.name not in EDIT_INSERTERS:
        return None if cfg.run is None else Path(cfg.run)
    wanted_for = f"inserter={cfg.name}; set inserter.run=FOLDER, or inserter=diffusers inserter.run=PIPELINE"
    return edit_folder("inserter", cfg.run, model_folder, wanted_for)


def find_remover(run: str | None, model_folder: Path | None) -> Path:
    """Where the weights of the remover lie: in `run`, or beside the model's; raises `UserError` elsewhere."""
    wanted_for = "remove; set run=FOLDER, or remover=diffusers run=FOLDER of an inpainting pipeline"
    return edit_folder("remover", run, model_folder, wanted_for)


def find_start(task: str, init: str, model: ModelConfig) -> Path | None:
    """The folder of the edit network that a training of `task` starts from; None: from the model's own UNet.

    Raises:
        UserError: there is none.
    """
    if init == "base":
        return None
    run, wanted_for = None if init == "shipped" else init, f"train.init={init}; set train.init=base"
    return edit_folder(PRODUCTS[task], run, find_model(model), wanted_for)


def find_effect_start(init: str) -> Path | None:
    """The effect network that a training goes on from, or that the relighting network is told by; None: from none.

    Raises:
        UserError: there is none.
    """
    name = paths.effect_weights().name
    start = {"base": None, "shipped": paths.effect_weights()}.get(init, Path(init) / name)
    if start is not None and not os.access(start, os.R_OK):
        raise UserError(
            f"expected an effect network at {start} for train.init, got none; set train.init=shipped"
        )
    return start


def find_pipeline(named: str, key: str) -> None:
    """That `named` may be a pipeline of diffusers: a folder with its index, or a pinned repository, which is not asked.

    Raises:
        UserError: neither.
    """
    folder = Path(named).expanduser()
    if not (folder / "model_index.json").is_file() and (folder.exists() or not PINNED.fullmatch(named)):
        raise UserError(
            f"expected a diffusers pipeline at {named}, got no model_index.json there; "
            f"set {key}=FOLDER or {key}=owner/name@COMMIT"
        )


def edit_folder(part: str, run: str | None, model_folder: Path | None, wanted_for: str) -> Path:
    """The folder `part` of `run`, or of the model, with weights of an edit network; else raises `UserError`."""
    home = Path(run) if run is not None else model_folder
    if home is None:
        raise UserError(
            f"expected a run folder with {part}/, because a model from the hub brings none, got nothing, "
            f"for {wanted_for}"
        )
    return require_network(home / part, wanted_for)


def require_network(folder: Path, wanted_for: str) -> Path:
    """The folder, which has weights of an edit network; raises `UserError` where it has none that can be read."""
    if not any(os.access(folder / name, os.R_OK) for name in NETWORK_FILES):
        raise UserError(f"expected {WEIGHTS} or {LORA_WEIGHTS} in {folder}, got none, for {wanted_for}")
    return folder


def weights_in(folder: Path) -> Path:
    """The file of weights in a folder of an edit model."""
    return next(folder / name for name in NETWORK_FILES if (folder / name).is_file())
