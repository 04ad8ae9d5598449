"""The words of `magic-insert evaluate`: several methods side by side, each with settings of its own."""

from typing import Any

import pytest

from magic_insert.cli.evaluate import VARIANTS, rewrite
from magic_insert.config.compose import compose_job
from magic_insert.config.freeze import freeze
from magic_insert.core.errors import UserError
from magic_insert.paths import conf_dir


def composed(*words: str) -> Any:
    return freeze(compose_job("evaluate", rewrite(words)))


def test_a_comma_list_is_several_methods_in_one_run_in_their_order() -> None:
    cfg = composed("stylizer=instantstyle,personalized", "inserter=copy_paste,real_only")
    assert list(cfg.chosen_stylizers) == ["instantstyle", "personalized"]
    assert [inserter.name for inserter in cfg.chosen_inserters.values()] == ["copy_paste", "real_only"]


def test_a_label_gives_a_method_another_name_and_settings_of_its_own() -> None:
    cfg = composed(
        "stylizer=personalized,wide:personalized",
        "stylizers.wide.personalization.rank=64",
        "stylizers.wide.sampling.steps=7",
        "stylizers.wide.lora_scale=0.5",
    )
    wide, plain = cfg.chosen_stylizers["wide"], cfg.chosen_stylizers["personalized"]
    assert (wide.personalization, wide.sampling, wide.lora_scale) == ({"rank": 64}, {"steps": 7}, 0.5)
    assert (plain.personalization, plain.sampling, plain.lora_scale) == ({}, {}, 1.0)


def test_the_only_method_may_be_spoken_to_by_its_group() -> None:
    cfg = composed(
        "stylizer=images", "stylizer.dir=there", "inserter=real_only", "inserter.steps=3", "root=here"
    )
    assert cfg.chosen_stylizers["images"].images.dir == "there"
    assert cfg.chosen_inserters["real_only"].steps == 3
    assert cfg.benchmark.root == "here"


@pytest.mark.parametrize("path", sorted((conf_dir() / VARIANTS).glob("*.yaml")), ids=lambda path: path.stem)
def test_every_variant_is_a_stylizer_of_an_evaluation(path: Any) -> None:
    chosen = composed(f"stylizer={path.stem}").chosen_stylizers[path.stem]
    assert chosen != composed("stylizer=personalized").chosen_stylizers["personalized"]


def test_an_experiment_may_choose_the_methods_itself() -> None:
    assert rewrite(["experiment=mine"]) == ["experiment=mine"]
    assert len(rewrite(["experiment=null"])) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stylizer=personalised"], "personalised"),
        (["stylizer=personalized,personalized"], "twice"),
        (["stylizer=personalized,instantstyle", "stylizer.lora_scale=1"], r"stylizers\.NAME\.lora_scale"),
        (["stylizer="], "NAME"),
        (["inserter=images"], r"inserter\.dir"),
        (["stylizer=images", "stylizer.dir=x", "stylizer.pattern=a.png"], r"\{subject\}"),
        (["stylizer=personalized", "stylizer.lora_scael=1"], r"stylizers\.personalized\.lora_scael"),
        (["stylizer=personalized", "stylizer.personalization.rnak=1"], r"personalization.*rnak"),
        (["stylizer=personalized", "stylizer.sampling.steps=0"], "steps"),
        (["stylizer=personalized", "stylizer.style.scale=9"], "scale"),
        (["benchmark=folder"], r"benchmark\.root"),
        (["benchmark=subjectplop"], r"benchmark\.root"),
        (["track=paint"], "track"),
        (["metrics=best"], "metrics"),
        (["num_draws=0"], "num_draws"),
        (["benchmark.split=half"], r"benchmark\.split"),
        (["benchmark.placement=up"], r"benchmark\.placement"),
        (["benchmark.num_subjects=0"], r"benchmark\.num_subjects"),
        (["benchmark.size=4"], r"benchmark\.size"),
        (["inserter=copy_paste", "inserter.composite=glue"], r"inserter\.composite"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        composed(*words)
    assert "\n" not in str(caught.value)
