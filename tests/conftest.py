"""Shared pieces: a tiny model of SDXL's real classes with random weights, built once, loaded as often as needed."""

import gc
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

# Imports make a million objects and no garbage: the collector rests until they are done.
gc.disable()
# Processes that tests start run the sources that the tests run, wherever the package is installed from.
TESTS = Path(__file__).parent
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(TESTS.parent / "src"), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
)


def pytest_collection_finish() -> None:
    """What the imports made stays: the collector need not look through it again at every module of a network."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Triton, where a test imported it, reports every object that is still there when the process ends."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def tiny_micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of the micro model: 64 pixels, random weights."""
    from random_micro import build_micro

    return build_micro(tmp_path_factory.mktemp("models") / "tiny", seed=0, size="tiny")


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders with the hub's own layout, file names and configuration values at the smallest widths."""
    from hub_model import build_hub

    return build_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="session")
def hub_pipe(hub: Any) -> Any:
    """The base model of `hub` in float32 at 64 pixels; whoever changes it puts it back."""
    from helpers import tiny_config

    from magic_insert.models.pipeline import load_pipeline

    torch.set_num_threads(1)
    return load_pipeline(tiny_config(hub.base, name="sdxl"))


@pytest.fixture(scope="session")
def tiny_pipe(tiny_micro: Path) -> Any:
    """The tiny model as the library loads it; whoever changes it puts it back."""
    from helpers import tiny_config

    from magic_insert.models.pipeline import load_pipeline

    torch.set_num_threads(1)
    return load_pipeline(tiny_config(tiny_micro))


@pytest.fixture(scope="session")
def loaded_once() -> Any:
    """`load_pipeline` that remembers what it loaded."""
    from magic_insert.models.pipeline import load_pipeline

    return cache(load_pipeline)


@pytest.fixture(scope="module")
def one_model(loaded_once: Any) -> Iterator[None]:
    """A model, which every job loads in a process of its own, is loaded once by those that run in this one."""
    from magic_insert.bootstrap import networks, pool
    from magic_insert.models import pipeline
    from magic_insert.training import insertion_job

    with pytest.MonkeyPatch.context() as patch:
        for module in (pipeline, networks, pool, insertion_job):
            patch.setattr(module, "load_pipeline", loaded_once)
        yield


@pytest.fixture
def stock_pipe(tiny_micro: Path) -> Any:
    """The same folder in plain diffusers, none of our code, without the adapter."""
    from helpers import plain_pipe

    return plain_pipe(tiny_micro)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real browser, for all tests that need one."""
    from browser import browser_page, find_browser

    if find_browser() is None:
        pytest.skip("no Chromium on this machine")
    with browser_page(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page in a real browser; the test leaves it without a complaint."""
    chromium.look(width=1280, height=900)
    chromium.complaints.clear()
    yield chromium
    assert chromium.complaints == []
    chromium.open("about:blank")


@pytest.fixture(scope="session")
def adain_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random AdaIN networks of the published shape, whose pictures stay inside [0, 1] and do depend on their input."""
    from safetensors.torch import save_file

    from magic_insert.stylizers.adain import DECODER_FILE, ENCODER_FILE, build_decoder, build_encoder

    folder = tmp_path_factory.mktemp("adain")
    networks = {ENCODER_FILE: build_encoder(), DECODER_FILE: build_decoder()}
    draw = torch.Generator().manual_seed(0)
    for name, network in networks.items():
        for layer in network:
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight, generator=draw)
                torch.nn.init.zeros_(layer.bias)
        if name == DECODER_FILE:
            with torch.no_grad():
                network[-1].weight.mul_(0.03)
                network[-1].bias.fill_(0.5)
        save_file(network.state_dict(), folder / name)
    return folder
