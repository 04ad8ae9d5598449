"""Pipelines of diffusers that somebody else trained, as inserters and removers: inpainting and editing, by instruction.

One that inpaints redraws what surrounds the pasted subject, or the hole where an object was; one that edits redraws the
whole window as the prompt asks. Either way the answer reaches the picture as every answer does: as an effect layer on
its own pixels, and in a removal as the fill of the hole.
Shape letters: H side of the square window, s side the pipeline draws at; float32 in [0, 1].
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage, AutoPipelineForInpainting, DiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.compositing import area_resize
from magic_insert.core.errors import UserError
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.images import to_pil
from magic_insert.core.rand import generator
from magic_insert.models.edit_unet import EditSampling
from magic_insert.models.hub import UNREACHABLE, Place
from magic_insert.models.pipeline import quiet, signature
from magic_insert.models.tensor_file import DAMAGED, verify_folder

PARTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
MULTIPLE, LARGEST = 16, 1024  # of the side drawn, in pixels


@dataclass(frozen=True)
class Runtime:
    """Where a pipeline runs and how precisely; `offload`: only the part in use is on the GPU."""

    device: torch.device | str
    dtype: torch.dtype
    offload: bool


class ForeignModel:
    """An inpainting or editing pipeline at its own resolution, which draws as `inserters.edit.EditModel` does.

    `inpaints`: it is given a mask. `digest`: of its denoiser, in any precision.
    """

    def __init__(self, named: str, key: str, *, prompt: str, guidance: float | None, run: "Runtime") -> None:
        """Loads the pipeline `named` by the configuration's `key`.

        Raises:
            UserError: no such pipeline, or one that neither inpaints nor edits.
        """
        self.named, self.key, self.prompt, self.guidance = named, key, prompt, guidance
        self.pipe = load_foreign(named, key, run)
        self.takes = inspect.signature(self.pipe.__call__).parameters
        self.inpaints = "mask_image" in self.takes
        self.vae: Any = getattr(self.pipe, "vae", None)
        denoiser = getattr(self.pipe, "unet", None) or self.pipe.transformer
        self.digest = signature(denoiser.state_dict()).hex()[:16]
        cells: Any = getattr(denoiser.config, "sample_size", None) or getattr(
            self.pipe, "default_sample_size", 128
        )
        drawn = min(LARGEST, cells * getattr(self.pipe, "vae_scale_factor", 8))
        self.side = max(MULTIPLE, drawn // MULTIPLE * MULTIPLE)

    @property
    def weights(self) -> Mapping[str, str]:
        """What tells this pipeline from others, for a record."""
        kind = type(self.pipe).__name__
        return {"pipeline": self.named, "pipeline_class": kind, "pipeline_digest": self.digest}

    def draw(
        self,
        window: Float[Tensor, "3 H H"],
        mask: Float[Tensor, "1 H H"],
        how: EditSampling,
        *,
        reference: str,
        on_step: OnStep = no_step,
    ) -> tuple[Float[Tensor, "3 s s"], Float[Tensor, "3 s s"]]:
        """The window redrawn where `mask` is above 0 (wholly by one that takes no mask), and its `reference`.

        The noise is named by the seed and the id of `how`. "unmasked" is the "vae" of a pipeline that is not ours.

        Raises:
            UserError: too few steps, or the pipeline withheld its picture.
        """
        if "strength" in self.takes and int(how.steps * self.takes["strength"].default) < 1:
            steps = self.key.removesuffix("run") + "steps"
            raise UserError(
                f"expected at least 2 steps of {self.named}, which leaves the first one out, got {how.steps}; "
                f"set {steps}=2"
            )
        small = area_resize(window, self.side, self.side)
        covered = (area_resize(mask, self.side, self.side) > 0).float()
        words = {"height": self.side, "width": self.side, "num_images_per_prompt": 1}
        asked = {
            "prompt": self.prompt,
            "image": to_pil(small),
            "num_inference_steps": how.steps,
            "generator": generator(how.seed, "diffusers", how.ids[0]),
            "output_type": "pt",
            **{name: value for name, value in words.items() if name in self.takes},
            **self._guided(),
        }
        if self.inpaints:
            asked["mask_image"] = to_pil(covered.expand(3, -1, -1)).convert("L")
        if "callback_on_step_end" in self.takes:

            def stepped(pipe: Any, done: int, time: Any, held: dict[str, Any]) -> dict[str, Any]:
                on_step(done + 1, pipe.num_timesteps)
                return held

            asked["callback_on_step_end"] = stepped
        with torch.no_grad(), quiet():
            answer = self.pipe(**asked)
        if any(getattr(answer, "nsfw_content_detected", None) or []):
            raise UserError(
                f"expected a picture from {self.named}, got one that its safety checker withheld; set another seed"
            )
        output = area_resize(answer.images[0].float().cpu().clamp(0, 1), self.side, self.side)
        still = small if reference == "input" or self.vae is None else self._round_trip(small)
        return output.to(window), still.to(window)

    def _guided(self) -> dict[str, Any]:
        """The scale of guidance under the pipeline's own name: Qwen-Image calls classifier-free guidance "true"."""
        given: dict[str, Any] = {}
        own = self.takes.get("guidance_scale")
        true = "true_cfg_scale" in self.takes and (own is None or own.default is None)
        if true:
            given["negative_prompt"] = " "  # without one it is not guided at all
        if self.guidance is not None:
            given["true_cfg_scale" if true else "guidance_scale"] = self.guidance
        return given

    @torch.no_grad()
    def _round_trip(self, small: Float[Tensor, "3 s s"]) -> Float[Tensor, "3 s s"]:
        """`small` through the autoencoder, which cancels the decoder's errors."""
        precision = self.vae.dtype
        with quiet():
            if getattr(self.vae.config, "force_upcast", False):  # overflows in float16
                self.vae.to(torch.float32)
        pixels = (2 * small - 1)[None].to(self.pipe._execution_device, self.vae.dtype)
        if isinstance(self.vae, AutoencoderKLQwenImage):  # a video of one picture
            pixels = pixels[:, :, None]
        again = self.vae.decode(self.vae.encode(pixels).latent_dist.mode(), return_dict=False)[0]
        with quiet():
            self.vae.to(precision)
        return (again.reshape(3, *again.shape[-2:]).float().cpu() / 2 + 0.5).clamp(0, 1)


