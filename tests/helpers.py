"""What several tests need: a job's settings, small pictures and masks by formula, plain diffusers, a folder's files."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from magic_insert.cli.main import main
from magic_insert.config.compose import compose_job
from magic_insert.config.freeze import freeze
from magic_insert.config.schema.shared import ModelConfig
from magic_insert.core.images import save_png
from magic_insert.core.rand import generator
from magic_insert.core.records import Subject


def rectangle(height: int, width: int, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """A mask 1HW that is one from the first to before the last of these rows and columns."""
    mask = torch.zeros(1, height, width)
    mask[:, slice(*rows), slice(*columns)] = 1
    return mask


def block(seed: int = 0, text: str = "") -> Subject:
    """A subject of noise, 50 x 40 pixels, whose matte is a rectangle."""
    alpha = rectangle(50, 40, (10, 40), (10, 30))
    return Subject(torch.rand(3, 50, 40, generator=generator(seed, "subject")), alpha, "block", text=text)


def noise(seed: int | str = 0, height: int = 60, width: int = 80) -> Tensor:
    """A scene 3HW of noise."""
    return torch.rand(3, height, width, generator=generator(0, "scene", seed))


def oval(size: int = 80, colour: float = 0.8) -> Tensor:
    """A picture of a subject on white, 4 x size x size, with its matte."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    inside = (((x / 0.5) ** 2 + (y / 0.8) ** 2) < 1).float()[None]
    rgb = torch.stack([colour + 0.1 * x, 0.3 + 0.1 * y, 1 - colour + 0 * x])
    return torch.cat([rgb * inside + (1 - inside), inside])


def frozen(job: str, *words: str) -> Any:
    """The configuration of `magic-insert JOB WORDS`, checked."""
    return freeze(compose_job(job, list(words)))


def save_pair(files: Mapping[str, Path], name: str) -> None:
    """A picture of 64 pixels with a square on it, without it, and where it is, in the files of these layers."""
    without = 0.5 * torch.rand(3, 64, 64, generator=generator(0, name))
    mask = rectangle(64, 64, (20, 50), (24, 44))
    layers = {"with": torch.where(mask > 0, 1.0, without), "without": without, "mask": mask}
    for layer, image in layers.items():
        save_png(files[layer], image)


def tiny_config(source: Path | str | None, **changes: Any) -> ModelConfig:
    """A model of 64 pixels on the CPU."""
    named = {"name": "tiny", "source": str(source) if source else None, "image_size": 64, "device": "cpu"}
    return ModelConfig(**{**named, **changes})


def exit_code(*words: str | Path) -> int:
    """Of `magic-insert WORDS`, run in this process."""
    try:
        main([str(word) for word in words])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def plain_pipe(folder: Path) -> Any:
    """A model folder in plain diffusers, none of our code, without the adapter."""
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@contextmanager
def serving(server: Any) -> Iterator[Any]:
    """A page's server at work in a thread of its own."""
    with server:
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join(10)


def flip(path: Path, bit: int = -1) -> None:
    """One bit of a file becomes another; counted from the end where negative."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def module_at(path: Path) -> ModuleType:
    """The Python file at `path`, imported by its path."""
    loader = SourceFileLoader(path.stem, str(path))
    spec = spec_from_loader(path.stem, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module
