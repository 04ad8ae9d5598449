"""What stands in tools/: benches that time what they claim, the table over seeds, shipping, and the parity check."""

import json
import math
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch
from helpers import module_at, oval
from own_cut import measure
from seed_table import lines_of, main

from magic_insert import MagicInsert
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.jsonl import write_json, write_text
from magic_insert.data.pairs import CompositePairs
from magic_insert.launch.results import Outcome, Sweep, write_sweep
from magic_insert.paths import CHECKOUT, shelf_dir, subjects_dir

TOOLS = Path(__file__).resolve().parents[2] / "tools"
GROUPS = ("photo", "seen", "unseen")
PIXELS = 100.0


def stored(store: Path, key: str, error: float) -> float:
    """An evaluation of four scenes a group with the same mean squared error everywhere; returns its decibels."""
    row = {f"{name}_error": error * PIXELS for name in ("effect", "nothing", "hole", "outside")}
    row |= {f"{name}_pixels": PIXELS for name in ("effect", "hole", "outside")} | {"shadow_iou": 0.5}
    for group in GROUPS:
        for scene in range(4):
            write_json(store / "evaluate" / key / "values" / f"{scene:04d}-{group}.json", row)
    return -10 * math.log10(error)


def run(place: Path, name: str, errors: list[float]) -> Path:
    """A run folder whose round k left `errors[k]`."""
    rows = []
    for number, error in enumerate(errors):
        key = f"{name}-{number}"
        decibel = stored(place / "store", key, error)
        rows.append(
            {
                "round": number, "store": str(place / "store"), "accepted": 3, "harvested": 4,
                "stages": {"evaluate_inserter": key, "evaluate_remover": key},
                "metrics": {"inserter": {group: {"effect_psnr": decibel} for group in GROUPS}},
                "filter": {"precision": 0.75, "recall": 1.0} if number else None,
            }
        )  # fmt: skip
    write_text(place / name / "rounds.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return place / name


def test_errors_are_averaged_over_seeds_before_they_become_decibels(tmp_path: Path) -> None:
    outcomes = [
        Outcome(seed, {"seed": seed}, "done", 1.0, {}, str(run(tmp_path, seed, [0.1, error])), "", 1.0, "")
        for seed, error in (("0", 0.05), ("1", 0.03))
    ]
    write_sweep(tmp_path, Sweep("bootstrap", ["seed"], None, "max", outcomes))
    line = lines_of(tmp_path, resamples=20)[1]
    expected = -10 * math.log10((0.05 + 0.03) / 2 / 0.1)
    for group in GROUPS:
        assert line.change["inserter"][group]["effect_psnr"] == pytest.approx([expected] * 3, abs=1e-3)
    assert line.range == pytest.approx((-10 * math.log10(0.5), -10 * math.log10(0.3)))
    assert main([str(tmp_path)]) == 0
    assert load_rgb(tmp_path / "rounds_heatmap.png").std() > 0.05


@pytest.fixture(scope="module")
def parity() -> ModuleType:
    return module_at(TOOLS / "parity")


def test_parity_passes_the_last_bit_and_reports_a_changed_picture(parity: ModuleType, tmp_path: Path) -> None:
    digests = []
    for name, lift in (("same", 0.0), ("bit", 1 / 255), ("far", 0.2)):
        picture = torch.full((3, 64, 64), 0.5)
        picture[:, 0, 0] += lift
        if name == "far":
            picture += lift
        save_png(tmp_path / f"{name}.png", picture)
        digests.append(parity.read_picture(tmp_path / f"{name}.png"))
    verdicts = [parity.compare(digests[0], digest) for digest in digests]
    assert [fine for fine, _ in verdicts] == [True, True, False]
    assert verdicts[0][1] == ""
    assert "50.8" in verdicts[2][1]


def test_every_command_of_parity_has_its_reference(parity: ModuleType) -> None:
    reference = json.loads(parity.REFERENCE.read_text())
    assert set(reference) == {*parity.COMMANDS, "refusals"}
    assert all(
        digests["exit code"]["text"] == "0" for name, digests in reference.items() if name != "refusals"
    )


@pytest.mark.slow
def test_a_cut_is_judged_by_the_matte_that_was_laid(tmp_path: Path) -> None:
    save_png(tmp_path / "oval.png", oval(160))
    save_png(tmp_path / "plain.png", torch.tensor([0.7, 0.8, 0.9])[:, None, None].expand(3, 240, 240))
    pairs = CompositePairs([tmp_path / "oval.png"], [tmp_path / "plain.png"], 1, seed=3)
    rows = measure(pairs, ["u2net", "alpha"], tmp_path / "poor")
    found = rows.set_index(["framing", "segmenter"])["iou"]
    assert found["framed", "u2net"].min() > 0.8
    assert found[:, "alpha"].max() == 0  # an opaque picture has none
    assert {"oval"} == set(rows["subject"])


@pytest.mark.slow
def test_what_an_experiment_judges_as_made_is_what_a_redrawing_gives() -> None:
    common = module_at(CHECKOUT / "experiments" / "common.py")
    magic = MagicInsert.from_pretrained("micro", overrides=["sampling.steps=1", "style.detail=1"])
    bunny = magic.personalize(magic.subject(subjects_dir() / "bunny-01" / "bunny-01.png"))  # ships learned
    room = magic.scene(shelf_dir() / "room-01.png")
    (by_model,), (cut_out,) = common.drawn_and_made(magic, bunny, [room], 7)
    (whole,) = magic.redraw(bunny, room, seed=7)
    assert torch.equal(cut_out.rgb, whole.rgb)
    assert cut_out.pair_id == whole.pair_id
    assert by_model.alpha is None


@pytest.fixture(scope="module")
def bootstraps() -> ModuleType:
    return module_at(CHECKOUT / "experiments" / "bootstraps.py")


def test_a_gain_on_seen_styles_does_not_count_unseen_ones(bootstraps: ModuleType) -> None:
    factor = {"photo": 1.0, "seen": 0.1, "unseen": 10.0}
    rows = [
        {"arm": arm, "seed": 0, "round": number, "id": f"{i:04d}-{group}", "error": 2.0 * change**number}
        for arm, number in (("base", 0), ("insertion", 1))
        for group, change in factor.items()
        for i in range(3)
    ]
    for group, decibels in (("photo", 0.0), ("seen", 10.0), ("unseen", -10.0)):
        found = bootstraps.gains(pd.DataFrame(rows), "insertion", 1, group, "error")
        assert found == pytest.approx(decibels)
