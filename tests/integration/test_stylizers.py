"""Every stylizer of conf/stylizer on a tiny model: same seed same picture, nothing left behind, every knob turns."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import block, frozen, noise
from torch import Tensor
from torch.nn import functional

from magic_insert.config.compose import group_options
from magic_insert.config.schema.shared import ModelConfig, SamplingConfig, StyleConfig, StylizerConfig
from magic_insert.core.compositing import resize
from magic_insert.core.errors import UserError
from magic_insert.core.events import Preview
from magic_insert.core.masks import blur
from magic_insert.core.rand import fold_in, generator
from magic_insert.core.records import Box, Subject
from magic_insert.data.subject_images import own_part, place, spot
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.lora import add_lora, remove_lora, save_lora
from magic_insert.models.pipeline import fingerprint
from magic_insert.models.sampling import sample
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.models.text import attached, initial_tokens, save_tokens
from magic_insert.stylizers import build_stylizer, check_stylizer, needs_personalization, personalized
from magic_insert.stylizers.draws import Draw, Stylizer
from magic_insert.stylizers.personalized import AUTO_NAMED, AUTO_UNNAMED, detailed
from magic_insert.stylizers.tone import to_lab, to_rgb

CHOICES = group_options("stylizer")
WORDS = ["as an oil painting", "as a pencil drawing", ""]
SAMPLING = SamplingConfig(steps=2, guidance=2.0)
STYLE = StyleConfig(blocks="all")


@pytest.fixture(scope="module")
def run(tiny_pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The product of a personalisation that moved LoRA and tokens by hand."""
    folder = tmp_path_factory.mktemp("run")
    for parameter in add_lora(tiny_pipe.unet, rank=2, alpha=2.0, seed=0):
        parameter.data.add_(0.05)
    save_lora(folder / LORA_FILE, tiny_pipe.unet)
    remove_lora(tiny_pipe.unet, "subject")
    tokens = initial_tokens(tiny_pipe, 2)
    for rows in tokens.rows.values():
        rows.data += 0.5 * torch.randn(rows.shape, generator=generator(0, "rows"))
    save_tokens(folder / TOKENS_FILE, tokens)
    (folder / "card.json").write_text(json.dumps({"prompt": "A {tokens}."}))
    return folder


@cache
def settings_of(choice: str) -> StylizerConfig:
    """What a YAML of conf/stylizer sets."""
    words = ["subject=s.png", "background=b.png", "out=o.png", f"stylizer={choice}"]
    return frozen("insert", *words).stylizer


@pytest.fixture
def made(tiny_pipe: Any, run: Path, adain_weights: Path) -> Iterator[Any]:
    """Builds stylizers by the name of their YAML and closes them afterwards."""
    built: list[Stylizer] = []

    def build(
        choice: str = "personalized",
        *,
        style: StyleConfig = STYLE,
        suffix: str = "",
        text: str = "a red bunny",
        subject: Subject | None = None,
        **knobs: Any,
    ) -> Stylizer:
        cfg = replace(settings_of(choice), **knobs)
        if cfg.name == "adain":
            cfg = replace(cfg, weights=str(adain_weights), size=knobs.get("size", 64))
        who = replace(subject or soft(), text=text, run=run if needs_personalization(cfg) else None)
        stylizer = build_stylizer(cfg, tiny_pipe, who, style, replace(SAMPLING, prompt_suffix=suffix))
        built.append(stylizer)
        return stylizer

    yield build
    for stylizer in built:
        stylizer.close()


def soft(text: str = "") -> Subject:
    """A subject without marks: `block` in soft colours."""
    subject = block(text=text)
    return replace(subject, rgb=blur(subject.rgb, 2.0))


def draw(stylizer: Stylizer, seed: int = 1, style_text: str = "", which: int = 0) -> Tensor:
    return stylizer([Draw(noise(which), seed, "pair", style_text)])[0]


