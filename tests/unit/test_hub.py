"""SDXL as it comes from the hub: what is loaded of its repositories, from where, and in which precision."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionXLPipeline
from helpers import frozen, tiny_config
from hub_model import Hub
from safetensors.torch import load_file
from transformers import CLIPVisionModelWithProjection

from magic_insert.cli.jobs import JOBS
from magic_insert.cli.main import main
from magic_insert.config.schema import shared
from magic_insert.config.schema.training import PersonalizationConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import save_png
from magic_insert.core.jsonl import read_json
from magic_insert.core.records import Subject
from magic_insert.models import edit_unet
from magic_insert.models.folders import find_inserter
from magic_insert.models.ip_adapter import style_embeds
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.lora import add_lora, save_lora
from magic_insert.models.pipeline import PARTS, PRECISIONS, ddim, fingerprint, load_pipeline, resolve_device
from magic_insert.models.sampling import controlnet_of, sample
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.models.text import attached, encode_ids, initial_tokens, prompt_ids, save_tokens
from magic_insert.paths import CHECKOUT
from magic_insert.stylizers import build_stylizer
from magic_insert.stylizers.draws import Draw
from magic_insert.training.personalize import edit_texts, personalize
from magic_insert.training.personalize_module import check_device


def hub_config(hub: Hub, **changes: Any) -> shared.ModelConfig:
    return tiny_config(**{"name": "sdxl", "source": hub.base, **changes})


def test_all_comes_from_the_commit_it_is_pinned_to(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None, str]] = []
    copies = {
        "owner/model": hub.base,
        "owner/adapter": hub.adapter,
        "owner/vae": hub.vae,
        "owner/c": hub.controlnet,
    }

    def from_copy(load: Any) -> Any:
        def loaded(name: Any, *args: Any, **more: Any) -> Any:
            if str(name) in copies:  # and not a part of a folder
                assert not more.pop("local_files_only")
                asked.append((name, more.pop("revision"), more.get("subfolder", "")))
            return load(copies.get(str(name), name), *args, **more)

        return loaded

    def download(name: str, path: str, *, revision: str) -> str:
        asked.append((name, revision, path))
        if not (copies[name] / path).is_file():
            raise huggingface_hub.errors.EntryNotFoundError("none")
        return str(copies[name] / path)

    for kind in (StableDiffusionXLPipeline, CLIPVisionModelWithProjection, AutoencoderKL, ControlNetModel):
        monkeypatch.setattr(kind, "from_pretrained", from_copy(kind.from_pretrained))
    monkeypatch.setattr("magic_insert.models.hub.hf_hub_download", download)
    named = {"ip_adapter": "owner/adapter@b", "vae": "owner/vae@c", "controlnet": "owner/c@d"}
    weight = "ip-adapter_sdxl_vit-h.safetensors"
    half = {"variant": "fp16", "dtype": "float16"}
    pipe = load_pipeline(tiny_config("owner/model", revision="a", ip_adapter_weight=weight, **half, **named))
    controlnet_of(pipe)
    assert {(name, revision) for name, revision, _ in asked} == {
        ("owner/model", "a"), ("owner/adapter", "b"), ("owner/vae", "c"), ("owner/c", "d")
    }  # fmt: skip
    assert ("owner/adapter", "b", "models/image_encoder") in asked
    assert not pipe.vae.config.force_upcast


def test_without_a_device_or_a_network_one_short_line_names_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match=r"model\.device"):
        load_pipeline(tiny_config("owner/model", revision="a", device="cuda"))

    def offline(*names: Any, **options: Any) -> Any:
        raise huggingface_hub.errors.LocalEntryNotFoundError(
            "An error happened while trying to locate files. " * 9
        )

    monkeypatch.setattr(StableDiffusionXLPipeline, "from_pretrained", offline)
    expected = r"^expected to download owner/model .*set model\.source=FOLDER"
    with pytest.raises(UserError, match=expected) as refused:
        load_pipeline(tiny_config("owner/model", revision="a"))
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("weight", "encoder", "tokens"),
    [
        ("ip-adapter_sdxl.safetensors", 24, False),
        ("ip-adapter_sdxl_vit-h.safetensors", 16, False),
        ("ip-adapter-plus_sdxl_vit-h.safetensors", 16, True),
    ],
)
def test_an_adapter_comes_with_its_image_encoder(hub: Hub, weight: str, encoder: int, tokens: bool) -> None:
    pipe = load_pipeline(hub_config(hub, ip_adapter=str(hub.adapter), ip_adapter_weight=weight))
    assert pipe.image_encoder.config.projection_dim == encoder
    style = style_embeds(pipe, [torch.rand(3, 40, 40)])
    assert style.positive.shape[2:] == ((5, 20) if tokens else (encoder,))
    pictures = sample(pipe, ["a cat"], [0], steps=1, style=style)
    assert pictures.isfinite().all()


def test_a_model_is_one_in_every_precision_and_decodes_in_float32_where_needed(
    hub: Hub, hub_pipe: Any
) -> None:
    others = (load_pipeline(hub_config(hub, dtype=dtype)) for dtype in set(PRECISIONS) - {"float32"})
    pipes = [hub_pipe, *others]
    assert len({fingerprint(pipe) for pipe in pipes}) == 1
    assert {pipe.vae.dtype for pipe in pipes} == {torch.float32}
    mended = load_pipeline(hub_config(hub, dtype="float16", vae=str(hub.vae)))
    assert mended.vae.dtype == torch.float16


def test_the_inpainting_model_draws_no_subject_and_is_no_inserter_by_itself(hub: Hub, tmp_path: Path) -> None:
    pipe = load_pipeline(hub_config(hub, source=hub.inpaint))
    assert pipe.unet.config.in_channels == 9
    with pytest.raises(UserError, match=r"set inserter=diffusers .*model=sdxl_inpaint"):  # no edit UNet
        edit_unet.load_edit_unet(hub.inpaint / "unet")
    with pytest.raises(UserError, match=r"or inserter=diffusers inserter\.run=PIPELINE"):
        find_inserter(shared.InserterConfig("bootstrapped", run=str(hub.inpaint)), hub.base)
    with pytest.raises(UserError, match="got one of 9 channels"):
        sample(pipe, ["a cat"], [0], steps=1)
    cat, out = Subject(torch.rand(3, 40, 40), torch.ones(1, 40, 40), "cat"), tmp_path / "run"
    with pytest.raises(UserError, match="got one of 9 channels"):
        personalize(pipe, cat, personalization(hub), seed=0, out=out)
    assert not out.exists()


def plain_pipe(code: str, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a page's lines of plain diffusers make in `folder`, up to its drawing; of `hub` where they name a base."""
    monkeypatch.chdir(folder)
    lines = re.sub(r'(?m)^base = "[^"]*"', f"base = {str(hub.base)!r}", code)
    names: dict[str, Any] = {}
    exec(re.split(r"(?m)^(?:image = )?pipe\(", lines)[0], names)
    return names["pipe"]


