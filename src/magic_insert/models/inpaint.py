"""Plain inpainting with the text-to-image model itself: the alternative that Magic Insert rejects (section 3.3).

Blended latent diffusion: at every step, what is not to be redrawn is put back, noised to the step's level (Avrahami et
al. 2023, algorithm 1; RePaint, Lugmayr et al. 2022, without resampling). No network is trained for it, so nothing tells
the model that the subject should throw a shadow. Pictures and regions are float32 in [0, 1]; 1 is redrawn.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from magic_insert.core.rand import generator
from magic_insert.models.inserter import edit_scheduler, empty_prompt, nobody_watches
from magic_insert.models.latents import decode, encode
from magic_insert.models.style import blank_style, has_adapter


@torch.no_grad()
def inpaint(
    pipe: Any,
    image: Float[Tensor, "B 3 H W"],
    region: Float[Tensor, "B 1 H W"],
    *,
    seed: int,
    ids: Sequence[str],
    steps: int,
    on_step: Callable[[int], None] = nobody_watches,
) -> Float[Tensor, "B 3 H W"]:
    """The picture with `region` redrawn under the empty prompt; a latent cell that the region touches is redrawn.

    A row depends on its own image, region, id and the seed only. Outside the region the result is the autoencoder's
    round trip of the picture.
    """
    if len(ids) != len(image):
        raise ValueError(f"expected one id per picture ({len(image)}), got {len(ids)}")
    known = encode(pipe.vae, image)
    cells = functional.adaptive_max_pool2d(region, known.shape[-2:]).to(known)
    prompt = empty_prompt(pipe, len(image))
    if has_adapter(pipe):
        prompt["added_cond_kwargs"]["image_embeds"] = [
            blank_style(pipe, 1).expand(len(image)).positive.float()
        ]
    scheduler = edit_scheduler(pipe)
    scheduler.set_timesteps(steps, device=known.device)
    # Drawn on the CPU, so that a GPU starts from the same noise.
    draws = [torch.randn(known.shape[1:], generator=generator(seed, "inpaint", name)) for name in ids]
    noise = torch.stack(draws).to(known)
    latent = noise * scheduler.init_noise_sigma
    times = [*scheduler.timesteps[1:], None]
    for done, (timestep, following) in enumerate(zip(scheduler.timesteps, times, strict=True), start=1):
        inputs = latent.to(pipe.unet.dtype)
        guess = pipe.unet(inputs, timestep, return_dict=False, **_cast(prompt, pipe.unet.dtype))[0].float()
        latent = scheduler.step(guess, timestep, latent, eta=0.0, return_dict=False)[0]
        kept = known if following is None else scheduler.add_noise(known, noise, following[None])
        latent = cells * latent + (1 - cells) * kept
        on_step(done)
    return decode(pipe.vae, latent)


def _cast(prompt: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The prompt in the precision of the network."""
    added = {
        name: [part.to(dtype) for part in value] if isinstance(value, list) else value.to(dtype)
        for name, value in prompt["added_cond_kwargs"].items()
    }
    return {"encoder_hidden_states": prompt["encoder_hidden_states"].to(dtype), "added_cond_kwargs": added}