@pytest.fixture(scope="module")
def plain(tiny_pipe: Any, run: Path) -> Tensor:
    """What the personalised method draws without further ado."""
    stylizer = build_stylizer(
        settings_of("personalized"), tiny_pipe, replace(soft(text="a red bunny"), run=run), STYLE, SAMPLING
    )
    drawn = draw(stylizer)
    stylizer.close()
    return drawn


def far(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() > 1e-5)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_batch_equals_each_scene_alone_and_leaves_the_model(tiny_pipe: Any, made: Any, choice: str) -> None:
    prints, base = fingerprint(tiny_pipe), sample(tiny_pipe, ["a red bunny"], [0], steps=1)
    stylizer = made(choice)
    assert isinstance(stylizer, Stylizer)
    scenes, steps = [noise(0), noise(1, 70, 50), noise(2)], []
    draws = [Draw(s, *rest) for s, *rest in zip(scenes, (1, 2, 1), "abc", WORDS, strict=True)]

    def on_step(done: int, total: int, preview: Preview | None = None) -> None:
        steps.append((done, total))
        assert preview is None or preview().size == (64, 64)  # and what is drawn depends on no preview

    together = stylizer(draws, on_step=on_step)
    assert together.shape == ((3, 4, 30, 20) if choice == "tone" else (3, 3, 64, 64))
    assert [done for done, _ in steps] == list(range(1, steps[0][1] + 1))
    torch.testing.assert_close(stylizer([draws[1]])[0], together[1], atol=2e-4, rtol=0)
    assert far(together[0], together[1])
    assert torch.equal(sample(tiny_pipe, ["a red bunny"], [0], steps=1), base)
    stylizer.close()
    assert fingerprint(tiny_pipe) == prints


@pytest.mark.parametrize(
    ("choice", "hears"),
    [
        ("personalized", False),
        ("personalized_prompt", True),
        ("instantstyle", False),
        ("style_aligned", True),
    ],
)
def test_the_words_of_a_style_reach_methods_of_words(made: Any, choice: str, hears: bool) -> None:
    stylizer = made(choice)
    assert far(draw(stylizer, style_text="as a woodcut print"), draw(stylizer)) == hears


@pytest.mark.parametrize("name", ["personalized", "instantstyle", "style_aligned"])
def test_structure_steers_the_picture_and_at_strength_zero_it_is_exactly_absent(made: Any, name: str) -> None:
    without = draw(made(name))
    assert torch.equal(draw(made(f"{name}_canny", structure_scale=0.0)), without)
    weak, strong = (draw(made(f"{name}_canny", structure_scale=scale)) for scale in (0.6, 2.0))
    assert far(weak, without)
    assert far(strong, weak)


def test_style_scale_zero_is_exactly_the_personalised_model_without_style(made: Any, plain: Tensor) -> None:
    silent = draw(made(style=replace(STYLE, mode="none")))
    assert torch.equal(draw(made(style=replace(STYLE, scale=0.0))), silent)
    assert torch.equal(draw(made(style_mode="none")), silent)
    assert far(plain, silent)


def test_style_guidance_moves_the_picture_and_leaves_the_pipeline_as_it_was(made: Any, plain: Tensor) -> None:
    assert torch.equal(draw(made(style=replace(STYLE, guidance=0.0))), plain)
    weak, strong = (draw(made(style=replace(STYLE, guidance=g))) for g in (2.0, 8.0))
    assert far(weak, plain)
    assert (strong - plain).abs().mean() > (weak - plain).abs().mean()
    assert torch.equal(draw(made()), plain)
    assert torch.equal(  # nothing to be guided to
        draw(made(style=replace(STYLE, mode="none", guidance=8.0))),
        draw(made(style=replace(STYLE, mode="none"))),
    )


