"""Style from a picture through a frozen IP-Adapter: which blocks listen to it, how loudly, and what they hear.

The style picture is turned into image tokens once; the blocks are chosen by name. A pipeline rests with the adapter
at scale 0, where every layer of the adapter skips it: that is exactly the model without an adapter.

Shape letters: B pictures, K adapter inputs per picture (1), D width of the image embedding.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from magic_insert.core.compositing import centre_square
from magic_insert.core.errors import UserError, require_known
from magic_insert.core.images import to_pil
from magic_insert.models.tensor_file import read_tensors
from magic_insert.models.text import tokenize

# InstantStyle's style block is the middle attention of the up block next to the mid block; the paper of Magic Insert
# names the whole block ("the upsample block adjacent to the midblock"), so both can be asked for.
PRESETS = {"instantstyle": ("up_blocks.0.attentions.1",), "up0": ("up_blocks.0",), "all": ("",)}
Square = Literal["crop", "pad"]
# What a style picture is compared with, the photograph first, each in every place; a cosine is multiplied by SHARPNESS.
LOOKS = (
    "as a photo", "as a cartoon", "as a cel animation", "as a watercolour painting", "as an oil painting",
    "as a pencil drawing", "as an ink drawing", "as a crayon drawing", "as pixel art", "as a halftone print",
    "as a blueprint", "as a papercut", "as a vintage photo", "as a charcoal drawing", "as a mosaic", "as a neon sign",
    "as a woodcut print",
)  # fmt: skip
PLACES = (
    "in a room", "on a street", "in a forest", "on a beach", "in a desert", "on a stage", "in a cave",
    "in a snow field", "in a kitchen", "in a garden", "on a rooftop", "in a temple", "in a library", "on the moon",
    "in a playground",
)  # fmt: skip
SHARPNESS = 20.0


@dataclass(frozen=True)
class StyleEmbeds:
    """What the adapter hears with and without a style, B x 1 x D each (B x 1 x T x D for a `plus` adapter)."""

    positive: Float[Tensor, "B 1 *T D"]
    negative: Float[Tensor, "B 1 *T D"]

    def __len__(self) -> int:
        return len(self.positive)

    def expand(self, count: int) -> "StyleEmbeds":
        """The one style repeated for `count` pictures; a batch of `count` styles is returned as it is."""
        if len(self) == count:
            return self
        assert len(self) == 1, f"1 or {count} styles"
        shape = (count, *self.positive.shape[1:])
        return StyleEmbeds(self.positive.expand(shape), self.negative.expand(shape))


def has_adapter(pipe: Any) -> bool:
    """Whether an IP-Adapter is loaded into the pipeline's UNet."""
    return getattr(pipe.unet.config, "encoder_hid_dim_type", None) == "ip_image_proj"


def require_adapter(pipe: Any, instead: str = "style.mode=none") -> None:
    """That the model can hear a picture; raises `UserError` with the setting to do without otherwise."""
    if not has_adapter(pipe):
        raise UserError(
            f"expected a model with an IP-Adapter for style from a picture, got none; set {instead}"
        )


def square_style_image(image: Float[Tensor, "3 H W"], how: Square = "crop") -> Float[Tensor, "3 S S"]:
    """A square version of the style picture, because CLIP's preprocessing would silently cut it to its centre.

    `crop` keeps the centre: undistorted texture, no invented ground. `pad` keeps everything and fills the rest with
    the mean colour of the picture's border, for pictures whose composition matters.
    """
    if how == "crop":
        return centre_square(image)
    height, width = image.shape[-2:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    border = torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], dim=1).mean(dim=1)
    canvas = border[:, None, None].expand(3, side, side).clone()
    canvas[:, top : top + height, left : left + width] = image
    return canvas


