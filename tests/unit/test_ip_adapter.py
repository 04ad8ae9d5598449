"""Laws of style: scale 0 is the model without an adapter, presets are diffusers' own, rows hear their own picture."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from magic_insert.core.errors import UserError
from magic_insert.core.rand import generator
from magic_insert.models import ip_adapter
from magic_insert.models.sampling import sample


def picture(seed: int, height: int = 70, width: int = 90) -> torch.Tensor:
    return torch.rand(3, height, width, generator=generator(seed, "picture"))


def scales(pipe: Any) -> dict[str, list[float]]:
    return {name: list(p.scale) for name, p in ip_adapter.adapter_processors(pipe.unet).items()}


def draw(
    pipe: Any, style: ip_adapter.StyleEmbeds | None = None, seeds: tuple[int, ...] = (1,)
) -> torch.Tensor:
    return sample(pipe, ["a red bunny"] * len(seeds), seeds, steps=2, guidance=2.0, style=style)


@pytest.mark.parametrize(
    ("preset", "diffusers_scale"),
    [
        ("instantstyle", {"up": {"block_0": [0.0, 0.7]}}),
        (["up_blocks.0.attentions.1"], {"up": {"block_0": [0.0, 0.7]}}),
        ("up0", {"up": {"block_0": 0.7}}),
        ("all", 0.7),
    ],
)
def test_a_preset_is_what_diffusers_sets(tiny_pipe: Any, preset: Any, diffusers_scale: Any) -> None:
    ip_adapter.adapter_switch(tiny_pipe.unet, preset, 0.7)(True)
    ours = scales(tiny_pipe)
    tiny_pipe.set_ip_adapter_scale(diffusers_scale)
    assert ours == scales(tiny_pipe)
    assert any(value == [0.7] for value in ours.values())
    ip_adapter.disable_adapter(tiny_pipe.unet)


@pytest.mark.parametrize("blocks", ["middle", ["up_blocks.7"], ["up_blocks.0.att"]])
def test_a_block_where_nothing_listens_is_refused(tiny_pipe: Any, blocks: Any) -> None:
    with pytest.raises(UserError, match=r"style\.blocks"):
        ip_adapter.adapter_switch(tiny_pipe.unet, blocks)


def test_an_adapter_is_absent_at_scale_zero_and_outside_its_block(tiny_pipe: Any, stock_pipe: Any) -> None:
    heard = ip_adapter.style_embeds(tiny_pipe, [picture(0)])
    with ip_adapter.adapter_at(tiny_pipe, "all", 0.0):
        torch.testing.assert_close(draw(tiny_pipe, heard), draw(stock_pipe), atol=1e-5, rtol=0)
    with pytest.raises(RuntimeError, match="stop"), ip_adapter.adapter_at(tiny_pipe, "all", 1.0):
        raise RuntimeError("stop")
    assert set(map(tuple, scales(tiny_pipe).values())) == {(0.0,)}


def test_a_model_without_adapter_refuses_a_style_picture(stock_pipe: Any) -> None:
    with pytest.raises(UserError, match="IP-Adapter"):
        ip_adapter.style_embeds(stock_pipe, [picture(0)])
    with pytest.raises(UserError, match="IP-Adapter"), ip_adapter.adapter_at(stock_pipe, "all", 1.0):
        pass


@pytest.mark.parametrize("shape", [(70, 90), (90, 70), (64, 64)])
def test_cropping_keeps_the_centre_and_padding_keeps_everything(shape: tuple[int, int]) -> None:
    image = picture(0, *shape)
    cropped, padded = ip_adapter.square_style_image(image), ip_adapter.square_style_image(image, "pad")
    assert cropped.shape == (3, min(shape), min(shape))
    assert padded.shape == (3, max(shape), max(shape))
    top, left = (shape[0] - cropped.shape[1]) // 2, (shape[1] - cropped.shape[2]) // 2
    assert torch.equal(cropped, image[:, top : top + min(shape), left : left + min(shape)])
    top, left = (max(shape) - shape[0]) // 2, (max(shape) - shape[1]) // 2
    assert torch.equal(padded[:, top : top + shape[0], left : left + shape[1]], image)


def test_a_photograph_is_told_from_drawings_wherever_it_was_taken() -> None:
    """Pictures as the shipped model's own words for them, so that what they show is the only other thing they say."""
    folder = Path(__file__).parents[2] / "data" / "micro"
    pipe = SimpleNamespace(
        tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2"),
    )
    shares = []
    for look in ("photo", "watercolour painting", "pencil drawing"):
        rows = ip_adapter.text_rows(pipe, [f"{place} as a {look}" for place in ip_adapter.PLACES])
        pictures = ip_adapter.StyleEmbeds(rows[:, None], torch.zeros_like(rows)[:, None])
        found = ip_adapter.photo_shares(pipe, pictures)
        assert found is not None
        assert all(0 < share < 1 for share in found)
        shares.append(found)
    assert min(shares[0]) > 3 * max(*shares[1], *shares[2])
