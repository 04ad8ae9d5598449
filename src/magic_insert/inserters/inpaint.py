"""The alternative that the paper rejects: the base model redraws the neighbourhood of the subject, which is kept.

Blended latent diffusion (Magic Insert, section 3.3): at every step, what is not to be redrawn is put back, noised to
the step's level (Avrahami et al. 2023, algorithm 1; RePaint, Lugmayr et al. 2022, without resampling). No network is
trained for it, so nothing tells the model that the subject should throw a shadow.

Shape letters: B pictures, H, W rows and columns, s side the model draws at; float32 in [0, 1], 1 is redrawn.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from magic_insert.core.compositing import area_resize
from magic_insert.core.events import OnStep, no_step
from magic_insert.inserters.base import MARGIN, InserterBase, Insertion, Window, neighbourhood
from magic_insert.models.edit_unet import EditSampling, empty_prompt, predict
from magic_insert.models.ip_adapter import blank_style, has_adapter
from magic_insert.models.pipeline import ddim, decode, encode
from magic_insert.models.sampling import image_size


class InpaintInserter(InserterBase):
    """Inpainting by the base model, without any training for insertion."""

    recorded = ("steps", "reference")

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Its settings and how far it redraws."""
        return {**super().provenance, "inserter_margin": MARGIN}

    def __call__(self, window: Window, *, on_step: OnStep = no_step) -> Insertion:
        """The window at the model's side, its subject's neighbourhood redrawn."""
        pipe, side = self.pipe, image_size(self.pipe)
        small = area_resize(window.pasted, side, side)[None].to(pipe.device)
        ring = neighbourhood(area_resize(window.mask, side, side))[None].to(pipe.device)
        how = EditSampling(window.seed, [window.id], self.settings.steps)
        output = inpaint(pipe, small, ring, how, on_step)
        # Where nothing is redrawn, inpainting gives the round trip; an "unmasked" run of it would be just that.
        still = small if self.settings.reference == "input" else decode(pipe.vae, encode(pipe.vae, small))
        drawn, reference = (picture[0].to(window.mask.device) for picture in (output, still))
        return Insertion.measured(drawn, reference, window.mask, self.settings)


@torch.no_grad()
def inpaint(
    pipe: Any,
    image: Float[Tensor, "B 3 H W"],
    region: Float[Tensor, "B 1 H W"],
    how: EditSampling,
    on_step: OnStep = no_step,
) -> Float[Tensor, "B 3 H W"]:
    """The picture with `region` redrawn under the empty prompt; a latent cell that the region touches is redrawn.

    A row depends on its own image, region, id and the seed only. Outside the region the result is the autoencoder's
    round trip of the picture.
    """
    known = encode(pipe.vae, image)
    cells = functional.adaptive_max_pool2d(region, known.shape[-2:]).to(known)
    prompt = empty_prompt(pipe, len(image))
    if has_adapter(pipe):
        prompt["added_cond_kwargs"]["image_embeds"] = [
            blank_style(pipe, 1).expand(len(image)).positive.float()
        ]
    scheduler = ddim(pipe)
    scheduler.set_timesteps(how.steps, device=known.device)
    noise = how.noise("inpaint", known)
    latent = noise * scheduler.init_noise_sigma
    times = [*scheduler.timesteps[1:], None]
    for done, (timestep, following) in enumerate(zip(scheduler.timesteps, times, strict=True), start=1):
        guess = predict(pipe.unet, latent, timestep, prompt)
        latent = scheduler.step(guess, timestep, latent, eta=0.0, return_dict=False)[0]
        kept = known if following is None else scheduler.add_noise(known, noise, following[None])
        latent = cells * latent + (1 - cells) * kept
        on_step(done, how.steps)
    return decode(pipe.vae, latent)