def adapter_state(file: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of an adapter's file in its two parts, as diffusers loads them."""
    state: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in read_tensors(file).tensors.items():
        part, _, name = key.partition(".")
        state.setdefault(part, {})[name] = value
    return state


def adapter_processors(unet: Any) -> dict[str, Any]:
    """The attention processors that can hear an adapter, by name."""
    return {name: p for name, p in unet.attn_processors.items() if hasattr(p, "to_k_ip")}


def check_blocks(unet: Any, blocks: str | Sequence[str]) -> Sequence[str]:
    """The names that `blocks` (a preset, or names) stands for.

    Raises:
        UserError: an unknown preset, or a name under which no layer listens.
    """
    if isinstance(blocks, str):
        require_known("style.blocks, if it is no list of block names,", blocks, list(PRESETS))
        blocks = PRESETS[blocks]
    for block in blocks:
        if not any(_within(name, block) for name in adapter_processors(unet)):
            raise UserError(
                f"expected a UNet block that hears the adapter, got {block!r}; set style.blocks=all"
            )
    return blocks


def adapter_switch(unet: Any, blocks: str | Sequence[str], scale: float = 1.0) -> Callable[[bool], None]:
    """What turns the adapter to `scale` in `blocks` (a preset, or names such as `up_blocks.0`), or off.

    It is 0 in other blocks. The layers are looked up here, once: in every step of a small model that would tell.

    Raises:
        UserError: see `check_blocks`.
    """
    blocks = check_blocks(unet, blocks)
    layers = [
        (processor, scale if any(_within(name, block) for block in blocks) else 0.0)
        for name, processor in adapter_processors(unet).items()
    ]

    def switch(on: bool) -> None:
        for processor, at in layers:
            processor.scale = [at if on else 0.0] * len(processor.scale)

    return switch


def disable_adapter(unet: Any) -> None:
    """Turns the adapter off: every layer of it is then skipped."""
    for processor in adapter_processors(unet).values():
        processor.scale = [0.0] * len(processor.scale)


def _within(name: str, block: str) -> bool:
    return block == "" or name.startswith(f"{block}.")


@contextmanager
def adapter_at(pipe: Any, blocks: str | Sequence[str], scale: float) -> Iterator[None]:
    """Inside this block the named layers hear the adapter at `scale`; afterwards none does.

    Raises:
        UserError: a scale other than 0 without an adapter; see `check_blocks`.
    """
    if not has_adapter(pipe) and scale == 0:
        yield
        return
    require_adapter(pipe)
    adapter_switch(pipe.unet, blocks, scale)(True)
    try:
        yield
    finally:
        disable_adapter(pipe.unet)


@torch.no_grad()
def style_embeds(pipe: Any, images: Sequence[Float[Tensor, "3 _ _"]], how: Square = "crop") -> StyleEmbeds:
    """The adapter's input for each style picture ([0, 1]), encoded by the model's own CLIP image encoder.

    Raises:
        UserError: the pipeline has no IP-Adapter.
    """
    require_adapter(pipe)
    pictures = [to_pil(square_style_image(image, how)) for image in images]
    positive, negative = pipe.encode_image(pictures, pipe.device, 1, _wants_tokens(pipe))
    return StyleEmbeds(positive[:, None], negative[:, None])


@torch.no_grad()
def photo_shares(pipe: Any, styles: StyleEmbeds) -> list[float] | None:
    """How much each style picture reads as a photograph among LOOKS, from 0 to 1, by the model's own CLIP.

    What it shows is left out by summing over PLACES. None where the image encoder and the second text encoder share no
    space, as with an adapter of another encoder.
    """
    if styles.positive.flatten(1).shape[1] != pipe.text_encoder_2.config.projection_dim:
        return None
    words = text_rows(pipe, [f"{place} {look}" for look in LOOKS for place in PLACES])
    likeness = picture_rows(styles).to(words.device) @ words.T
    photographs = (likeness * SHARPNESS).softmax(dim=1)[:, : len(PLACES)]
    return photographs.sum(dim=1).tolist()


def picture_rows(styles: StyleEmbeds) -> Float[Tensor, "B D"]:
    """Style pictures as unit rows of the model's own CLIP."""
    return functional.normalize(styles.positive.flatten(1).float(), dim=-1)


@torch.no_grad()
def text_rows(pipe: Any, texts: Sequence[str]) -> Float[Tensor, "T D"]:
    """Texts as unit rows of the second text encoder, whose space a CLIP image encoder may share."""
    encoder, ids = pipe.text_encoder_2, tokenize(pipe.tokenizer_2, texts)
    return functional.normalize(encoder(ids.to(encoder.device)).text_embeds.float(), dim=-1)


@torch.no_grad()
def blank_style(pipe: Any, count: int) -> StyleEmbeds:
    """Zeros of the right shape, for a UNet with an adapter at scale 0: it insists on being given something."""
    encoder = pipe.image_encoder.config
    tokens = (encoder.image_size // encoder.patch_size) ** 2 + 1
    tail = (tokens, encoder.hidden_size) if _wants_tokens(pipe) else (encoder.projection_dim,)
    zeros = torch.zeros(count, 1, *tail, device=pipe.device, dtype=pipe.unet.dtype)
    return StyleEmbeds(zeros, zeros)


def _wants_tokens(pipe: Any) -> bool:
    """Whether the adapter reads all of CLIP's tokens (`plus` adapters) and not its one pooled embedding."""
    return not hasattr(pipe.unet.encoder_hid_proj.image_projection_layers[0], "image_embeds")