def test_words_behind_a_learned_token_reach_the_pooled_text_and_plain_diffusers_has_it_by_the_documents(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = load_pipeline(hub_config(hub))
    tokens = initial_tokens(pipe, 2)
    for row in tokens.rows.values():
        row.data.normal_(generator=torch.Generator().manual_seed(0))
    prompts = ["A <v1> <v2>, sitting.", "A <v1> <v2> wearing a crown."]

    def pooled(pipe: Any) -> torch.Tensor:
        return pipe.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=False)[2]

    with attached(pipe, tokens):
        ours = pooled(pipe)
        states, trained = encode_ids(pipe, prompt_ids(pipe, prompts))
    assert (ours[0] - ours[1]).abs().max() > 0.01
    torch.testing.assert_close(trained, ours)
    ends = [part.eos_token_id for part in pipe.text_encoder_2.modules() if hasattr(part, "eos_token_id")]
    assert set(ends) == {2}, "put back when the tokens are detached"

    for parameter in add_lora(pipe.unet, rank=2, alpha=2.0, seed=0):
        parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    save_lora(tmp_path / "runs/cat" / LORA_FILE, pipe.unet)
    save_tokens(tmp_path / "runs/cat" / TOKENS_FILE, tokens)
    code = (CHECKOUT / "docs" / "personalize.md").read_text().split("```python")[1].split("```")[0]
    plain = plain_pipe(code, hub, tmp_path, monkeypatch)
    torch.testing.assert_close(pooled(plain), ours)
    torch.testing.assert_close(
        plain.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=False)[0], states
    )
    assert plain.get_active_adapters()
    size = {"height": 64, "width": 64, "output_type": "pt"}
    assert plain(prompts[0], num_inference_steps=1, **size).images.isfinite().all()