def load_foreign(named: str, key: str, run: Runtime) -> Any:
    """The pipeline in the folder or of the repository `named`, which inpaints or edits pictures.

    One that draws from words alone inpaints where diffusers has a pipeline for that with the same parts.

    Raises:
        UserError: not a pipeline, damaged files, or one that cannot be given a picture.
    """
    if (place := Place.find(named)) is None:
        raise UserError(
            f"expected a folder or owner/name@COMMIT of a diffusers pipeline, got {named}; set {key}=FOLDER"
        )
    if place.folder is not None:
        verify_folder(place.folder, PARTS)
    try:
        with quiet():
            pipe = DiffusionPipeline.from_pretrained(
                place.name, dtype=run.dtype, variant=_variant(place), **place.options
            )
    except UNREACHABLE as error:
        raise place.refusal(error, "a pipeline", key) from error
    except (*DAMAGED, AttributeError, ImportError) as error:
        raise place.refusal(error, "a pipeline that diffusers knows", key) from error
    if "image" not in inspect.signature(pipe.__call__).parameters:
        try:
            with quiet():
                pipe = AutoPipelineForInpainting.from_pipe(pipe)
        except ValueError as error:
            raise UserError(
                f"expected a pipeline that inpaints or edits at {named}, got a {type(pipe).__name__}; set {key}=FOLDER"
            ) from error
    pipe.set_progress_bar_config(disable=True)
    with quiet():
        if run.offload and torch.device(run.device).type == "cuda":
            pipe.enable_model_cpu_offload(device=run.device)
            return pipe
        return pipe.to(run.device)


def _variant(place: Place) -> str | None:
    """Of a folder whichever its denoiser has, where it has no plain files; of a repository fp16, where it has that."""
    if place.folder is None:
        return "fp16" if place.file("unet/diffusion_pytorch_model.fp16.safetensors") else None
    names = [p.name for part in PARTS[:2] for p in (place.folder / part).glob("*.safetensors")]
    plain = [name for name in names if name.count(".") == 1]
    return None if plain or not names else min(name.split(".")[1] for name in names)
