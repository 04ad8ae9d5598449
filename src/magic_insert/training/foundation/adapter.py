"""The IP-Adapter: an image prompt that carries style, learned from pictures of *other* things in the same style.

Its teacher is the model itself, told the style in words: what the noise hides from a picture's own error, the words say
plainly. (On the plain denoising loss the adapter had learned two of thirteen styles after 2,000 steps.)
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from magic_insert.core.rand import generator
from magic_insert.data.toybox_pool import ToyboxPool
from magic_insert.toybox.styles import style_phrase
from magic_insert.training.foundation.denoiser import DenoiserModule, tokenize, with_noise

PLACES = ("", "up_blocks.0.", "up_blocks.0.attentions.1.")  # prefixes of the layers in which the adapter acts


def act_in(unet: Any, place: str | None) -> None:
    """Turns the adapter on in the layers whose names start with `place` and off elsewhere; None: off everywhere."""
    for name, processor in unet.attn_processors.items():
        if name.endswith("attn2.processor"):
            processor.scale = [1.0 if place is not None and name.startswith(place) else 0.0]


class AdapterModule(DenoiserModule):
    """Trains the image projection and the adapter's keys and values; everything else is frozen.

    By turns it acts everywhere, in `up_blocks.0` (the block "adjacent to the midblock", paper, section 3.2) and in
    `up_blocks.0.attentions.1` alone (InstantStyle), so that each of these uses is trained for and not only hoped for.
    The loss is the squared difference to what the model without the adapter says when the caption names the style.
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

    def _say(self, batch: dict[str, Tensor], ids: Tensor, ids_2: Tensor) -> Tensor:
        """The prediction for the noisy latents under a prompt, B C h w; the adapter acts where it was last told to."""
        with torch.no_grad():
            states, added = self.conditioning({"ids": ids, "ids_2": ids_2})
        noisy = self.scheduler.add_noise(batch["latents"], batch["noise"], batch["timesteps"])
        return self.unet(
            noisy,
            batch["timesteps"],
            encoder_hidden_states=states,
            added_cond_kwargs={**added, "image_embeds": [batch["style"][:, None, :]]},
            return_dict=False,
        )[0].float()

    def unlike_words(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean squared difference of what a style picture and what a style phrase make the model say."""
        act_in(self.unet, None)
        with torch.no_grad():
            told = self._say(batch, batch["styled_ids"], batch["styled_ids_2"])
        act_in(self.unet, PLACES[int(batch["step"]) % len(PLACES)])
        return (self._say(batch, batch["ids"], batch["ids_2"]) - told).square().mean()

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        loss = self.unlike_words(batch)
        self.log("loss", loss)
        return loss


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
    """Subject latents, captions without and with the style, the image embedding of another picture in the same style.

    A tenth has no image, and then no style in words either: guidance needs to know the picture without style.

    Args:
        embeds: `scenes_without` [C, W, D] (three of four references: what a target scene is) and
            `subjects` [S, V, D] (the fourth).
    """
    styles = [style_phrase(name) for name in pool.style_names]
    by_style: dict[str, dict[int, list[tuple[int, int]]]] = {}
    for name, drawn in (("scenes_without", pool.scene_styles), ("subjects", pool.subject_styles)):
        places: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for (i, v), style in np.ndenumerate(drawn):
            places[int(style)].append((i, v))
        by_style[name] = places

    def batch_at(step: int) -> dict[str, Tensor]:
        draw = generator(seed, "adapter", step)
        picks = torch.randint(0, 2**31, (batch_size, 4), generator=draw).tolist()
        latents, plain, styled, style = [], [], [], []
        for number, (a, b, c, d) in enumerate(picks):
            i, v = a % subjects.shape[0], b % subjects.shape[1]
            latents.append(torch.from_numpy(subjects[i, v].astype(np.float32)))
            wanted = int(pool.subject_styles[i, v])
            # A tiny pool may show a style on subjects only.
            source = "scenes_without" if number % 4 < 3 and by_style["scenes_without"][wanted] else "subjects"
            places = by_style[source][wanted]
            embed = embeds[source][places[c % len(places)]].astype(np.float32)
            style.append(torch.from_numpy(embed if d % 10 else np.zeros_like(embed)))
            plain.append(pool.captions[i])
            styled.append(f"{pool.captions[i]}, {styles[wanted]}" if d % 10 else pool.captions[i])
        batch = with_noise(torch.stack(latents), draw)
        return {
            **batch,
            "style": torch.stack(style),
            "ids": tokenize(tokenizer, plain),
            "ids_2": tokenize(tokenizer_2, plain),
            "styled_ids": tokenize(tokenizer, styled),
            "styled_ids_2": tokenize(tokenizer_2, styled),
            "step": torch.tensor(step),
        }

    return batch_at
