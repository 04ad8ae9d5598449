"""Attention without the fused kernel."""

import torch

from magic_insert.models.micro import TINY, build_unet
from magic_insert.models.pipeline import plain_attention


def test_attention_by_matrix_products_predicts_what_the_fused_kernel_predicts():
    torch.manual_seed(0)
    unet = build_unet(TINY).eval()
    size = TINY.latent_size
    inputs = torch.randn(2, TINY.latent_channels, size, size), torch.tensor([3, 700])
    words = {
        "encoder_hidden_states": torch.randn(2, 32, TINY.cross_dim),
        "added_cond_kwargs": {"text_embeds": torch.randn(2, TINY.embed_dim), "time_ids": torch.ones(2, 6)},
    }
    with torch.no_grad():
        fused = unet(*inputs, **words).sample
        before = {type(p).__name__ for p in unet.attn_processors.values()}
        plain_attention(unet)
        plain = unet(*inputs, **words).sample
    assert before == {"AttnProcessor2_0"}
    assert {type(p).__name__ for p in unet.attn_processors.values()} == {"AttnProcessor"}
    torch.testing.assert_close(plain, fused, rtol=1e-4, atol=1e-5)
