"""The IP-Adapter: an image prompt that carries style, learned from pictures of *other* things in the same style."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from magic_insert.core.rand import generator
from magic_insert.data.toybox_pool import ToyboxPool
from magic_insert.training.foundation.denoiser import DenoiserModule, tokenize, with_noise

PLACES = ("", "up_blocks.0.", "up_blocks.0.attentions.1.")  # prefixes of the layers in which the adapter acts


class AdapterModule(DenoiserModule):
    """Trains the image projection and the adapter's keys and values; everything else is frozen.

    By turns it acts everywhere, in `up_blocks.0` (the block "adjacent to the midblock", paper, section 3.2) and in
    `up_blocks.0.attentions.1` alone (InstantStyle), so that each of these uses is trained for and not only hoped for.
    """

    def __init__(self, *networks: Any, **settings: Any):
        super().__init__(*networks, **settings)
        self.requires_grad_(False)
        for parameter in self.adapter_parameters():
            parameter.requires_grad_(True)

    def adapter_parameters(self) -> list[nn.Parameter]:
        found = list(self.unet.encoder_hid_proj.parameters())  # type: ignore[union-attr]
        for name, processor in self.unet.attn_processors.items():  # type: ignore[union-attr, operator]
            if name.endswith("attn2.processor"):
                found += list(processor.parameters())
        return found

    def _act_in(self, place: str) -> None:
        for name, processor in self.unet.attn_processors.items():  # type: ignore[union-attr, operator]
            if name.endswith("attn2.processor"):
                processor.scale = [1.0 if name.startswith(place) else 0.0]

    def conditioning(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        with torch.no_grad():
            states, added = super().conditioning(batch)
        self._act_in(PLACES[int(batch["step"]) % len(PLACES)])
        return states, {**added, "image_embeds": [batch["style"][:, None, :]]}


def adapter_batches(
    pool: ToyboxPool,
    subjects: np.ndarray,
    embeds: dict[str, np.ndarray],
    tokenizer: Any,
    tokenizer_2: Any,
    *,
    seed: int,
    batch_size: int,
) -> Callable[[int], dict[str, Tensor]]:
    """Subject latents with an unstyled caption and the image embedding of another picture in the same style.

    Args:
        embeds: `scenes_without` [C, W, D] (three of four references: what a target scene is) and
            `subjects` [S, V, D] (the fourth).
    """
    by_style: dict[str, dict[int, list[tuple[int, int]]]] = {}
    for name, drawn in (("scenes_without", pool.scene_styles), ("subjects", pool.subject_styles)):
        places: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for (i, v), style in np.ndenumerate(drawn):
            places[int(style)].append((i, v))
        by_style[name] = places

    def batch_at(step: int) -> dict[str, Tensor]:
        draw = generator(seed, "adapter", step)
        picks = torch.randint(0, 2**31, (batch_size, 4), generator=draw).tolist()
        latents, texts, style = [], [], []
        for number, (a, b, c, d) in enumerate(picks):
            i, v = a % subjects.shape[0], b % subjects.shape[1]
            latents.append(torch.from_numpy(subjects[i, v].astype(np.float32)))
            wanted = int(pool.subject_styles[i, v])
            # A tiny pool may show a style on subjects only.
            source = "scenes_without" if number % 4 < 3 and by_style["scenes_without"][wanted] else "subjects"
            places = by_style[source][wanted]
            embed = embeds[source][places[c % len(places)]].astype(np.float32)
            # No image in a tenth: guidance needs to know the picture without style.
            style.append(torch.from_numpy(embed if d % 10 else np.zeros_like(embed)))
            texts.append("" if d % 20 == 1 else pool.captions[i])
        batch = with_noise(torch.stack(latents), draw)
        return {
            **batch,
            "style": torch.stack(style),
            "ids": tokenize(tokenizer, texts),
            "ids_2": tokenize(tokenizer_2, texts),
            "step": torch.tensor(step),
        }

    return batch_at
