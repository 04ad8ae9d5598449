"""What a pipeline is when it is loaded, and what is refused, with one line that says what to set."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import tiny_config
from random_micro import build_micro
from safetensors.torch import load_file, save_file

from magic_insert.core.errors import UserError
from magic_insert.models.micro import TINY, build_unet
from magic_insert.models.pipeline import fingerprint, load_pipeline, plain_attention
from magic_insert.paths import conf_dir


def test_half_precision_arrives_in_float32_and_the_fingerprint_tells_models_apart(
    tiny_micro: Path, tmp_path: Path, tiny_pipe: Any
) -> None:
    folder = build_micro(tmp_path / "half", seed=0, size="tiny")
    for file in folder.rglob("*.safetensors"):
        save_file({k: v.half() for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    pipe = load_pipeline(tiny_config(folder))
    parts = (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2, pipe.image_encoder)
    assert {p.dtype for part in parts for p in part.parameters()} == {torch.float32}
    assert fingerprint(load_pipeline(tiny_config(tiny_micro))) == fingerprint(tiny_pipe)
    other = build_micro(tmp_path / "other", seed=1, size="tiny")
    assert fingerprint(load_pipeline(tiny_config(other))) != fingerprint(tiny_pipe)


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"source": "/no/such/folder"}, r"model\.source"),
        ({"source": "plain-word"}, r"model\.source"),
        ({"source": None}, r"model\.source"),  # only micro is shipped
        ({"source": "someone/some-model"}, r"model\.revision"),
        ({"ip_adapter": "not-a-folder"}, r"model\.ip_adapter"),
        ({"ip_adapter": "owner/name"}, r"owner/name@COMMIT with model\.ip_adapter_weight"),
        ({"ip_adapter": "owner/name@commit"}, r"owner/name@COMMIT with model\.ip_adapter_weight"),
        ({"controlnet": "nowhere/at/all"}, "ControlNet folder or hub id"),
        ({"controlnet": "owner/name@"}, "ControlNet folder or hub id"),
    ],
    ids=str,
)
def test_what_is_no_folder_is_a_pinned_hub_id(tiny_micro: Path, settings: dict[str, Any], fix: str) -> None:
    with pytest.raises(UserError, match=fix):
        load_pipeline(tiny_config(**{"source": tiny_micro, **settings}))


def test_every_hub_id_in_the_configuration_of_sdxl_is_pinned_to_a_commit() -> None:
    values = yaml.safe_load((conf_dir() / "model" / "sdxl.yaml").read_text())
    pins = [values["revision"], *(values[key].partition("@")[2] for key in ("ip_adapter", "controlnet"))]
    assert all(re.fullmatch("[0-9a-f]{40}", pin) for pin in pins)


def test_a_folder_that_is_no_whole_sdxl_model_is_refused(tmp_path: Path, tiny_micro: Path) -> None:
    with pytest.raises(UserError, match=r"model_index\.json"):
        load_pipeline(tiny_config(tmp_path))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(UserError, match="FluxPipeline"):
        load_pipeline(tiny_config(tmp_path))
    with pytest.raises(UserError, match=r"model\.ip_adapter"):
        load_pipeline(tiny_config(tiny_micro, ip_adapter=str(tmp_path)))


def test_attention_by_matrix_products_predicts_what_the_fused_kernel_predicts() -> None:
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