def test_a_hub_folder_is_personalised(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_png(tmp_path / "cat.png", torch.rand(3, 40, 40))
    words = [
        *hub.words(dtype="bfloat16", ip_adapter="null", controlnet="null"),
        f"subject={tmp_path / 'cat.png'}",
    ]
    look = ("every=1", "steps=1", "seeds=1", "scorer=none", "edits=[]")
    learn = ("steps=3", "views=2", *(f"validation.{word}" for word in look))
    out = tmp_path / "out"
    main(["personalize", *words, *(f"personalization.{word}" for word in learn), f"out={out}"])
    card = read_json(out / "card.json")
    assert (card["prediction_type"], card["config"]["precision"]) == ("epsilon", "bf16-mixed")
    assert list((out / "samples").iterdir())
    # Small files, and no more of them than the recipe keeps.
    assert {tensor.dtype for tensor in load_file(out / LORA_FILE).values()} == {torch.float16}
    assert sorted(folder.name for folder in (out / "steps").iterdir()) == ["000002", "000003"]
    code = (out / "README.md").read_text().split("```python")[1].split("```")[0]
    assert plain_pipe(code, hub, out, monkeypatch).get_active_adapters()


def personalization(hub: Hub, *words: str) -> PersonalizationConfig:
    """The recipe of SDXL, short and in float32."""
    short = ["batch_size=2", "views=4", "precision=32-true", "validation.every=0", *words]
    asked = ["subject=cat.png", "out=out", *(f"personalization.{word}" for word in short)]
    return frozen("personalize", *hub.words(), *asked).personalization


def sizes_seen(pipe: Any, draw: Callable[[], Any]) -> list[tuple[list[int], list[list[float]]]]:
    """For every call of the UNet in `draw` the height and width in pixels and the rows of the size conditioning."""
    seen = []

    def note(unet: Any, args: Any, options: Any) -> None:
        pixels = [side * pipe.vae_scale_factor for side in args[0].shape[-2:]]
        seen.append((pixels, options["added_cond_kwargs"]["time_ids"].tolist()))

    hook = pipe.unet.register_forward_pre_hook(note, with_kwargs=True)
    draw()
    hook.remove()
    return seen


@pytest.mark.slow
def test_a_batch_is_of_one_bucket_which_its_size_names(hub: Hub, hub_pipe: Any, tmp_path: Path) -> None:
    tall, wide = (
        Subject(torch.rand(3, *size), torch.ones(1, *size), f"{size}") for size in ((60, 30), (30, 50))
    )
    cfg = personalization(hub, "buckets=true", "steps=4")
    seen = sizes_seen(
        hub_pipe, lambda: personalize(hub_pipe, [tall, wide], cfg, seed=0, out=tmp_path / "run")
    )
    assert {tuple(pixels) for pixels, _ in seen} == {(96, 40), (48, 80)}
    assert len(seen) == 4
    for (height, width), rows in seen:
        assert rows == [[height, width, 0, 0, height, width]] * 2


@pytest.mark.slow
def test_a_subject_is_drawn_under_the_size_it_was_learned_with(
    hub: Hub, hub_pipe: Any, tmp_path: Path
) -> None:
    """Whatever the size of the pictures that are drawn."""
    cat = Subject(torch.rand(3, 40, 40), torch.ones(1, 40, 40), "cat")
    run = personalize(hub_pipe, cat, personalization(hub, "steps=0"), seed=0, out=tmp_path / "run")
    pipe = load_pipeline(hub_config(hub, image_size=128))
    style, sampling = shared.StyleConfig(mode="none"), shared.SamplingConfig(steps=1, guidance=3.0)
    stylizer = build_stylizer(shared.StylizerConfig(), pipe, replace(cat, run=run), style, sampling)
    ((pixels, rows),) = sizes_seen(pipe, lambda: stylizer([Draw(torch.rand(3, 64, 64), 0, "a")]))
    assert pixels == [128, 128]
    assert {tuple(row) for row in rows} == {(64, 64, 0, 0, 64, 64)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "rows"), [(64, [6]), (512, [4, 2]), pytest.param(1024, [2, 2, 2], marks=pytest.mark.slow)]
)
def test_of_large_pictures_few_are_drawn_together(hub: Hub, size: int, rows: list[int]) -> None:
    """At 1024 pixels eight with guidance would take 23.5 GB, one takes 3.2."""
    subject = Subject(torch.rand(3, 40, 40), torch.ones(1, 40, 40), "cat")
    style, sampling = shared.StyleConfig(mode="none"), shared.SamplingConfig(steps=1, guidance=3.0)
    draws = [Draw(torch.rand(3, 64, 64), 0, name) for name in "abc"]
    pipe = load_pipeline(hub_config(hub, image_size=size))
    stylizer = build_stylizer(shared.StylizerConfig("instantstyle"), pipe, subject, style, sampling)
    assert [len(conditions) for _, conditions in sizes_seen(pipe, partial(stylizer, draws))] == rows


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_subject_is_not_learned_in_float16_without_a_gpu_nor_is_the_model_fetched_first(
    device: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    save_png(tmp_path / "cat.png", torch.rand(3, 40, 40))
    words = hub.words(source="owner/model", revision="a", dtype="float16", device=device)
    with pytest.raises(SystemExit):
        main(["personalize", *words, f"subject={tmp_path / 'cat.png'}", f"out={tmp_path / 'out'}"])
    assert "set model.dtype=float32" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"set model\.dtype=float32"):
        check_device(personalization(hub), torch.device("cpu"), torch.float16)