def test_a_handover_moves_the_picture_and_at_one_it_is_the_papers_way(made: Any, plain: Tensor) -> None:
    assert torch.equal(draw(made(style=replace(STYLE, handover=1.0, outline=0.8))), plain)
    late, never = (draw(made(style=replace(STYLE, handover=share))) for share in (0.5, 0.0))
    assert far(late, plain)
    assert far(late, never)
    assert far(draw(made(style=replace(STYLE, handover=0.5, outline=0.8))), late)
    assert torch.equal(draw(made()), plain)
    words_alone = replace(STYLE, mode="none")
    assert torch.equal(draw(made(style=replace(words_alone, handover=0.0))), draw(made(style=words_alone)))


def test_detail_has_the_subjects_outline_and_is_off_for_a_pose(made: Any, plain: Tensor) -> None:
    detailed = draw(made(style=replace(STYLE, detail=1.0), lines=0.0))
    assert plain.shape == (3, 64, 64)
    at = spot(soft(), (64, 64))
    assert torch.allclose(
        detailed[3:], torch.ones(1, at.h, at.w)
    )  # the part of its picture that is the subject
    assert draw(made(style=replace(STYLE, detail=1.0), suffix="sitting")).shape == plain.shape


def test_detail_of_a_picture_drawn_in_one_colour_is_what_is_fine_in_the_own_one() -> None:
    colour, at = torch.tensor([0.7, 0.5, 0.2]).view(3, 1, 1), Box(8, 8, 48, 48)
    columns = torch.arange(96)
    waves = {"fine": 0.1 * (-1.0) ** columns, "coarse": 0.1 * torch.sin(columns * 2 * torch.pi / 96)}
    for name, wave in waves.items():
        own = torch.cat([(0.5 + wave).expand(3, 96, 96), torch.ones(1, 96, 96)])
        made = detailed(colour.expand(3, 64, 64), own, at, 1.0)[:3, 8:-8, 8:-8] - colour
        assert (made - wave[8:-8]).abs().max() < 0.02 if name == "fine" else made.abs().max() < 0.02
        none = detailed(colour.expand(3, 64, 64), own, at, 0.0)[:3]
        assert torch.allclose(none, colour.expand(3, 96, 96), atol=1e-6)


