"""The words of `magic-insert evaluate`: several methods side by side, each with settings of its own."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers import frozen

from magic_insert.cli.jobs import JOBS, VARIANTS
from magic_insert.cli.jobs import methods_side_by_side as rewrite
from magic_insert.core.errors import UserError
from magic_insert.paths import CHECKOUT, conf_dir


def composed(*words: str) -> Any:
    return frozen("evaluate", *rewrite(words))


def test_several_methods_run_in_their_order_and_a_label_has_settings_of_its_own() -> None:
    cfg = composed("stylizer=[instantstyle,personalized]", "inserter=[copy_paste,diffusion]", "root=here")
    assert cfg.benchmark.root == "here"
    assert list(cfg.chosen_stylizers) == ["instantstyle", "personalized"]
    assert [inserter.name for inserter in cfg.chosen_inserters.values()] == ["copy_paste", "diffusion"]
    cfg = composed(
        "stylizer=[personalized,wide:personalized]",
        "stylizers.wide.personalization.rank=64",
        "stylizers.wide.sampling.steps=7",
        "stylizers.wide.lora_scale=0.5",
    )
    wide, plain = cfg.chosen_stylizers["wide"], cfg.chosen_stylizers["personalized"]
    assert (wide.personalization, wide.sampling, wide.lora_scale) == ({"rank": 64}, {"steps": 7}, 0.5)
    assert (plain.personalization, plain.sampling, plain.lora_scale) == ({}, {}, 1.0)


@pytest.mark.parametrize("words", [[], ["stylizer=[adain,a:personalized_up0]"]])
def test_rewritten_words_mean_the_same_when_they_are_rewritten_again(words: list[str]) -> None:
    assert rewrite(rewrite(words)) == rewrite(words)
    assert rewrite(["experiment=mine"]) == ["experiment=mine"], "it may choose the methods itself"


PAPER = ("BENCHMARK=subjectplop", "MODEL=sdxl", "GPUS=8")


def made_words(*variables: str) -> list[str]:
    """What `make eval-subjectplop` would tell `magic-insert evaluate`, whatever make runs this test."""
    said = subprocess.run(
        ["make", "--dry-run", "eval-subjectplop", *variables],
        cwd=CHECKOUT, env={"PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=True,
    ).stdout.replace("\\\n", " ")  # fmt: skip
    (line,) = [line for line in said.splitlines() if "magic-insert evaluate" in line]
    return shlex.split(line.partition(" evaluate ")[2])


def test_make_composes_the_papers_setting_that_its_help_names(tmp_path: Path) -> None:
    cfg = composed(*made_words(*PAPER, f"ROOT={tmp_path}", f"ARGS=out={tmp_path / 'out'}"))
    JOBS["evaluate"].look(cfg)
    assert (cfg.tracks, cfg.metrics, cfg.model.name) == (("stylize",), "paper", "sdxl")
    names = ("style_aligned", "instantstyle", "personalized")
    assert list(cfg.chosen_stylizers) == [name for base in names for name in (base, f"{base}_canny")]


def test_every_variant_is_a_stylizer_of_an_evaluation() -> None:
    names = ["personalized", *(path.stem for path in (conf_dir() / VARIANTS).glob("*.yaml"))]
    chosen = composed(f"stylizer=[{','.join(names)}]").chosen_stylizers
    assert list(chosen) == names
    assert all(chosen[name] != chosen["personalized"] for name in names[1:])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stylizer=personalised"], "personalised"),
        (["stylizer=[personalized,personalized]"], "twice"),
        (["stylizer=[personalized,instantstyle]", "stylizer.lora_scale=1"], r"stylizers\.NAME\.lora_scale"),
        (["stylizer="], "NAME"),
        (["inserter=images"], r"inserters\.images\.dir"),
        (["stylizer=images", "stylizer.dir=x", "stylizer.pattern=a.png"], r"\{subject\}"),
        (["stylizer=personalized", "stylizer.lora_scael=1"], r"stylizers\.personalized\.lora_scael"),
        (["stylizer=personalized", "stylizer.personalization.rnak=1"], r"personalization.*rnak"),
        (["stylizer=personalized", "stylizer.style.scale=9"], "scale"),
        (["benchmark=folder"], r"benchmark\.root"),
        (["inserter=copy_paste", "inserter.composite=glue"], r"inserters\.copy_paste\.composite"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        composed(*words)
