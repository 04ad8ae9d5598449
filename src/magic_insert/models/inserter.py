"""Edit UNets: one denoiser that redraws a picture so that a subject belongs in it (or was never there).

ObjectDrop's two tasks share one layout (arXiv 2403.18818, section 4): the UNet sees the noisy latent of its answer, the
latent of the condition picture *with nothing masked out*, and the mask at latent size, and is prompted with the empty
string. Shape letters: B pictures, H, W rows and columns, C latent channels, h, w latent rows and columns. Pictures and
masks are float32 in [0, 1]; C follows from the UNet, whose input has 2C + 1 channels.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from magic_insert.core.errors import UserError
from magic_insert.core.rand import generator
from magic_insert.models.edit_lora import FILE as LORA_FILE
from magic_insert.models.edit_lora import load_edit_lora
from magic_insert.models.latents import decode, encode
from magic_insert.models.sampling import image_size, time_ids
from magic_insert.models.tensor_file import DAMAGED, verify_folder

REFERENCES = ("vae", "unmasked", "input")


def nobody_watches(step: int) -> None:
    """The default of `on_step`."""


def load_edit_unet(
    folder: Path, *, device: torch.device | str = "cpu", base: UNet2DConditionModel | None = None
) -> UNet2DConditionModel:
    """The remover or inserter saved in `folder`, in float32, ready to draw.

    Args:
        base: the UNet of the pipeline, from which one that was kept as a LoRA is made.

    Raises:
        UserError: no such folder, or the network in it does not take 2C + 1 channels.
    """
    if base is not None and (folder / LORA_FILE).is_file():
        return load_edit_lora(folder, base).to(device).eval().requires_grad_(False)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"expected an inserter (config.json and safetensors) in {folder}, got none; set its folder"
        )
    verify_folder(folder)
    try:
        unet, found = UNet2DConditionModel.from_pretrained(
            folder, use_safetensors=True, torch_dtype=torch.float32, output_loading_info=True
        )
    except DAMAGED as error:
        raise UserError(f"expected an edit network in {folder}, got: {str(error).splitlines()[0]}") from error
    if strange := [*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]]:
        raise UserError(
            f"expected the weights of the network in {folder}, got others: {strange[0]} does not fit"
        )
    taken, given = unet.config["in_channels"], unet.config["out_channels"]
    if taken != 2 * given + 1:
        raise UserError(
            f"expected {2 * given + 1} input channels (noisy, condition, mask) in {folder}, got {taken}"
        )
    return unet.to(device).eval().requires_grad_(False)


def edit_scheduler(pipe: Any) -> DDIMScheduler:
    """The pipeline's noise schedule as edits are trained and drawn with it."""
    return DDIMScheduler.from_config(pipe.scheduler.config)


def latent_mask(mask: Float[Tensor, "B 1 H W"], height: int, width: int) -> Float[Tensor, "B 1 h w"]:
    """The mask at latent size: the covered share of each latent cell."""
    return functional.adaptive_avg_pool2d(mask, (height, width))


def edit_input(
    noisy: Float[Tensor, "B C h w"], condition: Float[Tensor, "B C h w"], mask: Float[Tensor, "B 1 h w"]
) -> Float[Tensor, "B D h w"]:
    """The channels an edit UNet reads, in ObjectDrop's order; D = 2C + 1."""
    return torch.cat([noisy, condition, mask], dim=1)


def empty_prompt(pipe: Any, batch: int) -> dict[str, Any]:
    """Keyword arguments that tell the UNet of `pipe` "no prompt", for a batch; text-time ids say "a whole picture"."""
    tokens, _, pooled, _ = pipe.encode_prompt(
        prompt="", device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return {
        "encoder_hidden_states": tokens.float().expand(batch, -1, -1),
        "added_cond_kwargs": {
            "text_embeds": pooled.float().expand(batch, -1),
            "time_ids": time_ids(pipe, image_size(pipe), batch).float(),
        },
    }


@torch.no_grad()
def edit(
    pipe: Any,
    unet: UNet2DConditionModel,
    image: Float[Tensor, "B 3 H W"],
    mask: Float[Tensor, "B 1 H W"],
    *,
    seed: int,
    ids: Sequence[str],
    steps: int,
    on_step: Callable[[int], None] = nobody_watches,
) -> Float[Tensor, "B 3 H W"]:
    """The picture redrawn by an edit UNet: deterministic DDIM from noise named by `seed` and the row's id.

    A row's picture depends on its own image, mask, id and the seed only, never on its neighbours in the batch.

    Args:
        pipe: the SDXL-format pipeline that lends its autoencoder, text encoders and schedule.
        image: the condition picture; nothing in it is masked out.
        ids: one name per row, for the noise.
        on_step: called with the number of steps done.
    """
    if len(ids) != len(image):
        raise ValueError(f"expected one id per picture ({len(image)}), got {len(ids)}")
    condition = encode(pipe.vae, image)
    cells = latent_mask(mask, *condition.shape[-2:])
    prompt = empty_prompt(pipe, len(image))
    scheduler = edit_scheduler(pipe)
    scheduler.set_timesteps(steps, device=condition.device)
    # Drawn on the CPU, so that a GPU starts from the same noise.
    noise = [torch.randn(condition.shape[1:], generator=generator(seed, "edit", name)) for name in ids]
    latent = torch.stack(noise).to(condition) * scheduler.init_noise_sigma
    for done, timestep in enumerate(scheduler.timesteps, start=1):
        guess = unet(edit_input(latent, condition, cells), timestep, return_dict=False, **prompt)[0]
        latent = scheduler.step(guess, timestep, latent, eta=0.0, return_dict=False)[0]
        on_step(done)
    return decode(pipe.vae, latent)


@torch.no_grad()
def noop(
    pipe: Any,
    unet: UNet2DConditionModel,
    image: Float[Tensor, "B 3 H W"],
    mask: Float[Tensor, "B 1 H W"],
    *,
    reference: str,
    seed: int,
    ids: Sequence[str],
    steps: int,
    on_step: Callable[[int], None] = nobody_watches,
) -> Float[Tensor, "B 3 H W"]:
    """What the same machinery makes of `image` when it is to change nothing; the effect is judged against this.

    "input": the picture itself. "vae": the autoencoder's round trip, which cancels the decoder's errors. "unmasked":
    the edit with an empty mask and the same noise, which also cancels the sampler's; the network was never trained
    on an empty mask, so how still it stays is a measurement and not a promise.
    """
    if reference == "input":
        return image
    if reference not in REFERENCES:
        raise ValueError(f"expected a reference among {', '.join(REFERENCES)}, got {reference!r}")
    if reference == "vae":
        return decode(pipe.vae, encode(pipe.vae, image))
    return edit(pipe, unet, image, torch.zeros_like(mask), seed=seed, ids=ids, steps=steps, on_step=on_step)