def test_an_optimizer_without_its_package_is_refused_with_what_installs_it(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("magic_insert.core.errors.find_spec", lambda named: None)
    save_png(tmp_path / "cat.png", torch.rand(3, 40, 40))
    cat = f"subject={tmp_path / 'cat.png'}"
    rates = "personalization.lr_unet=1 personalization.lr_tokens=1"
    for job, group, files, name, extra in (
        ("personalize", "personalization", cat, "adamw8bit", "bnb"),
        ("personalize", "personalization", f"{cat} {rates}", "prodigy", "prodigy"),
        ("insertion", "train", f"data=pairs data.path={tmp_path}", "adamw8bit", "bnb"),
        ("bootstrap", "fit", f"pool.dir={tmp_path}", "adamw8bit", "bnb"),
    ):
        words = [*files.split(), f"{group}.optimizer={name}", f"out={tmp_path / 'out'}"]
        with pytest.raises(SystemExit) as ended:
            main([job, *hub.words(), *words])
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert f"run pip install 'magic-insert[{extra}]' or set {group}.optimizer=adamw" in said
        assert len(said.splitlines()) == 1


def test_words_of_a_scorer_speak_of_toys_to_the_toyboxs_judge_alone() -> None:
    assert edit_texts("", ["with a red hat"], "micro") == ["a toy with a red hat"]
    assert edit_texts("", ["with a red hat"], "model") == ["with a red hat"]
    assert edit_texts("dog", ["sitting"], "model") == ["a dog sitting"]


def test_a_folder_of_the_hub_inserts_without_more_and_names_the_pipelines_that_remove(
    hub: Hub, tmp_path: Path
) -> None:
    for name in ("image", "mask"):
        save_png(tmp_path / f"{name}.png", torch.rand(3, 40, 40).round())
    files = {name: tmp_path / f"{name}.png" for name in ("image", "mask", "out")}

    def look(job: str, **named: Any) -> None:
        words = [f"{name.replace('__', '.')}={value}" for name, value in named.items()]
        JOBS[job].look(frozen(job, *hub.words(), *words))

    drop = {"subject": files["image"], "background": files["image"], "out": files["out"]}
    look("insert", **drop)
    with pytest.raises(UserError, match="or inserter=diffusers"):
        look("insert", **drop, inserter="diffusion")
    with pytest.raises(UserError, match=r"set run=FOLDER, or remover=diffusers run=FOLDER"):
        look("remove", **files)
    look("remove", **files, remover="diffusers", run=hub.inpaint)
    training = {"data": "pairs", "data__path": tmp_path, "out": tmp_path / "run"}
    look("insertion", **training)
    for init in ("shipped", tmp_path):  # before pictures are encoded for hours
        with pytest.raises(UserError, match=r"set train\.init=base"):
            look("insertion", **training, train__init=init)


def test_an_edit_network_draws_in_the_models_precision_and_at_its_own_size(hub: Hub, tmp_path: Path) -> None:
    """Whatever the size of the pipeline that it draws beside."""
    pipe = load_pipeline(hub_config(hub, dtype="bfloat16", image_size=128))
    start = edit_unet.edit_start(pipe.unet)
    start.register_to_config(sample_size=8)
    edit_unet.save_unet(tmp_path / "inserter", start)
    unet, seen = edit_unet.edit_unet_of(pipe, tmp_path / "inserter"), []
    assert unet.dtype == torch.bfloat16
    unet.register_forward_pre_hook(
        lambda module, args, options: seen.append(options["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    picture = torch.zeros(1, 3, 128, 128)
    edit_unet.edit(pipe, unet, picture, picture[:, :1], edit_unet.EditSampling(0, ["a"], 1))
    assert seen[0].tolist() == [[64, 64, 0, 0, 64, 64]]


def test_a_large_picture_is_decoded_in_tiles_and_encoders_may_wait_on_the_cpu(
    hub: Hub, hub_pipe: Any
) -> None:
    small, large = hub_pipe.vae, load_pipeline(hub_config(hub, image_size=1024)).vae
    assert (small.use_slicing, large.use_slicing, large.use_tiling) == (False, True, True)
    assert large.tile_latent_min_size == 128  # one tile at 1024 pixels: no seams where none are needed
    waiting = load_pipeline(hub_config(hub, offload=True))
    texts = [
        pipe.encode_prompt("a cat", do_classifier_free_guidance=False)[0] for pipe in (hub_pipe, waiting)
    ]
    assert torch.equal(*texts)


@pytest.mark.slow
def test_what_a_job_has_no_use_for_stays_on_the_cpu_from_the_beginning(hub: Hub) -> None:
    adapter = {"ip_adapter": str(hub.adapter), "ip_adapter_weight": "ip-adapter_sdxl.safetensors"}

    def elsewhere(*, draws: bool, offload: bool) -> set[str]:
        model = hub_config(hub, offload=offload, **adapter)
        pipe = load_pipeline(model, device="meta", draws=draws)  # nothing comes back from there
        return {name for name in PARTS if getattr(pipe, name).device.type == "meta"}

    assert elsewhere(draws=True, offload=False) == set(PARTS)
    assert elsewhere(draws=True, offload=True) == {"unet", "vae"}
    assert elsewhere(draws=False, offload=False) == {"vae", "text_encoder", "text_encoder_2"}
    assert elsewhere(draws=False, offload=True) == {"vae"}


def test_samples_are_not_clipped_where_a_schedule_says_nothing(
    hub_pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {key: value for key, value in hub_pipe.scheduler.config.items() if key != "clip_sample"}
    monkeypatch.setattr(hub_pipe, "scheduler", type(hub_pipe.scheduler).from_config(told))
    assert not ddim(hub_pipe).config.clip_sample
