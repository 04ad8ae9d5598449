"""Pipelines of diffusers as inserters and removers: tiny random ones of the real classes, in folders."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import diffusers
import open_clip
import pytest
import torch
import transformers
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from helpers import frozen, rectangle
from hub_model import VOCABULARY, Hub

from magic_insert.cli.insert import run_remove
from magic_insert.config.schema.shared import InserterConfig
from magic_insert.core.compositing import area_resize
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.rand import generator
from magic_insert.inserters.base import Window
from magic_insert.inserters.edit import ForeignInserter
from magic_insert.models.foreign import Runtime, load_foreign
from magic_insert.models.pipeline import load_pipeline

SIDE = 64
KINDS = ("sdxl_inpaint", "sd_inpaint", "flux_fill", "instruct", "qwen_edit", "qwen_edit_plus")
EDITORS = KINDS[3:]  # change the whole window
QWEN_WORDS = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")


def small_unet(channels: int, width: int) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 32),
        layers_per_block=1,
        cross_attention_dim=width,
        attention_head_dim=8,
    )


def qwen_parts() -> dict[str, Any]:
    """Those of Qwen-Image-Edit at the smallest widths; its language model reads letters instead of words."""
    letters = dict.fromkeys(open_clip.tokenizer.bytes_to_unicode().values())
    special = [f"<|{word}|>" for word in QWEN_WORDS]
    tokenizer = transformers.Qwen2Tokenizer(
        vocab={word: i for i, word in enumerate((*letters, special[0]))},
        merges=[],
        extra_special_tokens=special[1:],
        model_max_length=2048,
    )
    pixels = {"shortest_edge": 56 * 56, "longest_edge": 56 * 56}
    processor = transformers.Qwen2VLProcessor(
        transformers.Qwen2VLImageProcessor(size=pixels), tokenizer, transformers.Qwen2VLVideoProcessor()
    )
    numbers = dict(zip(QWEN_WORDS, tokenizer.convert_tokens_to_ids(special), strict=True))
    width = {"hidden_size": 16, "intermediate_size": 16}
    language = transformers.Qwen2_5_VLConfig(
        text_config={
            **width,
            "vocab_size": len(tokenizer),
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
        },
        vision_config={**width, "depth": 2, "num_heads": 2, "out_hidden_size": 16},
        image_token_id=numbers["image_pad"],
        video_token_id=numbers["video_pad"],
        vision_start_token_id=numbers["vision_start"],
        vision_end_token_id=numbers["vision_end"],
    )
    return {
        "text_encoder": transformers.Qwen2_5_VLForConditionalGeneration(language),
        "tokenizer": tokenizer,
        "processor": processor,
        "vae": diffusers.AutoencoderKLQwenImage(base_dim=8, num_res_blocks=1),
        "transformer": diffusers.QwenImageTransformer2DModel(
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(8, 4, 4),
        ),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(),
    }


@pytest.fixture(scope="module")
def small_base(hub: Hub) -> Any:
    return load_pipeline(frozen("plan", *hub.words(ip_adapter="null", controlnet="null")).model)


@pytest.fixture(scope="module")
def pipelines(hub: Hub, small_base: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each of KINDS, with the hub fixture's text encoders and autoencoder."""
    root, pipe = tmp_path_factory.mktemp("foreign"), small_base
    width = pipe.text_encoder.config.hidden_size
    # The hub's configuration calls the end token 2; Flux pools at it and finds none without the token's own number.
    pipe.text_encoder.config.eos_token_id = pipe.tokenizer.eos_token_id
    shared: dict[str, Any] = {
        "vae": pipe.vae,
        "text_encoder": pipe.text_encoder,
        "tokenizer": pipe.tokenizer,
    }
    plain = {
        **shared,
        "scheduler": diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        "safety_checker": None,
        "feature_extractor": None,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = {
            "sd_inpaint": diffusers.StableDiffusionInpaintPipeline(
                unet=small_unet(9, width), **plain, requires_safety_checker=False
            ),
            "instruct": diffusers.StableDiffusionInstructPix2PixPipeline(
                unet=small_unet(8, width), **plain, requires_safety_checker=False
            ),
            "flux_fill": diffusers.FluxFillPipeline(
                transformer=diffusers.FluxTransformer2DModel(
                    in_channels=16 + 16 + 256,
                    out_channels=16,
                    num_layers=1,
                    num_single_layers=1,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=32,
                    pooled_projection_dim=width,
                    axes_dims_rope=(4, 4, 8),
                    guidance_embeds=True,
                ),
                text_encoder_2=transformers.T5EncoderModel(
                    transformers.T5Config(
                        vocab_size=VOCABULARY, d_model=32, d_ff=37, d_kv=8, num_layers=1, num_heads=2
                    )
                ),
                tokenizer_2=pipe.tokenizer,
                scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
                **{**shared, "vae": diffusers.AutoencoderKL.from_config(pipe.vae.config, shift_factor=0.1)},
            ),
        }
        parts = qwen_parts()
        made |= {
            "qwen_edit": diffusers.QwenImageEditPipeline(**parts),
            "qwen_edit_plus": diffusers.QwenImageEditPlusPipeline(**parts),
        }
    for name, part in made.items():
        part.save_pretrained(root / name)
    return {"sdxl_inpaint": hub.inpaint, **{name: root / name for name in made}}


def scene() -> torch.Tensor:
    return area_resize(torch.rand(3, 12, 12, generator=generator(0, "scene")), 96, 96)


@pytest.fixture
def small_qwen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen-Image-Edit reads and draws a megapixel whatever its window; here as few pixels as it is asked for."""
    for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus):
        own = module.calculate_dimensions
        monkeypatch.setattr(
            module, "calculate_dimensions", lambda area, ratio, own=own: own(SIDE * SIDE, ratio)
        )


@pytest.mark.usefixtures("small_qwen")
@pytest.mark.parametrize("kind", KINDS)
def test_a_pipeline_of_the_real_class_inserts(kind: str, pipelines: dict[str, Path], small_base: Any) -> None:
    settings = InserterConfig("diffusers", run=str(pipelines[kind]), prompt="a shadow", steps=2)
    inserter = ForeignInserter(settings, small_base)
    inserter.model.side = SIDE  # a 1024-pixel picture says nothing more
    assert inserter.model.inpaints == (kind not in EDITORS)
    mask = rectangle(96, 96, (30, 60), (40, 60))
    steps: list[tuple[int, int]] = []
    drawn = [
        inserter(Window(scene(), scene(), mask, seed, "a"), on_step=lambda *step: steps.append(step))
        for seed in (0, 0, 1)
    ]
    pictures = [made.output for made in drawn]
    assert pictures[0] is not None
    assert pictures[0].shape == (3, SIDE, SIDE)
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])
    # SDXL's pipeline leaves the first step out, because it does not begin with noise alone.
    assert steps == ([(1, 1)] if kind == "sdxl_inpaint" else [(1, 2), (2, 2)]) * 3
    made = inserter.provenance
    assert made["inserter_pipeline"] == str(pipelines[kind])
    assert len(made["inserter_pipeline_digest"]) == 16


@pytest.mark.usefixtures("small_qwen")
@pytest.mark.parametrize("kind", ["sdxl_inpaint", "instruct"])
def test_remove_runs_a_pipeline_and_leaves_what_is_out_of_reach_alone(
    kind: str, pipelines: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magic_insert.models.foreign.LARGEST", SIDE)
    save_png(tmp_path / "photo.png", scene())
    save_png(tmp_path / "mask.png", rectangle(96, 96, (40, 50), (40, 50)))
    files = {"image": "photo", "mask": "mask", "out": "out"}
    words = [f"{key}={tmp_path / name}.png" for key, name in files.items()]
    words += f"remover=diffusers run={pipelines[kind]} steps=2 guidance=2 reach=0.5 model.device=cpu".split()
    run_remove(frozen("remove", *words))
    after = load_rgb(tmp_path / "out.png")
    changed = (after - load_rgb(tmp_path / "photo.png")).abs().amax(0) > 0
    assert changed[40:50, 40:50].any()
    assert not changed[:20].any()
    assert not changed[70:].any()
    record = json.loads((tmp_path / "out.json").read_text())["weights"]
    assert record["remover_pipeline"] == str(pipelines[kind])
    assert "model" not in record


def test_one_that_draws_from_words_inpaints_with_the_same_parts(hub: Hub, tmp_path: Path) -> None:
    run = Runtime("cpu", torch.float32, offload=False)
    assert type(load_foreign(str(hub.base), "run", run)).__name__ == "StableDiffusionXLInpaintPipeline"
    # A UNet that was published alone, as RORem's, in the folder of the model that it belongs to.
    shutil.copytree(hub.base, tmp_path / "rorem", copy_function=os.link)
    shutil.rmtree(tmp_path / "rorem" / "unet")
    shutil.copytree(hub.inpaint / "unet", tmp_path / "rorem" / "unet", copy_function=os.link)
    pipe = load_foreign(str(tmp_path / "rorem"), "run", run)
    assert type(pipe).__name__ == "StableDiffusionXLInpaintPipeline"
    assert pipe.unet.config.in_channels == 9


def test_a_pipeline_of_the_hub_comes_from_the_commit_that_is_named(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    load = diffusers.DiffusionPipeline.from_pretrained

    def from_copy(name: str, **options: Any) -> Any:
        asked.update(options, name=name)
        return load(hub.inpaint, variant=options["variant"], dtype=options["dtype"])

    def download(name: str, path: str, *, revision: str) -> str:
        assert (name, revision) == ("owner/model", "a")
        return str(hub.inpaint / path)

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", from_copy)
    monkeypatch.setattr("magic_insert.models.hub.hf_hub_download", download)
    load_foreign("owner/model@a", "run", Runtime("cpu", torch.float32, offload=False))
    assert (asked["name"], asked["revision"], asked["variant"]) == ("owner/model", "a", "fp16")
    assert asked["use_safetensors"]
    assert not asked["local_files_only"]


def test_what_is_no_pipeline_or_has_too_few_steps_is_refused(
    hub: Hub, tmp_path: Path, pipelines: dict[str, Path], small_base: Any
) -> None:
    run = Runtime("cpu", torch.float32, offload=False)
    (tmp_path / "model_index.json").write_text('{"_class_name": "ObjectClearPipeline"}')
    for named, expected in (
        (tmp_path, "a pipeline that diffusers knows"),
        (tmp_path / "none", "set run=FOLDER"),
    ):
        with pytest.raises(UserError, match=expected):
            load_foreign(str(named), "run", run)
    with pytest.raises(UserError, match=r"inserter\.run to name a pipeline"):
        frozen("insert", "subject=a", "background=b", "out=c", "inserter=diffusers")
    settings = InserterConfig("diffusers", run=str(pipelines["sdxl_inpaint"]), steps=1)
    with pytest.raises(UserError, match=r"set inserter\.steps=2"):
        ForeignInserter(settings, small_base)(Window(scene(), scene(), torch.ones(1, 96, 96), 0, "a"))
