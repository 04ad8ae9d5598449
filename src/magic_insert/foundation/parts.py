"""The parts of the micro model but the generator: what they share, how each learns, how it is published.

A `Recipe` is one part's module, batches and product; the `Context` gives it the pool, and the pool seen through parts
that are finished, which is computed once and kept in the run's store as float16 arrays.

The autoencoder is trained on crops, because an f8 convolutional code is local, and warmed up on principal components.
From scratch a small convolutional autoencoder spends its first thousand steps on finding any code at all (measured:
15 dB after 300 steps, whatever the width, norm or rate). Patches have a good linear code in closed form, so in the
first half the encoder is taught that code and the decoder learns to read it; then both go on together, freely.
One contrastive training gives the three text and image encoders. Remover and inserter learn ObjectDrop's two tasks on
photographs alone; the other styles are left for the bootstrap to win.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from magic_insert.config.schema.training import PartConfig
from magic_insert.core.digest import digest
from magic_insert.core.fidelity import decibel
from magic_insert.core.jsonl import read_record
from magic_insert.core.rand import generator
from magic_insert.core.store import MANIFEST, Manifest, Request, Store
from magic_insert.data.renders import ToyboxPool
from magic_insert.models import micro
from magic_insert.models.edit_unet import edit_start
from magic_insert.models.pipeline import plain_attention
from magic_insert.models.text import conditioning, tokenize
from magic_insert.toybox.styles import style_phrase
from magic_insert.training import insertion
from magic_insert.training.trainer import TrainingModule

BatchAt = Callable[[int], Any]
Encode = Callable[[Tensor], Tensor]  # uint8 B 3 H W -> B ...
Pictures = Callable[[], np.ndarray]  # uint8 [..., 3, H, W], made when they are needed
# Pictures of the pool [..., 3, H, W], or what makes them and how many: made only if nothing of them is kept yet.
Source = np.ndarray | tuple[Pictures, tuple[int, ...]]
ENCODED_TOGETHER = 8  # pictures that stay in a CPU's cache: 0.6 of the time of sixty-four
PATCH = 8  # the autoencoder's downsampling factor
WARM_SHARE = 0.5  # share of the steps in which the linear code is the teacher
# Afterwards: weight of the logarithm, whose slope is 1 / error, so that easy pictures go on to count; the floor keeps
# it finite. Half of the posterior's noise is enough for latents that a network imagined to be decoded well.
DECIBEL_WEIGHT, ERROR_FLOOR, FREE_NOISE = 0.008, 1e-4, 0.5
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
EFFECT_WEIGHT = 12.0  # measured: half a decibel more in the effect region after 350 steps than without
TIME_SHIFT = 3.0  # noisy times more often: an edit is decided there
PHOTO = 0  # drawing 0 of the pool: the domain the edit models start from


@dataclass(frozen=True)
class Recipe:
    """One part: its module, its batches, and how the trained module is written into the part's folder.

    `precision` None: the job's. `whole_batch`: its loss compares the rows of a batch with each other.
    """

    module: TrainingModule
    batch_at: BatchAt
    publish: Callable[[Path], None]
    ema_decay: float | None = None
    precision: str | None = None
    whole_batch: bool = False


@dataclass
class Context:
    """What the parts share; a finished part is read back from disk, never handed on in memory."""

    out: Path
    store: Store
    pool: ToyboxPool
    sizes: micro.MicroSizes
    seed: int
    device: str
    precision: str
    tokenizer: Any
    tokenizer_2: Any

    def part(self, name: str) -> Path:
        return self.out / "parts" / name

    def load(self, part: str, name: str) -> Any:
        """A published network, frozen, on the device."""
        return micro.load_part(self.part(part) / name, name).to(self.device).eval().requires_grad_(False)

    def text_encoders(self) -> tuple[Any, Any]:
        """Both text encoders, frozen."""
        return self.load("clip", "text_encoder"), self.load("clip", "text_encoder_2")

    def trainable(self, unet: Any) -> Any:
        """`unet` with the attention code that trains fastest on the device."""
        if self.device == "cpu":
            plain_attention(unet)
        return unet

    def latents(self, name: str, source: Source, *, flip: bool = False) -> np.ndarray:
        """Pool pictures as scaled latents."""
        encode = vae_encoder(self._vae, self.device, autocast=self.precision != "32-true")
        return self._encoded("vae", f"{name}{'-flip' if flip else ''}", source, encode, flip=flip)

    @cached_property
    def _vae(self) -> Any:
        return self.load("vae", "vae")

    def embeds(self, name: str, source: Source) -> np.ndarray:
        """Pool pictures as image-encoder embeddings [..., D]."""
        encoder = self.load("clip", "image_encoder")

        @torch.no_grad()
        def encode(images: Tensor) -> Tensor:
            return encoder(clip_pixels(images.to(self.device))).image_embeds.float()

        return self._encoded("clip", name, source, encode)

    def _encoded(
        self, part: str, name: str, source: Source, encode: Encode, *, flip: bool = False
    ) -> np.ndarray:
        """`encode`, made of a finished part, over every picture of `source`."""
        made_from = read_record(self.part(part) / MANIFEST, Manifest)
        request = Request(
            "encoded",
            1,
            {"pictures": name, "seed": self.seed},  # the looks of toned pictures depend on the seed
            {"pool": self.pool.plan.key, part: digest(made_from.files)},
        )
        entry = self.store.obtain(
            request, lambda staging: np.save(staging / "values.npy", encode_array(source, encode, flip=flip))
        )
        return np.load(entry.folder / "values.npy")


def vae_encoder(vae: Any, device: str, *, autocast: bool) -> Encode:
    """uint8 pictures to scaled posterior means, B C h w float32."""
    scale = float(vae.config.scaling_factor)

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        pixels = images.to(device).float() / 127.5 - 1.0
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=autocast):
            mean = vae.encode(pixels).latent_dist.mean
        return mean.float() * scale

    return encode


def encode_array(source: Source, encode: Encode, *, flip: bool = False) -> np.ndarray:
    """`encode` over every picture of `source`, as float16."""
    make, count = (lambda: source, source.shape[:-3]) if isinstance(source, np.ndarray) else source
    pictures = make()
    flat = pictures.reshape(-1, *pictures.shape[-3:])
    outputs = []
    for start in range(0, len(flat), ENCODED_TOGETHER):
        images = torch.from_numpy(flat[start : start + ENCODED_TOGETHER].copy())
        outputs.append(encode(images.flip(-1) if flip else images).cpu().to(torch.float16).numpy())
    joined = np.concatenate(outputs)
    return joined.reshape(*count, *joined.shape[1:])


class PatchCode(nn.Module):
    """The C leading principal components of 8 x 8 RGB patches, each divided by the root of its standard deviation.

    Full whitening would make fine texture as loud as the layout; none would drown it. B 3 H W -> B C H/8 W/8.
    """

    def __init__(self, images: Tensor, channels: int):
        super().__init__()
        patches = F.pixel_unshuffle(images, PATCH).permute(0, 2, 3, 1).flatten(0, 2)
        mean = patches.mean(dim=0)
        _, spread, basis = torch.linalg.svd(patches - mean, full_matrices=False)
        deviation = spread[:channels] / len(patches) ** 0.5
        # The sign of a component is arbitrary; the largest entry made positive fixes it.
        top = basis[:channels]
        signs = top.gather(1, top.abs().argmax(dim=1, keepdim=True)).sign()
        self.register_buffer("mean", mean)
        self.register_buffer("basis", (top * signs).T / deviation.clamp(min=1e-6).sqrt())

    mean: Tensor
    basis: Tensor

    def forward(self, images: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(images, PATCH).permute(0, 2, 3, 1)
        return ((patches - self.mean) @ self.basis).permute(0, 3, 1, 2)


class VaeModule(TrainingModule):
    """AutoencoderKL by the error of the picture and a light KL term.

    While the linear code teaches: squared and absolute error, which keeps lines crisp. Then squared error and its
    logarithm, picture by picture, which is what PSNR counts (experiments/LOG.md: 2 dB in long legs of it).
    """

    KL_WEIGHT = 1e-6

    def __init__(self, vae: Any, code: PatchCode, *, lr: float, steps: int):
        super().__init__(lr=lr, steps=steps, weight_decay=0.0)
        self.vae: Any = vae
        self.code = code
        self.warm_steps = int(WARM_SHARE * steps)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        image = batch["image"]
        posterior = self.vae.encode(image).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        # The batch brings its noise, so that a resumed run draws what an unbroken one draws.
        warm = int(batch["step"]) < self.warm_steps
        noise = posterior.std * batch["noise"] * (1.0 if warm else FREE_NOISE)
        taught = self.code(image)
        restored = self.vae.decode((taught if warm else posterior.mean) + noise).sample
        error = restored.float() - image
        kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum(dim=(1, 2, 3)).mean()
        squared = error.square().mean(dim=(1, 2, 3))
        loss = squared.mean() + self.KL_WEIGHT * kl
        if warm:
            loss = loss + 0.1 * error.abs().mean() + 0.2 * (mean - taught).square().mean()
        else:
            loss = loss + DECIBEL_WEIGHT * (squared + ERROR_FLOOR).log().mean()
        mean_squared = float(error.square().mean()) / 4.0  # images span [-1, 1]
        psnr = decibel(mean_squared) if math.isfinite(mean_squared) else math.nan
        self.log_dict({"loss": loss, "psnr": psnr, "code": (mean - taught).square().mean()})
        return loss


def vae_batches(pool: ToyboxPool, *, seed: int, batch_size: int, crop: int, channels: int) -> BatchAt:
    """Crops of scenes and subjects in every style, in [-1, 1], and posterior noise: batch k is a function of k."""
    sources = [pool.subjects, pool.scenes_with, pool.scenes_without]
    room = pool.plan.size - crop + 1

    def batch_at(step: int) -> dict[str, Tensor]:
        draw = generator(seed, "vae", step)
        picks = torch.randint(0, 2**31, (batch_size, 5), generator=draw).tolist()
        crops = []
        for number, (a, b, y, x, flip) in enumerate(picks):
            # A third from each source: scenes carry the texture, subjects the fine parts.
            source = sources[number % len(sources)]
            top, left = y % room, x % room
            picture = source[a % source.shape[0], b % source.shape[1]]
            patch = torch.from_numpy(picture[:, top : top + crop, left : left + crop].copy())
            crops.append(patch.flip(-1) if flip % 2 else patch)
        noise = torch.randn(batch_size, channels, crop // PATCH, crop // PATCH, generator=draw)
        return {
            "image": torch.stack(crops).float() / 127.5 - 1.0,
            "noise": noise,
            "step": torch.tensor(step),
        }

    return batch_at


def vae_part(context: Context, part: PartConfig) -> Recipe:
    """The autoencoder, scaled to latents of unit variance."""
    pool, channels = context.pool, context.sizes.latent_channels
    crop = min(64, context.sizes.image_size)
    batches = vae_batches(pool, seed=context.seed, batch_size=part.batch_size, crop=crop, channels=channels)
    # Patches for the linear code come from batches that training never reaches.
    seen = torch.cat([batches(part.steps + number)["image"] for number in range(32)])
    module = VaeModule(
        micro.build_vae(context.sizes), PatchCode(seen, channels), lr=part.lr, steps=part.steps
    )

    def publish(folder: Path) -> None:
        vae = module.vae.to(context.device).eval()
        vae.register_to_config(scaling_factor=1.0)
        encode = vae_encoder(vae, context.device, autocast=False)
        sample = [encode(torch.from_numpy(pictures.copy())) for pictures in pool.subjects[:64]]
        # Unit variance is what the noise schedule expects of clean latents (Rombach et al. 2022, section D.1).
        vae.register_to_config(scaling_factor=1.0 / float(torch.cat(sample).std()))
        vae.save_pretrained(folder / "vae")

    return Recipe(module, batches, publish, 0.995)


def clip_pixels(images: Tensor) -> Tensor:
    """uint8 or [0, 1] pictures B 3 H W to what CLIPImageProcessor would hand over."""
    pixels = images.float() / 255.0 if images.dtype == torch.uint8 else images
    return normalize(pixels, CLIP_MEAN, CLIP_STD)


class PipelineClipModule(TrainingModule):
    """Symmetric InfoNCE between pictures and captions (Radford et al. 2021, figure 3), and a linear reader of style.

    The first text encoder has no projection of its own; a linear layer stands in for it and is thrown away. The adapter
    gets the image embedding and nothing else. Captions alone left its style to chance (a linear probe named 84 % of
    styles on held-out scenes): telling a batch's pictures apart takes what they show more than how.
    """

    def __init__(
        self,
        text_encoder: Any,
        text_encoder_2: Any,
        image_encoder: Any,
        *,
        embed_dim: int,
        num_styles: int,
        lr: float,
        steps: int,
    ):
        super().__init__(lr=lr, steps=steps)
        self.text_encoder, self.text_encoder_2 = text_encoder, text_encoder_2
        self.image_encoder = image_encoder
        self.projection = nn.Linear(text_encoder.config.hidden_size, embed_dim, bias=False)
        self.style_reader = nn.Linear(embed_dim, num_styles)
        self.logit_scale = nn.Parameter(torch.tensor(2.6593))  # log(1 / 0.07)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        images = F.normalize(self.image_encoder(clip_pixels(batch["image"])).image_embeds.float(), dim=-1)
        target = torch.arange(len(images), device=images.device)
        read = self.style_reader(images * images.shape[-1] ** 0.5)
        loss = F.cross_entropy(read, batch["style"])
        pooled = (
            self.projection(self.text_encoder(batch["ids"]).pooler_output),
            self.text_encoder_2(batch["ids_2"]).text_embeds,
        )
        for text in pooled:
            logits = self.logit_scale.clamp(max=4.6).exp() * images @ F.normalize(text.float(), dim=-1).T
            loss = loss + 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
        accuracy, style_accuracy = (
            (guess.argmax(dim=1) == true).float().mean()
            for guess, true in ((logits, target), (read, batch["style"]))
        )
        self.log_dict({"loss": loss, "top1": accuracy, "style_top1": style_accuracy})
        return loss


def clip_batches(pool: ToyboxPool, tokenizers: tuple[Any, Any], *, seed: int, batch_size: int) -> BatchAt:
    """Half subject pictures, half scenes with and without one; the caption always names the style."""
    styles = [style_phrase(name) for name in pool.style_names]
    sources = [
        (pool.subjects, pool.subject_styles, pool.captions),
        (pool.scenes_with, pool.scene_styles, pool.scene_captions),
        (pool.subjects, pool.subject_styles, pool.captions),
        (pool.scenes_without, pool.scene_styles, pool.scene_phrases),
    ]

    def batch_at(step: int) -> dict[str, Tensor]:
        picks = torch.randint(0, 2**31, (batch_size, 2), generator=generator(seed, "clip", step)).tolist()
        images, texts, drawn_in = [], [], []
        for number, (a, b) in enumerate(picks):
            source, drawn, captions = sources[number % len(sources)]
            i, v = a % source.shape[0], b % source.shape[1]
            images.append(torch.from_numpy(source[i, v].copy()))
            drawn_in.append(int(drawn[i, v]))
            texts.append(f"{captions[i]}, {styles[drawn_in[-1]]}")
        ids, ids_2 = (tokenize(tokenizer, texts) for tokenizer in tokenizers)
        return {"image": torch.stack(images), "ids": ids, "ids_2": ids_2, "style": torch.tensor(drawn_in)}

    return batch_at


def clip_part(context: Context, part: PartConfig) -> Recipe:
    """Both text encoders and the image encoder."""
    sizes, tokenizers = context.sizes, (context.tokenizer, context.tokenizer_2)
    towers = {
        "text_encoder": micro.build_text_encoder(sizes, context.tokenizer, second=False),
        "text_encoder_2": micro.build_text_encoder(sizes, context.tokenizer, second=True),
        "image_encoder": micro.build_image_encoder(sizes),
    }
    styles = len(context.pool.style_names)
    module = PipelineClipModule(
        **towers, embed_dim=sizes.embed_dim, num_styles=styles, lr=part.lr, steps=part.steps
    )

    def publish(folder: Path) -> None:
        for name, tower in towers.items():
            tower.save_pretrained(folder / name)

    batches = clip_batches(context.pool, tokenizers, seed=context.seed, batch_size=part.batch_size)
    # InfoNCE compares every picture of a batch with every caption.
    return Recipe(module, batches, publish, whole_batch=True)


def edit_latents(context: Context, task: insertion.Task) -> insertion.EditLatents:
    """Photo pairs as they are and mirrored; the other styles are left for the bootstrap to win."""
    pool = context.pool
    mask = np.concatenate([pool.scene_mask, pool.photo_mask])
    cells = insertion.mask_cells(mask, context.sizes.latent_size)

    def pasted(*layers: np.ndarray) -> Source:
        return lambda: composites(*layers), layers[0].shape[:-3]

    sources: dict[str, tuple[Source, Source]] = {
        "with": (pool.scenes_with[:, PHOTO], pool.photos_with[:, 0]),
        "without": (pool.scenes_without[:, PHOTO], pool.photos_without[:, 0]),
        "pasted": (
            pasted(pool.scenes_with[:, PHOTO], pool.scenes_without[:, PHOTO], pool.scene_mask),
            pasted(pool.photos_with[:, 0], pool.photos_without[:, 0], pool.photo_mask),
        ),
    }

    def seen(layer: str, flip: bool) -> np.ndarray:
        named = zip(("photo", "photos"), sources[layer], strict=True)
        return np.concatenate(
            [context.latents(f"{name}_{layer}", source, flip=flip) for name, source in named]
        )

    layers = ("with", "without") if task == "remove" else ("pasted", "with")
    condition, target = (np.stack([seen(layer, flip) for flip in (False, True)], axis=1) for layer in layers)
    return insertion.EditLatents(condition, target, np.stack([cells, cells[..., ::-1]], axis=1))


def edit_part(task: insertion.Task, folder_name: str) -> Callable[[Context, PartConfig], Recipe]:
    """The remover or the inserter, from the generator's UNet."""

    def make(context: Context, part: PartConfig) -> Recipe:
        unet = context.trainable(edit_start(context.load("generator", "unet")).to(context.device))
        with torch.no_grad():
            tokenizers = (context.tokenizer, context.tokenizer_2)
            ids = [tokenize(tokenizer, [""]).to(context.device) for tokenizer in tokenizers]
            empty = conditioning(context.text_encoders(), ids)
        settings = insertion.EditFit(
            task, part.steps, part.batch_size, part.lr, context.seed,
            effect_weight=EFFECT_WEIGHT, time_shift=TIME_SHIFT,
        )  # fmt: skip
        module = insertion.InsertionModule(
            unet, micro.build_scheduler(), empty, settings, image_size=context.sizes.image_size
        )
        batches = insertion.edit_batches(edit_latents(context, task), settings)
        return Recipe(module, batches, lambda folder: unet.save_pretrained(folder / folder_name), 0.995)

    return make


def composites(with_subject: np.ndarray, without: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The copy-paste picture of every scene: the subject's own pixels on the empty scene, uint8 [C, 3, H, W].

    y = M * x + (1 - M) * z with x the picture with, z without, M the subject's mask (ObjectDrop, section 4).
    """
    pasted = np.empty_like(with_subject)
    for i, covered in enumerate(mask):  # one at a time: a pool in floating point would not fit into memory
        share = covered.astype(np.float32) / 255.0
        pasted[i] = (share * with_subject[i] + (1.0 - share) * without[i] + 0.5).astype(np.uint8)
    return pasted
