"""The text and image towers of the pipeline: one training gives all three encoders."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magic_insert.core.rand import generator
from magic_insert.data.toybox_pool import ToyboxPool
from magic_insert.toybox.styles import style_phrase
from magic_insert.training.trainer import TrainingModule

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(images: Tensor) -> Tensor:
    """uint8 or [0, 1] pictures B 3 H W to what CLIPImageProcessor would hand over."""
    pixels = images.float() / 255.0 if images.dtype == torch.uint8 else images
    mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (pixels - mean) / std


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


def clip_batches(
    pool: ToyboxPool, tokenizers: tuple[Any, Any], *, seed: int, batch_size: int
) -> Callable[[int], dict[str, Tensor]]:
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
        ids, ids_2 = (
            tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
            for tokenizer in tokenizers
        )
        return {"image": torch.stack(images), "ids": ids, "ids_2": ids_2, "style": torch.tensor(drawn_in)}

    return batch_at
