"""Learned tokens: a few new words whose embeddings are trained, in every text encoder of the model, and nothing else.

The new rows live in parameters of their own. The encoders' tables are never resized, written or trained: while the
tokens are attached a small module answers for the new ids and hands all others to the frozen table. Detached, the
pipeline is what it was, to the bit.

Shape letters: N tokens, D width of one text encoder, L prompt length, B batch.
"""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from magic_insert.core.errors import UserError
from magic_insert.models.tensor_file import read_tensors, save_tensors

FILE = "learned_embeds.safetensors"
LEGACY_EOS = 2  # what text encoders of the hub name as their end token, which it is not
# Keys of the product file (as SDXL's trainers write it) and the pipeline's names of encoder and tokenizer.
ENCODERS = {"clip_l": ("text_encoder", "tokenizer"), "clip_g": ("text_encoder_2", "tokenizer_2")}


def token_names(count: int, pattern: str = "<v{n}>") -> tuple[str, ...]:
    """The words of `count` learned tokens: <v1>, <v2>, ..., or as `pattern` says with `{n}` for the number."""
    return tuple(pattern.replace("{n}", str(i)) for i in range(1, count + 1))


class LearnedTokens(nn.Module):
    """Names of N new tokens and, per text encoder, their N x D trainable rows (float32)."""

    def __init__(self, names: Sequence[str], rows: Mapping[str, Float[Tensor, "N _"]]) -> None:
        super().__init__()
        assert all(len(r) == len(names) for r in rows.values()), "one row for each token"
        self.names = tuple(names)
        self.rows = nn.ParameterDict({k: nn.Parameter(r.detach().clone().float()) for k, r in rows.items()})

    def text(self, template: str) -> str:
        """`template` with its `{tokens}` replaced by the words of the learned tokens."""
        return template.format(tokens=" ".join(self.names))


def initial_tokens(pipe: Any, count: int, *, word: str = "", pattern: str = "<v{n}>") -> LearnedTokens:
    """Fresh tokens for `pipe`, all rows equal to the mean row of `word` in each encoder (or of the whole table).

    Args:
        pipe: a StableDiffusionXLPipeline.
        count: number of tokens N.
        word: a neutral word to start from; empty means the mean of the whole table.
        pattern: how the tokens are called, see `token_names`.
    """
    rows = {}
    for key, (encoder, tokenizer) in ENCODERS.items():
        table = getattr(pipe, encoder).get_input_embeddings().weight.detach().float()
        ids = getattr(pipe, tokenizer)(word, add_special_tokens=False).input_ids if word else []
        mean = table[ids].mean(dim=0) if ids else table.mean(dim=0)
        rows[key] = mean.expand(count, -1)
    return LearnedTokens(token_names(count, pattern), rows)


def refuse_known_words(pipe: Any, names: Sequence[str]) -> None:
    """That no token in `names` is already a word of the model, alone or at the end of one.

    Raises:
        UserError: names those that are.
    """
    for _, tokenizer_name in ENCODERS.values():
        vocabulary = getattr(pipe, tokenizer_name).get_vocab()
        if taken := [name for name in names if name in vocabulary or f"{name.lower()}</w>" in vocabulary]:
            raise UserError(
                f"expected new tokens, got {taken} which the model's vocabulary already has; "
                "set personalization.token_pattern='<v{n}>'"
            )


