"""A real sweep: bootstraps of a tiny model at the same time, what they share made once, rounds and pictures in W&B."""

import re
from pathlib import Path

import pytest
from processes import finish, launch

from magic_insert.core.jsonl import read_json, read_jsonl
from magic_insert.launch.results import read_sweep

pytestmark = pytest.mark.slow
SHARED = ("render", "harvest", "measure")


def test_two_bootstraps_at_once_make_what_they_share_once(
    tmp_path: Path, tiny_micro: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = [
        "bootstrap", "-m", "debug=fast", "out=sweep", "store=store", f"model.source={tiny_micro}",
        "model.image_size=64", "model.device=cpu", "evaluate.num_scenes=2", "bootstrap.num_samples=3",
        "pool.styles=[cartoon]", "filter.keep_at_most_per_style=1", "fit.steps=2,3", "sweep.workers=2", "logger=wandb",
    ]  # fmt: skip
    finish(launch(words, tmp_path))

    jobs = read_sweep(tmp_path / "sweep").jobs
    assert [job.settings for job in jobs] == [{"fit.steps": "2"}, {"fit.steps": "3"}]
    rounds = [read_jsonl(tmp_path / job.out / "rounds.jsonl") for job in jobs]
    assert all(rows[1]["accepted"] == 1 for rows in rounds)
    for job in jobs:
        assert job.numbers["round"] == read_json(tmp_path / job.out / "card.json")["round"]
        assert job.value == job.numbers["metrics.inserter.seen.effect_psnr"]
    logs = [(tmp_path / job.log).read_text() for job in jobs]
    for kind in SHARED:
        keys = [path.name for path in (tmp_path / "store" / kind).iterdir()]
        for key in keys:
            # Both ask for it equally often; whoever made it found it made once less.
            found = sorted(len(re.findall(f"{kind} {key}: reused", log)) for log in logs)
            assert found[1] - found[0] == 1, f"{kind} {key}: {found}"
    stages = [rows[1]["stages"] for rows in rounds]
    assert stages[0]["select"] == stages[1]["select"]

    for job in jobs:
        (page,) = (tmp_path / job.out).glob("wandb/offline-run-*")
        (table,) = page.rglob("media/table/bootstrap/rejected samples*.json")
        assert len(read_json(table)["data"]) == 2
        assert {"id", "score", "with", "without"} <= set(read_json(table)["columns"])
        assert list(page.rglob("media/images/bootstrap/accepted*.png"))
        assert list(page.rglob("media/images/bootstrap/rejected*.png"))
        (written,) = page.glob("*.wandb")
        assert b"bootstrap sweep" in written.read_bytes()
