"""Laws of learned tokens: only their own rows are trained, and they live in the pipeline only while attached."""

from pathlib import Path
from typing import Any

import pytest
import torch

from magic_insert.core.errors import UserError
from magic_insert.core.rand import generator
from magic_insert.models import text


def random_tokens(pipe: Any, count: int = 2) -> text.LearnedTokens:
    tokens = text.initial_tokens(pipe, count)
    for key, row in tokens.rows.items():
        row.data.copy_(torch.randn(row.shape, generator=generator(0, key)))
    return tokens


def tables(pipe: Any) -> dict[str, torch.Tensor]:
    return {
        key: getattr(pipe, name).get_input_embeddings().weight.clone()
        for key, (name, _) in text.ENCODERS.items()
    }


def embed(pipe: Any, prompt: str) -> torch.Tensor:
    return pipe.encode_prompt(prompt, do_classifier_free_guidance=False)[0]


def test_training_moves_the_new_rows_of_both_encoders_and_no_other_embedding(tiny_pipe: Any) -> None:
    before, tokens = tables(tiny_pipe), random_tokens(tiny_pipe)
    optimizer = torch.optim.AdamW(tokens.parameters(), lr=1.0, weight_decay=0.5)
    with text.attached(tiny_pipe, tokens):
        embed(tiny_pipe, "A <v1> <v2>.").square().mean().backward()
        optimizer.step()
    for key, (name, _) in text.ENCODERS.items():
        assert (tokens.rows[key].grad.abs().sum(dim=1) > 0).all()
        assert all(p.grad is None for p in getattr(tiny_pipe, name).parameters())
    after = tables(tiny_pipe)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_tokens_change_their_own_prompts_while_attached_even_after_an_error(tiny_pipe: Any) -> None:
    before = embed(tiny_pipe, "a red bunny, sitting")
    with text.attached(tiny_pipe, random_tokens(tiny_pipe)):
        assert torch.equal(embed(tiny_pipe, "a red bunny, sitting"), before)
        assert not torch.equal(embed(tiny_pipe, "A <v1> <v2>."), embed(tiny_pipe, "A <v2> <v1>."))
    words = len(tiny_pipe.tokenizer)
    with pytest.raises(RuntimeError, match="stop"), text.attached(tiny_pipe, random_tokens(tiny_pipe)):
        raise RuntimeError("stop")
    assert len(tiny_pipe.tokenizer) == words
    assert isinstance(tiny_pipe.text_encoder.get_input_embeddings(), torch.nn.Embedding)


def test_tokens_start_at_the_mean_of_the_word_they_are_given(tiny_pipe: Any) -> None:
    tokens = text.initial_tokens(tiny_pipe, 2, word="bunny")
    for key, (encoder, tokenizer) in text.ENCODERS.items():
        ids = getattr(tiny_pipe, tokenizer)("bunny", add_special_tokens=False).input_ids
        mean = getattr(tiny_pipe, encoder).get_input_embeddings().weight[ids].mean(dim=0)
        torch.testing.assert_close(tokens.rows[key].data, mean.expand(2, -1))


def test_known_words_other_widths_and_damaged_files_are_refused(tiny_pipe: Any, tmp_path: Path) -> None:
    clash = text.LearnedTokens(("bunny</w>", "<v2>"), dict(random_tokens(tiny_pipe).rows.items()))
    with pytest.raises(UserError, match="bunny"), text.attached(tiny_pipe, clash):
        pass
    foreign = text.LearnedTokens(("<v1>",), {key: torch.zeros(1, 5) for key in text.ENCODERS})
    with pytest.raises(UserError, match="another model"), text.attached(tiny_pipe, foreign):
        pass
    (tmp_path / "broken.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(UserError, match=r"broken\.safetensors"):
        text.load_tokens(tmp_path / "broken.safetensors")


def test_prompts_of_a_training_are_encoded_as_the_pipeline_encodes_them(tiny_pipe: Any) -> None:
    prompts = ["A <v1> <v2> bunny, sitting.", "a bunny"]
    with text.attached(tiny_pipe, random_tokens(tiny_pipe)):
        states, _, pooled, _ = tiny_pipe.encode_prompt(prompts, do_classifier_free_guidance=False)
        ours = text.encode_ids(tiny_pipe, text.prompt_ids(tiny_pipe, prompts))
    assert torch.equal(ours[0], states)
    assert torch.equal(ours[1], pooled)
