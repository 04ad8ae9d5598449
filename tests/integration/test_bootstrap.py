"""The whole bootstrap on a tiny model: rows, reuse, damage, products, several ranks, kills."""

import json
import shutil
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from helpers import flip, frozen

from magic_insert.bootstrap.job import STAGES, run_plan
from magic_insert.bootstrap.measure import Row, best_round, conclusion
from magic_insert.bootstrap.stages import ids_of, read_index
from magic_insert.cli.jobs import JOBS
from magic_insert.config.schema.jobs import BootstrapConfig
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.jsonl import read_json, read_jsonl, write_json
from magic_insert.core.rand import generator
from magic_insert.core.store import files_of, flaw_of
from magic_insert.launch.run import load_function
from magic_insert.models import edit_unet
from magic_insert.models.folders import WEIGHTS

pytestmark = pytest.mark.usefixtures("one_model")
SETTINGS = (
    "debug=fast", "model.image_size=64", "model.device=cpu", "evaluate.num_scenes=2", "bootstrap.num_samples=2",
    "bootstrap.retrain=both", "harvest.batch_size=1",
)  # fmt: skip


@cache
def composed(*overrides: str) -> BootstrapConfig:
    return frozen("bootstrap", *overrides)


def configure(place: Path, model: Path, out: str, *overrides: str) -> BootstrapConfig:
    cfg = composed(*SETTINGS, *overrides)
    source = replace(cfg.model, source=str(model))
    return replace(cfg, out=str(place / out), store=str(place / "store"), model=source)


@dataclass(frozen=True)
class Outcome:
    """What a run returned, what it said, which stages it really made, and with which payloads."""

    rows: list[Row]
    said: list[str]
    made: list[str]
    payloads: list[tuple[str, dict[str, Any]]]
    losses: dict[str, list[dict[str, float]]]


def run(cfg: BootstrapConfig) -> Outcome:
    said: list[str] = []
    payloads: list[tuple[str, dict[str, Any]]] = []
    losses: dict[str, list[dict[str, float]]] = {}

    def execute(target: str, payload: Path) -> None:
        payloads.append((target, read_json(payload)))
        load_function(target)(payload)

    torch.set_num_threads(1)
    rows = run_plan(cfg, execute, announce=said.append, on_losses=losses.__setitem__, progress=False)
    return Outcome(rows, said, [target.rpartition(":")[2] for target, _ in payloads], payloads, losses)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bootstrap")


@pytest.fixture(scope="module")
def first(place: Path, tiny_micro: Path) -> Outcome:
    """One round, both networks trained."""
    return run(configure(place, tiny_micro, "first"))


def test_every_stage_is_made_and_the_last_line_says_what_changed(first: Outcome) -> None:
    rows, said, made = first.rows, first.said, first.made
    assert made.count("run_fit") == 2
    assert made.count("run_evaluate") == 4
    assert made.count("run_harvest") == made.count("run_measure") == 1
    assert said[-1] == conclusion(rows, 0.3)
    assert "dB" in said[-1]


def test_the_rows_on_disk_hold_what_a_report_needs(first: Outcome, place: Path) -> None:
    stored = read_jsonl(place / "first" / "rounds.jsonl")
    assert stored == json.loads(json.dumps(first.rows))
    base, after = stored
    assert (base["round"], base["harvested"], base["filter"]) == (0, 0, None)
    assert after["accepted"] + after["rejected"] == after["harvested"] == 2
    told = [after[key] for key in ("retrain", "init_from", "threshold", "seed")]
    assert told == ["both", "base", 0.0, 0]
    for network in ("inserter", "remover"):
        for group in ("photo", "seen", "unseen"):
            value = after["metrics"][network][group]["effect_psnr"]
            low, high = after["intervals"][network][group]["effect_psnr"]
            assert low <= value <= high
            assert after["changes"][network][group]["effect_psnr"][0] == pytest.approx(
                value - base["metrics"][network][group]["effect_psnr"], abs=2e-4
            )
    assert "layered_psnr" in after["changes"]["inserter"]["seen"]
    assert "layered_psnr" not in after["metrics"]["remover"]["seen"]
    assert set(after["filter"]) >= {"precision", "recall", "base_rate"}
    assert set(after["bias"]) == {"size", "contrast", "style"}
    assert after["minutes"]
    assert {"harvest", "measure", "select", "pool"} <= set(after["stages"])
    out = place / "first"
    assert load_rgb(out / "sheets" / "round-1-accepted.png").shape[0] == 3
    assert not (out / "sheets" / "round-1-rejected.png").exists()
    card = read_json(out / "card.json")
    assert card["metrics"] == first.rows[card["round"]]["metrics"]
    for name in ("inserter", "remover"):
        channels = edit_unet.load_edit_unet(out / name).config
        assert channels["in_channels"] == 2 * channels["out_channels"] + 1
        assert sorted(path.name for path in (out / name).iterdir()) == ["config.json", WEIGHTS]


