"""How alike and how obedient samples are: identity of the plain ones with the subject, prompt fit of the edited ones.

Two judges: `model`, the CLIP inside the pipeline (its image encoder and second text encoder share one space, in SDXL's
adapter as in the micro model), and `micro`, the shipped metric encoders. Values are cosines. A judge is made before
any LoRA is, so that it does not change while the model learns.

Shape letters: B pictures, S side in pixels, D embedding dimensions, T texts.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from magic_insert.core.errors import UserError
from magic_insert.models.encoders import load_encoders
from magic_insert.models.style import style_embeds
from magic_insert.paths import micro_dir

Embed = Callable[[Tensor], Tensor]


class SampleScorer:
    """Judges samples against one subject and a list of edit texts; all embeddings are unit rows."""

    def __init__(
        self,
        *,
        subject: Float[Tensor, "B 3 S S"],
        texts: Sequence[str],
        identity: Embed,
        clip_image: Embed,
        clip_text: Callable[[list[str]], Tensor],
    ) -> None:
        self.identity, self.clip_image = identity, clip_image
        self.subject = identity(subject)
        self.texts = clip_text(list(texts)) if texts else None

    def scores(self, plain: Float[Tensor, "B 3 S S"], edits: Sequence[Tensor]) -> dict[str, float]:
        """`identity`: mean cosine of plain samples and subject; `prompt`: of edited samples and their texts."""
        found = {"identity": float((self.identity(plain) @ self.subject.T).mean())}
        if self.texts is not None:
            rows = [self.clip_image(edit) @ text for edit, text in zip(edits, self.texts, strict=True)]
            found["prompt"] = float(torch.stack(rows).mean())
        return found


def edit_texts(noun: str, edits: Sequence[str]) -> list[str]:
    """What an edited sample should look like, in words that a judge knows."""
    return [f"a {noun.strip() or 'toy'} {edit.strip()}" for edit in edits]


@torch.no_grad()
def build_scorer(
    name: str, pipe: Any, subject: Float[Tensor, "B 3 S S"], texts: Sequence[str]
) -> SampleScorer | None:
    """The judge called `name` (personalization.validation.scorer); None for `none`.

    Raises:
        UserError: `model`, and the pipeline has no image encoder that shares a space with its second text encoder.
    """
    if name == "none":
        return None
    if name == "micro":
        encoders = load_encoders(micro_dir() / "encoders", pipe.unet.device)
        device = pipe.unet.device

        def on_device(embed: Embed) -> Embed:
            return lambda images: embed(images.to(device)).cpu()

        return SampleScorer(
            subject=subject,
            texts=texts,
            identity=on_device(encoders["identity"].embed_images),
            clip_image=on_device(encoders["clip"].embed_images),
            clip_text=lambda words: encoders["clip"].embed_texts(words).cpu(),
        )
    width = pipe.text_encoder_2.config.projection_dim
    if pipe.image_encoder is None or pipe.image_encoder.config.projection_dim != width:
        raise UserError(
            "expected a model whose image encoder shares a space with its second text encoder, got none; "
            "set personalization.validation.scorer=none"
        )

    def embed_images(images: Tensor) -> Tensor:
        with torch.no_grad():
            positive = style_embeds(pipe, list(images), how="pad").positive
        rows = positive.flatten(1)
        return functional.normalize(rows.float(), dim=-1).cpu()

    def embed_texts(words: list[str]) -> Tensor:
        tokenizer = pipe.tokenizer_2
        ids = tokenizer(
            words,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        with torch.no_grad():
            rows = pipe.text_encoder_2(ids.to(pipe.text_encoder_2.device)).text_embeds
        return functional.normalize(rows.float(), dim=-1).cpu()

    return SampleScorer(
        subject=subject, texts=texts, identity=embed_images, clip_image=embed_images, clip_text=embed_texts
    )