class ExtendedEmbedding(nn.Module):
    """A frozen table that also knows the ids `first`, `first + 1`, ...: their vectors are rows of another parameter."""

    def __init__(self, table: nn.Embedding, rows: nn.Parameter, first: int) -> None:
        super().__init__()
        self.table, self.first = table, first
        # In a tuple, because as a parameter of the encoder its float32 would pass for the encoder's precision.
        self._rows = (rows,)

    @property
    def weight(self) -> Tensor:
        """The frozen table; the new rows are not part of it."""
        return self.table.weight

    def forward(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        new = ids >= self.first
        known = self.table(ids.masked_fill(new, 0))
        learned = functional.embedding((ids - self.first).clamp(min=0), self._rows[0].to(ids.device))
        return torch.where(new[..., None], learned.to(known.dtype), known)


@contextmanager
def attached(pipe: Any, tokens: LearnedTokens) -> Iterator[None]:
    """Inside this block `pipe` knows `tokens`; gradients reach their rows and no other embedding.

    The hub's text encoders say `eos_token_id: 2`, by which transformers pools at the highest id of a prompt. A learned
    token has a higher one than the end of the text, and every word behind it would be lost for the pooled text; inside
    this block they pool at the end token.

    Raises:
        UserError: a token is already a word of the model.
    """
    before, mended = {}, []
    refuse_known_words(pipe, tokens.names)
    try:
        for key, (encoder_name, tokenizer_name) in ENCODERS.items():
            encoder, tokenizer = getattr(pipe, encoder_name), getattr(pipe, tokenizer_name)
            table, own = encoder.get_input_embeddings(), tokens.rows[key].shape[1]
            if own != table.weight.shape[1]:
                raise UserError(
                    f"expected rows of width {table.weight.shape[1]} for {key}, got {own}; the tokens were learned "
                    "with another model"
                )
            before[key] = (table, tokenizer)
            wider = copy.deepcopy(tokenizer)
            wider.add_tokens(list(tokens.names))
            first = wider.convert_tokens_to_ids(tokens.names[0])
            tokens.rows[key].data = tokens.rows[key].data.to(table.weight.device)
            setattr(pipe, tokenizer_name, wider)
            encoder.set_input_embeddings(ExtendedEmbedding(table, tokens.rows[key], first))
            for module in encoder.modules():
                if getattr(module, "eos_token_id", None) == LEGACY_EOS:  # pools at the highest id
                    module.eos_token_id = tokenizer.eos_token_id
                    mended.append(module)
        yield
    finally:
        for module in mended:
            module.eos_token_id = LEGACY_EOS
        for key, (table, tokenizer) in before.items():
            encoder_name, tokenizer_name = ENCODERS[key]
            setattr(pipe, tokenizer_name, tokenizer)
            getattr(pipe, encoder_name).set_input_embeddings(table)


def prompt_ids(pipe: Any, prompts: Sequence[str]) -> list[Int[Tensor, "P L"]]:
    """What each text encoder of `pipe` is given for `prompts`."""
    return [tokenize(getattr(pipe, name), prompts) for _, name in ENCODERS.values()]


def tokenize(tokenizer: Any, texts: Sequence[str]) -> Int[Tensor, "P L"]:
    """The ids of `texts`, cut or padded to the tokenizer's length."""
    return tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids


def encode_ids(
    pipe: Any, ids: Sequence[Int[Tensor, "P L"]]
) -> tuple[Float[Tensor, "P L D"], Float[Tensor, "P E"]]:
    """Token states and pooled text of `prompt_ids`, as `pipe.encode_prompt` has them of the prompts.

    The pipeline's own walks through all layers to find its device: at a small model's step more than the encoders.
    """
    states, pooled = conditioning([getattr(pipe, name) for name, _ in ENCODERS.values()], ids)
    return states.to(pipe.text_encoder_2.dtype), pooled


def conditioning(encoders: Sequence[Any], ids: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """SDXL's conditioning: second-to-last states of both encoders side by side (B T D), pooled text (B E)."""
    first, second = (
        encoder(given, output_hidden_states=True) for encoder, given in zip(encoders, ids, strict=True)
    )
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds


def save_tokens(path: Path, tokens: LearnedTokens) -> None:
    """Writes the rows as `clip_l` and `clip_g` (N x D each); diffusers reads them with `load_textual_inversion`."""
    save_tensors(path, dict(tokens.rows.items()), {"format": "pt", "tokens": json.dumps(tokens.names)})


def load_tokens(path: Path) -> LearnedTokens:
    """The tokens that `save_tokens` wrote; without our metadata they are named <v1>, <v2>, ...

    Raises:
        UserError: missing or damaged file, or not an embedding of both of SDXL's text encoders.
    """
    tensors, metadata = read_tensors(path)
    rows = {key: torch.atleast_2d(value) for key, value in tensors.items() if key in ENCODERS}
    if len(rows) < len(ENCODERS) or any(r.ndim != 2 or len(r) != len(rows["clip_l"]) for r in rows.values()):
        raise UserError(f"expected one row a token for each of {list(ENCODERS)} in {path}, got other tensors")
    words = metadata.get("tokens")
    return LearnedTokens(json.loads(words) if words else token_names(len(rows["clip_l"])), rows)