def test_the_same_command_again_makes_nothing(first: Outcome, place: Path, tiny_micro: Path) -> None:
    again = run(configure(place, tiny_micro, "again"))
    assert (again.made, again.losses) == ([], {})
    assert again.rows == first.rows
    assert again.said[-1] == first.said[-1]
    for name in ("config.json", WEIGHTS):
        files = [place / out / "inserter" / name for out in ("first", "again")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_another_selection_shares_the_measurements(first: Outcome, place: Path, tiny_micro: Path) -> None:
    liked = ids_of(read_index(stage(place, "render", first.rows[1]["stages"]["pool"])))[0]
    write_json(place / "verdicts.json", {"verdicts": {liked: "accept"}})
    rule = ("filter=people", f"filter.rules.people.verdicts={place}/verdicts.json", "filter.threshold=0.5")
    again = run(configure(place, tiny_micro, "chosen", *rule, "bootstrap.retrain=insertion"))
    assert again.made == ["run_fit", "run_evaluate"]
    assert (again.rows[1]["accepted"], again.rows[1]["rejected_by"]) == (1, {"people": 1})
    assert load_rgb(place / "chosen" / "sheets" / "round-1-rejected.png").shape[0] == 3


def stage(place: Path, kind: str, key: str) -> Path:
    return place / "store" / kind / key


def test_a_flipped_bit_is_found_and_its_stage_remade(first: Outcome, place: Path, tiny_micro: Path) -> None:
    key = first.rows[1]["stages"]["harvest"]
    picture = sorted((stage(place, "harvest", key) / "without").iterdir())[0]
    whole = picture.read_bytes()
    flip(picture, 4 * len(whole))
    again = run(configure(place, tiny_micro, "mended"))
    assert again.made == ["run_harvest"]
    assert any(f"harvest {key}" in line and "checksum" in line for line in again.said)
    assert picture.read_bytes() == whole
    assert [row["metrics"] for row in again.rows] == [row["metrics"] for row in first.rows]


def test_a_refused_command_leaves_the_earlier_run(first: Outcome, place: Path, tiny_micro: Path) -> None:
    shutil.copytree(place / "first", place / "kept")
    before = {name: (place / "kept" / name).read_bytes() for name in ("rounds.jsonl", "card.json")}
    refusals = (
        ("pool.styles=[nonsense]", "pool.styles to be one of"),
        ("filter.threshold=1", r"filter\.threshold=1, got a best score of"),
    )
    for word, why in refusals:
        with pytest.raises(UserError, match=why):
            run(configure(place, tiny_micro, "kept", word))
        assert {name: (place / "kept" / name).read_bytes() for name in before} == before
    published = [path.parent for path in (place / "store").glob("[!s.]*/*/manifest.json")]
    assert published
    assert all(flaw_of(folder) is None for folder in published)


def test_a_network_is_laid_over_nothing_but_a_network(tmp_path: Path, tiny_micro: Path) -> None:
    mine = tmp_path / "mine-too" / "inserter" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("thoughts")
    with pytest.raises(UserError, match=r"got notes\.txt there"):
        JOBS["bootstrap"].look(configure(tmp_path, tiny_micro, "mine-too"))
    JOBS["bootstrap"].look(configure(tmp_path, tiny_micro, "free"))


@pytest.mark.parametrize(
    ("left_out", "size", "why"),
    [
        ("remover", 64, r"set bootstrap\.remover=FOLDER"),
        ("inserter", 64, r"set bootstrap\.inserter=FOLDER"),
        ("", 128, r"expected model\.image_size=64, .*got 128; set model\.image_size=64"),
    ],
)
def test_a_model_without_networks_to_start_from_or_of_another_size_is_refused(
    tmp_path: Path, tiny_micro: Path, left_out: str, size: int, why: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_micro, model, ignore=shutil.ignore_patterns(left_out))
    with pytest.raises(UserError, match=why):
        run(configure(tmp_path, model, "run", f"model.image_size={size}"))


@pytest.mark.parametrize("kind", ["render", "harvest", "measure", "evaluate"])
def test_one_rank_and_two_write_the_same_files(
    first: Outcome, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The ranks of these stages share nothing but their payload, so they can be played one after the other."""
    target = STAGES[kind][0]
    payload = next(payload for made, payload in first.payloads if made == target)
    staged = Path(payload["out"]).name.removeprefix(f"{kind}-")
    expected = read_json(stage(place, kind, staged) / "manifest.json")["files"]
    out = tmp_path / "out"
    write_json(tmp_path / "payload.json", {**payload, "out": str(out), "work": str(tmp_path / "work")})
    monkeypatch.setenv("WORLD_SIZE", "2")
    counts = []
    for number in ("0", "1"):
        monkeypatch.setenv("RANK", number)
        load_function(target)(tmp_path / "payload.json")
        counts.append(len(files_of(out)))
    assert {name: sha256_file(out / name) for name in files_of(out)} == expected
    # Two scenes are traced together, so rendering has one group of work here and the second rank none.
    assert 0 < counts[0] < counts[1] or kind == "render"


def test_a_loop_ends_without_a_gain_and_keeps_the_best(
    first: Outcome, place: Path, tiny_micro: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointed: list[Any] = []
    monkeypatch.setattr(
        UNet2DConditionModel, "enable_gradient_checkpointing", lambda self: checkpointed.append(self)
    )
    loop = ("bootstrap.retrain=insertion", "bootstrap.init_from=previous", "bootstrap.min_gain=100")
    kept = ("filter.keep_at_most_per_style=1", "fit.background=composited")
    kept += ("fit.accumulate=2", "fit.gradient_checkpointing=true")
    short = run(configure(place, tiny_micro, "short", *loop, *kept, "bootstrap.rounds=3"))
    assert len(short.rows) == 2
    assert short.rows[1]["stopped"]
    assert "did not improve" in " ".join(short.said)
    long = run(
        configure(place, tiny_micro, "long", *loop, *kept, "bootstrap.rounds=2", "bootstrap.early_stop=false")
    )
    assert len(long.rows) == 3
    assert not any(row.get("stopped") for row in long.rows)
    # The first round was there already; the second goes on from its inserter, with its own noise.
    again = [payload for made, payload in long.payloads if made.endswith("run_fit")]
    assert len(again) == 1
    begun = Path(again[0]["inputs"]["start"])
    assert (begun.name, begun.parent.parent.name) == ("inserter", "fit")
    assert read_json(begun / edit_unet.FIT_CARD)["accumulate"] == len(checkpointed) == 2
    assert read_json(place / "long" / "card.json")["round"] == best_round(long.rows, 0.3)


def test_a_pool_of_ones_own_goes_the_same_way_without_a_toy_or_a_verdict_where_the_model_knows_no_toys(
    place: Path, tiny_micro: Path
) -> None:
    whole, mask = torch.rand(3, 48, 64, generator=generator(0, "mine")), torch.zeros(1, 48, 64)
    mask[:, 12:40, 24:44] = 1
    for name in ("one", "two"):
        save_png(place / "mine" / "ink" / f"{name}.png", whole.roll(5 if name == "two" else 0, 2))
        save_png(place / "mine" / "masks" / "ink" / f"{name}.png", mask)
    cfg = configure(place, tiny_micro, "own", "pool=folder", "pool.dir=mine", "bootstrap.retrain=insertion")
    own, real = replace(cfg.pool, dir=str(place / "mine")), replace(cfg.model, toys=False)
    outcome = run(replace(cfg, pool=own, model=real))
    assert outcome.rows[1]["filter"] is None
    assert outcome.rows[1]["acceptance"] == {"ink": 1.0}
    assert "run_fit" in outcome.made
    assert not [made for made in outcome.made if made in ("render", "run_evaluate")]
    assert "without a verdict" in outcome.said[-1]
