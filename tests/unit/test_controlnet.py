"""Laws of structure: diffusers reads the folder, strength 0 is absence, rows follow their own edges."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline, StableDiffusionXLPipeline
from helpers import rectangle, tiny_config

from magic_insert.core.errors import UserError
from magic_insert.core.rand import generator
from magic_insert.models.hub import Place
from magic_insert.models.ip_adapter import style_embeds
from magic_insert.models.lora import add_lora, save_lora
from magic_insert.models.micro import MICRO, TINY, build_controlnet, build_unet
from magic_insert.models.pipeline import load_pipeline
from magic_insert.models.sampling import Features, Structure, canny_edges, controlnet_of, sample
from magic_insert.models.text import attached, initial_tokens


def edges(seed: int) -> torch.Tensor:
    return canny_edges(torch.rand(3, 64, 64, generator=generator(seed, "edges")))


def test_a_dark_square_has_edges_along_its_border_and_nowhere_else() -> None:
    found = canny_edges(1 - rectangle(64, 64, (16, 48), (16, 48)).expand(3, -1, -1))
    assert found.unique().tolist() == [0, 1]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert found[:, 20:44, 20:44].sum() == 0
    assert found[:, :13].sum() == 0
    assert found[0, 13:20, 30].sum() >= 1
    assert canny_edges(torch.full((3, 32, 32), 0.7)).sum() == 0


def test_plain_diffusers_draws_the_same_picture(tiny_pipe: Any, stock_pipe: Any, tiny_micro: Path) -> None:
    features = Features(Structure(controlnet_of(tiny_pipe), edges(0)[None], 0.6))
    ours = sample(tiny_pipe, ["a red bunny"], [1], steps=2, guidance=2.0, features=features)[0]
    network = ControlNetModel.from_pretrained(tiny_micro / "controlnet", local_files_only=True)
    stock = StableDiffusionXLControlNetPipeline(
        **{k: v for k, v in stock_pipe.components.items() if v is not None},
        controlnet=network,
        add_watermarker=False,
        force_zeros_for_empty_prompt=False,
    )
    stock.set_progress_bar_config(disable=True)
    shown = {"image": edges(0)[None], "controlnet_conditioning_scale": 0.6}
    how = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "pt"}
    theirs = stock("a red bunny", **shown, **how, generator=torch.Generator().manual_seed(1)).images[0]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_a_fresh_network_changes_nothing_and_begins_as_the_unets_encoder() -> None:
    unet = build_unet(TINY).eval()
    network = build_controlnet(unet).eval()
    inputs, time = torch.randn(1, TINY.latent_channels, 8, 8), torch.tensor(500)
    added = {"text_embeds": torch.randn(1, TINY.embed_dim), "time_ids": torch.ones(1, 6)}
    structure = Structure(network, edges(0)[None], [1.0])
    with torch.no_grad():
        got = structure.residuals(inputs, time, torch.randn(1, 5, TINY.cross_dim), added)
    assert len(got["down_block_additional_residuals"]) == 9
    assert all(not r.any() for r in got["down_block_additional_residuals"])
    assert not got["mid_block_additional_residual"].any()
    key = "down_blocks.2.resnets.0.conv1.weight"
    assert torch.equal(network.state_dict()[key], unet.state_dict()[key])


def test_no_network_or_another_models_is_refused(stock_pipe: Any, tiny_micro: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="structure=none"):
        controlnet_of(stock_pipe)
    build_controlnet(build_unet(MICRO)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="in_channels"):
        controlnet_of(load_pipeline(tiny_config(tiny_micro, controlnet=str(tmp_path))))


def test_tokens_lora_adapter_and_controlnet_load_in_any_order(tiny_micro: Path, tmp_path: Path) -> None:
    def fresh() -> Any:
        pipe = StableDiffusionXLPipeline.from_pretrained(tiny_micro, local_files_only=True)
        pipe.controlnet_source = Place(str(tiny_micro / "controlnet"))
        return pipe

    trained = fresh()
    for parameter in add_lora(trained.unet, rank=2, alpha=2.0, seed=0):
        parameter.data.add_(0.05)
    save_lora(tmp_path / "pytorch_lora_weights.safetensors", trained.unet)

    def lora(pipe: Any) -> None:
        pipe.load_lora_weights(tmp_path, local_files_only=True)

    def adapter(pipe: Any) -> None:
        pipe.load_ip_adapter(tiny_micro, subfolder="ip_adapter", weight_name="ip_adapter_micro.safetensors")

    learned = initial_tokens(trained, 1, word="bunny")
    pictures = []
    for number, parts in enumerate(((lora, adapter, controlnet_of), (controlnet_of, adapter, lora))):
        pipe = fresh()
        with ExitStack() as stack:
            order = list(parts)
            order.insert(2 * number, lambda pipe, stack=stack: stack.enter_context(attached(pipe, learned)))
            for load in order:
                load(pipe)
            style = style_embeds(pipe, [torch.rand(3, 64, 64, generator=generator(0, "style"))])
            structure = Structure(controlnet_of(pipe), edges(0)[None], 0.6)
            drawn = sample(pipe, ["a red <v1>"], [1], steps=2, style=style, features=Features(structure))
        pictures.append(drawn)
    assert all(torch.equal(pictures[0], picture) for picture in pictures[1:])
    assert (pictures[0] - sample(fresh(), ["a red <v1>"], [1], steps=2)).abs().max() > 1e-4