def test_in_a_photograph_fine_colours_are_its_own_and_the_overall_colour_is_the_drawn_one() -> None:
    at, drawn = Box(8, 8, 48, 48), torch.tensor([0.7, 0.5, 0.2]).view(3, 1, 1)
    stripes = 0.4 * (torch.arange(96) // 4 % 2)  # red and green in turn
    rgb = torch.stack([0.3 + stripes, 0.7 - stripes, torch.full((96,), 0.5)])[:, None].expand(3, 96, 96)
    own = torch.cat([rgb, torch.ones(1, 96, 96)])
    made = detailed(drawn.expand(3, 64, 64), own, at, 1.0, photograph=True)[:3]
    assert (made - (drawn + rgb - 0.5))[:, 20:-20, 20:-20].abs().max() < 0.05


def test_what_is_of_one_colour_is_drawn_in_one_however_patchy_the_drawing() -> None:
    at, half = Box(8, 8, 48, 48), (torch.arange(96) < 48).float()
    own = torch.stack([0.2 + 0.6 * half, 0.8 - 0.6 * half, torch.full((96,), 0.2)])[:, None].expand(3, 96, 96)
    wanted = torch.stack([0.4 + 0.3 * half, 0.5 - 0.1 * half, 0.8 - 0.5 * half])[:, None].expand(3, 96, 96)
    patches = 0.25 * torch.randn(3, 12, 12, generator=generator(0, "patches"))
    patches = functional.interpolate(patches[None], (96, 96), mode="bilinear")[0]
    drawn = functional.avg_pool2d(functional.pad(wanted + patches, (16, 16, 16, 16))[None], 2)[0].clamp(0, 1)
    made = detailed(drawn, torch.cat([own, torch.ones(1, 96, 96)]), at, 1.0)[:3]

    def chroma(picture: Tensor) -> Tensor:
        return (picture - picture.mean(dim=0))[:, 8:-8, 8:40]

    spread = {
        name: float(chroma(p).std(dim=(1, 2)).norm())
        for name, p in (("made", made), ("drawn", wanted + patches))
    }
    assert spread["made"] < 0.5 * spread["drawn"]
    assert (made - wanted)[:, 8:-8, 8:40].mean(dim=(1, 2)).abs().max() < 0.08


def test_of_what_is_drawn_a_share_of_the_hues_is_taken_and_all_of_the_light() -> None:
    at, ones = Box(8, 8, 48, 48), torch.ones(1, 96, 96)
    own, drawn = (torch.tensor(c).view(3, 1, 1) for c in ([0.7, 0.2, 0.2], [0.3, 0.5, 0.3]))
    made = [
        detailed(drawn.expand(3, 64, 64), torch.cat([own.expand(3, 96, 96), ones]), at, 1.0, hues=hues)[:3]
        for hues in (0.0, 0.4, 1.0)
    ]
    none, some, all_of_it = (to_lab(picture)[48, 48] for picture in made)
    assert none[1:] == pytest.approx(to_lab(own)[0, 0, 1:], abs=1)
    assert some[1:] == pytest.approx(0.6 * none[1:] + 0.4 * all_of_it[1:], abs=1)
    assert all_of_it == pytest.approx(to_lab(drawn)[0, 0], abs=1)
    assert none[0] == pytest.approx(all_of_it[0], abs=1)


def test_detail_knows_a_photograph_by_how_it_reads(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def changes(picture: Tensor) -> Tensor:
        return picture[:3].diff(dim=-1).flatten()

    stylizer, likeness = made(style=replace(STYLE, detail=1.0)), {}
    for share in (0.0, 1.0):
        monkeypatch.setattr(personalized, "photo_shares", lambda pipe, embeds, share=share: [share])
        picture = draw(stylizer)
        own = resize(own_part(soft())[0], *picture.shape[-2:])
        likeness[share] = float(torch.cosine_similarity(changes(picture), changes(own), dim=0))
    assert likeness[1.0] > 0.8 > likeness[0.0]


def test_auto_keeps_the_personalised_model_for_photographs(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "magic_insert.stylizers.personalized.photo_shares", lambda pipe, styles: [0.9, 0.05, 0.3]
    )
    monkeypatch.setattr("magic_insert.stylizers.personalized.AUTO_NAMED", 0.5)  # of two steps
    draws = [Draw(noise(i), 1, name) for i, name in enumerate("abc")]
    stylizer = made(style=replace(STYLE, handover="auto"))
    mixed, plain = stylizer(draws), made()(draws)
    assert [stylizer.facts[name]["handover"] for name in "abc"] == [1.0, 0.5, 1.0]
    for i, same in enumerate((True, False, True)):
        assert torch.allclose(mixed[i], plain[i], atol=1e-4) == same


def test_the_marks_of_a_subject_that_is_all_marks_stay_out_of_every_picture(
    made: Any, plain: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(personalized, "photo_shares", lambda pipe, styles: [0.9])
    for subject, share in ((soft(), 1.0), (block(), AUTO_NAMED)):
        stylizer = made(subject=subject, style=replace(STYLE, detail=1.0, handover="auto"))
        picture, kept = draw(stylizer), share == 1
        assert stylizer.facts["pair"] == {"handover": share, "detail": float(kept)}
        assert (picture.shape != plain.shape) == kept


@pytest.mark.slow
def test_the_base_model_takes_over_sooner_where_it_has_words(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = draw(made(style=replace(STYLE, handover=0.0)))
    assert torch.equal(at_once, draw(made("instantstyle", style_mode="ip_adapter")))
    assert far(at_once, draw(made(style=replace(STYLE, handover=0.0), text="")))
    monkeypatch.setattr("magic_insert.stylizers.personalized.photo_shares", lambda pipe, styles: [0.05])
    shares = []
    for text in ("a red bunny", ""):
        stylizer = made(style=replace(STYLE, handover="auto"), text=text)
        draw(stylizer)
        shares.append(stylizer.facts["pair"]["handover"])
    assert shares == [AUTO_NAMED, AUTO_UNNAMED]


def test_lora_scale_zero_and_start_tokens_are_the_base(
    tiny_pipe: Any, made: Any, run: Path, tmp_path: Path
) -> None:
    for name in (LORA_FILE, "card.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    save_tokens(tmp_path / TOKENS_FILE, initial_tokens(tiny_pipe, 2))
    cfg = StylizerConfig(lora_scale=0.0, style_mode="none")
    stylizer = build_stylizer(cfg, tiny_pipe, replace(soft(), run=tmp_path), STYLE, SAMPLING)
    ours = draw(stylizer)
    stylizer.close()
    number = fold_in(1, "stylise", "pair", 0)
    with attached(tiny_pipe, initial_tokens(tiny_pipe, 2)):
        base = sample(tiny_pipe, ["A <v1> <v2>."], [number], steps=2, guidance=2.0)[0]
    assert torch.equal(ours, base)
    assert far(draw(made(lora_scale=0.0, style_mode="none")), base)  # the tokens
    assert far(draw(made(lora_scale=1.0)), draw(made(lora_scale=0.5)))


def test_the_degree_leads_from_the_subjects_own_look_to_the_scenes(made: Any, plain: Tensor) -> None:
    own = made()([Draw(place(soft(), 64)[0], 1, "pair")])[0]
    none, half = (draw(made(style=replace(STYLE, degree=degree))) for degree in (0.0, 0.5))
    torch.testing.assert_close(none, own, atol=1e-5, rtol=0)
    assert far(half, plain)
    assert far(half, none)


def test_every_knob_of_style_aligned_turns(made: Any) -> None:
    still = draw(made("style_aligned"))
    for knob in ({"share_norms": False}, {"score_shift": 3.0}):
        assert far(draw(made("style_aligned", **knob)), still), knob


def test_adain_draws_without_a_pipeline_at_its_own_size(adain_weights: Path) -> None:
    cfg = StylizerConfig(name="adain", weights=str(adain_weights), size=80)
    assert draw(build_stylizer(cfg, None, soft(), STYLE, SAMPLING)).shape == (3, 80, 80)


@pytest.mark.parametrize(
    ("cfg", "text", "fix"),
    [
        (StylizerConfig(structure="canny"), "a cat", r"model\.controlnet"),
        (StylizerConfig(name="adain"), "", r"stylizer\.weights"),
        (StylizerConfig(name="adain", weights="nowhere"), "", r"stylizer\.weights"),
        (StylizerConfig(name="instantstyle"), " ", "subject_text"),
        (StylizerConfig(name="style_aligned"), "", "subject_text"),
    ],
)
def test_what_is_missing_is_said_in_one_line_before_anything_is_loaded(
    tmp_path: Path, cfg: StylizerConfig, text: str, fix: str
) -> None:
    model = ModelConfig(name="micro", image_size=64)
    with pytest.raises(UserError, match=fix):
        check_stylizer(cfg, model, tmp_path, subject_text=text)


@pytest.mark.parametrize(("drawn", "vivid"), [(0.5, 1.0), (1.1, 1.1), (3.0, 1.2)])
def test_in_its_own_hues_a_subject_is_as_vivid_as_it_was_drawn_within_bounds(
    drawn: float, vivid: float
) -> None:
    at, ones = Box(8, 8, 48, 48), torch.ones(1, 96, 96)
    lab = [
        np.array([[[60.0, *colour]]], np.float32) for colour in ((12.0, -9.0), (9.0 * drawn, 12.0 * drawn))
    ]
    own, other = (to_rgb(colour).expand(3, 96, 96) for colour in lab)
    made = detailed(other[:, :64, :64], torch.cat([own, ones]), at, 1.0, hues=0.0)[:3]
    assert to_lab(made)[48, 48, 1:] == pytest.approx(vivid * lab[0][0, 0, 1:], abs=0.3)
