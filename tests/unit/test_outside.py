"""An installed package adds components of every kind: one file and its entry points (tests/outside), no YAML."""

import sys
from collections.abc import Iterator
from importlib import invalidate_caches
from pathlib import Path

import pytest
import torch
from helpers import frozen
from omegaconf import OmegaConf

from magic_insert.bootstrap.filters import build_filters
from magic_insert.cli.jobs import methods_side_by_side as rewrite
from magic_insert.cli.main import job_help
from magic_insert.config.compose import frozen_from, group_options
from magic_insert.config.freeze import to_yaml
from magic_insert.config.registry import ENCODERS, METRICS
from magic_insert.core.errors import UserError
from magic_insert.core.records import Subject
from magic_insert.evaluation.metrics import Sample, column
from magic_insert.inserters import build_inserter
from magic_insert.inserters.base import Window
from magic_insert.models.segment import segment
from magic_insert.stylizers import build_stylizer
from magic_insert.stylizers.draws import Draw
from magic_insert.toybox.subjects import sample_subject
from magic_insert.toybox.world import render_subjects

INSERT = ("subject=s.png", "background=b.png", "out=o.png")
OUTSIDE = Path(__file__).parents[1] / "outside"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(OUTSIDE))
    invalidate_caches()
    yield
    sys.modules.pop("darkroom", None)


def test_naming_what_is_installed_imports_none_of_it() -> None:
    assert "contrast" in group_options("filter")
    frozen("bootstrap")
    assert "darkroom" not in sys.modules


def test_a_filter_has_its_bounds_checked_and_judges() -> None:
    rules = frozen("bootstrap", "filter=contrast", "filter.rules.contrast.most=0.2").filter.rules
    judge = build_filters(rules)["contrast"]
    assert [judge.score("a", {"residue": value}) for value in (0.1, 0.25)] == [1.0, 0.0]
    with pytest.raises(UserError, match=r"filter\.rules\.contrast\.most from 0 to 1"):
        build_filters({"contrast": {"most": 2.0}})


def test_a_stylizer_and_an_inserter_have_settings_of_their_own_in_help_run_and_record() -> None:
    words = (*INSERT, "stylizer=negative", "stylizer.strength=0.25", "inserter=gloom",
             "inserter.darkness=0.75")  # fmt: skip
    cfg = frozen("insert", *words)
    assert (cfg.stylizer.strength, cfg.inserter.darkness) == (0.25, 0.75)
    assert frozen_from(OmegaConf.create(to_yaml(cfg)), "insert") == cfg
    assert "stylizer.strength=0.25" in job_help("insert", "", words)
    with pytest.raises(UserError, match=r"stylizer\.strength from 0 to 1"):
        frozen("insert", *INSERT, "stylizer=negative", "stylizer.strength=2")

    subject = Subject(torch.full((3, 8, 8), 0.2), torch.ones(1, 8, 8), "grey")
    stylizer = build_stylizer(cfg.stylizer, None, subject, cfg.style, cfg.sampling)
    draw = Draw(torch.zeros(3, 8, 8), 0, "a")
    assert torch.allclose(stylizer([draw]), torch.full((1, 3, 8, 8), 0.35))
    inserter = build_inserter(cfg.inserter, None, None)
    window, mask = torch.ones(3, 8, 8), torch.ones(1, 8, 8)
    layer = inserter(Window(window, window, mask)).layer
    assert torch.equal(layer.shade, torch.full((3, 8, 8), 0.25))


def test_an_evaluation_takes_them_beside_others() -> None:
    words = ["stylizer=[personalized,negative]", "inserter=gloom", "stylizers.negative.strength=0.5"]
    cfg = frozen("evaluate", *rewrite([*words, "inserter.darkness=1"]))
    assert cfg.chosen_stylizers["negative"].strength == 0.5
    assert cfg.chosen_inserters["gloom"].darkness == 1.0
    with pytest.raises(UserError, match=r"stylizers\.negative\.strength"):
        frozen("evaluate", *rewrite(["stylizer=negative", "stylizer.strength=3"]))


def test_a_metric_and_an_encoder_are_named_by_an_evaluation() -> None:
    words = rewrite(["stylizer=personalized", "inserter=copy_paste", "metrics=paper"])
    cfg = frozen("evaluate", *words, "extra_metrics=[brightness]", "encoders.extra=[colours]")
    assert (cfg.extra_metrics, cfg.encoders.extra) == (["brightness"], ["colours"])
    assert column("insert", "brightness").bounds == (0, 1)
    sample = Sample("insert", {}, {}, {}, picture=torch.full((3, 4, 4), 0.25))
    assert METRICS.get("brightness").values(sample) == {"brightness": 0.25}
    encoder = ENCODERS.get("colours").load(root=None)
    assert encoder.embed_images(torch.ones(2, 3, 40, 40)).shape == (2, 3)
    with pytest.raises(UserError, match="extra_metrics to be one of"):
        frozen("evaluate", *words, "extra_metrics=[gloss]")


def test_a_segmenter_is_chosen_by_its_group() -> None:
    assert frozen("insert", *INSERT, "segmenter=bright").segmenter.name == "bright"
    assert "bright" in job_help("insert", "", [], "segmenter")
    rgb = torch.zeros(3, 16, 16)
    rgb[:, 4:12, 4:12] = 1
    assert torch.equal(segment(rgb, segmenter="bright").alpha, rgb[:1])


def test_a_style_draws_toybox_scenes() -> None:
    assert frozen("toybox", "styles=[sepia]").styles == ["sepia"]
    subject = sample_subject(3)
    photo, brown = (
        render_subjects([subject], [style], [0.5], [3], size=32).rgb for style in ("photo", "sepia")
    )
    assert float((brown[:, 0] - brown[:, 2]).min()) >= 0
    assert not torch.equal(photo, brown)
    with pytest.raises(UserError, match="styles to be one of photo"):
        frozen("toybox", "styles=[fresco]")
