"""What personalisation changes, by name: LoRA of the UNet, LoRA of the text encoders, rows of the learned tokens.

The parts are optimizer groups with rates of their own. Copies of all values are what checkpoints and products hold.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from magic_insert.config.schema import PersonalizationConfig
from magic_insert.core.rand import fold_in
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.lora import (
    TEXT_ATTENTION,
    TEXT_ENCODERS,
    add_lora,
    lora_state,
    remove_lora,
    restore_lora,
    save_lora,
)
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.models.text import LearnedTokens, attached, save_tokens

TOKENS = "tokens."


class Trainables:
    """Everything that training changes; made by `trainables_of`, valid inside its block."""

    def __init__(self, pipe: Any, tokens: LearnedTokens, parts: Mapping[str, list[nn.Parameter]]) -> None:
        self.pipe, self.tokens, self.parts = pipe, tokens, dict(parts)

    def parameters(self) -> list[nn.Parameter]:
        """All parameters in a fixed order."""
        return [parameter for part in self.parts.values() for parameter in part]

    def values(self) -> dict[str, Tensor]:
        """A copy of everything, by the names of the products' files, float32 on the CPU."""
        rows = {f"{TOKENS}{key}": row.detach().cpu().clone() for key, row in self.tokens.rows.items()}
        return {**lora_state(self.pipe), **rows}

    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Sets everything to what `values()` returned."""
        restore_lora(self.pipe, {k: v for k, v in values.items() if not k.startswith(TOKENS)})
        for key, row in self.tokens.rows.items():
            row.data.copy_(values[f"{TOKENS}{key}"])

    def save(self, folder: Path) -> None:
        """Writes the product: a LoRA file and a token file that diffusers reads."""
        save_lora(folder / LORA_FILE, self.pipe)
        save_tokens(folder / TOKENS_FILE, self.tokens)


@contextmanager
def trainables_of(
    pipe: Any, tokens: LearnedTokens, cfg: PersonalizationConfig, *, seed: int
) -> Iterator[Trainables]:
    """Inside this block `pipe` carries `tokens` and fresh LoRAs as `cfg` says; afterwards it is what it was.

    Raises:
        UserError: a token is already a word of the model; see `add_lora`.
    """
    for part in (pipe.unet, pipe.text_encoder, pipe.text_encoder_2):
        part.requires_grad_(False)
    with attached(pipe, tokens):
        try:
            parts = {
                "unet": add_lora(
                    pipe.unet, rank=cfg.rank, alpha=cfg.alpha, targets=cfg.targets, seed=seed, dora=cfg.dora
                ),
                "tokens": list(tokens.parameters()),
            }
            if cfg.text_rank:
                parts["text"] = [
                    parameter
                    for name in TEXT_ENCODERS
                    for parameter in add_lora(
                        getattr(pipe, name),
                        rank=cfg.text_rank,
                        alpha=cfg.text_alpha,
                        targets=TEXT_ATTENTION,
                        seed=fold_in(seed, name),
                        dora=cfg.dora,
                    )
                ]
            yield Trainables(pipe, tokens, parts)
        finally:
            remove_lora(pipe, "subject")
