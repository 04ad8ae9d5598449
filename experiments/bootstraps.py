"""What the experiments with bootstraps share: small runs of the product's plan, rows of what it measured, intervals.

A row is one held-out picture after one round of one arm and seed; `base`, `effect base` and `remover base` are the
networks at round 0, `remover of ARM` is the remover of an arm that trains it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from magic_insert.bootstrap import measure, stages
from magic_insert.bootstrap.job import Loop, Plan, Source
from magic_insert.bootstrap.networks import load, load_masks
from magic_insert.config.compose import compose_job
from magic_insert.config.freeze import freeze
from magic_insert.core.fidelity import effect_of
from magic_insert.core.store import Store
from magic_insert.launch.executor import execute

STEPS = 24  # of every fit; the shipped recipe has 200
SMALL = [
    "bootstrap.num_samples=64", "fit.num_photos=64", f"fit.steps={STEPS}", "evaluate.num_scenes=24",
    "evaluate.seed=9", "bootstrap.early_stop=false", "evaluate.resamples=10",
]  # fmt: skip
KEPT = ("arm", "seed", "round", "id", "style", "accepted", "score", "size", "contrast", "psnr", "left")
PAIR_SUMS = ("effect_error", "nothing_error", "effect_pixels", "layered_error", "shadow_iou")


def plan_of(seed: int, out: Path, store: Path, *words: str) -> Plan:
    """The plan of a small bootstrap of `seed`."""
    overrides = [*SMALL, f"seed={seed}", f"out={out}", f"store={store}", *words]
    cfg = freeze(compose_job("bootstrap", overrides))
    quiet = Store(Path(cfg.store))
    return Plan(cfg, quiet, lambda target, payload: execute(target, payload, cfg.exec))


def values_of(plan: Plan, network: Source) -> dict[str, Any]:
    """What `network` makes of every held-out picture."""
    test = plan.held_out()
    assert test is not None
    entry = plan.evaluate("insert", network, test)
    return stages.read_values(entry.folder, stages.ids_of(stages.read_index(test.folder)))


class Tables:
    """Rows of held-out pictures and of removals, written whole after every state of a network."""

    def __init__(self, out: Path) -> None:
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        self.files = {"rows": out / "rows.csv", "kept": out / "kept.csv"}
        self.found = {n: pd.read_csv(f) if f.is_file() else pd.DataFrame() for n, f in self.files.items()}

    def done(self, arm: str, seed: int, number: int) -> bool:
        rows = self.found["rows"]
        return bool(len(rows) and ((rows.arm == arm) & (rows.seed == seed) & (rows["round"] == number)).any())

    def add(self, name: str, rows: list[dict[str, Any]]) -> None:
        self.found[name] = pd.concat([self.found[name], pd.DataFrame(rows)], ignore_index=True)
        self.found[name].round(4).to_csv(self.files[name], index=False)

    def state(self, arm: str, seed: int, number: int, values: Mapping[str, Any]) -> None:
        """One network on the held-out test."""
        if not self.done(arm, seed, number):
            rows = [
                {
                    "arm": arm,
                    "seed": seed,
                    "round": number,
                    "id": name,
                    **{k: row.get(k) for k in PAIR_SUMS},
                }
                for name, row in values.items()
            ]
            self.add("rows", rows)
        print(f"{arm}, seed {seed}, round {number}: {finished(values):.2f} dB", flush=True)

    def removals(self, arm: str, plan: Plan, row: Mapping[str, Any]) -> None:
        """What the filter saw and did in one round."""
        seed, number, kept = plan.cfg.seed, int(row["round"]), self.found["kept"]
        if len(kept) and ((kept.arm == arm) & (kept.seed == seed) & (kept["round"] == number)).any():
            return
        folder = {
            n: next(plan.store.root.glob(f"*/{key}")) for n, key in row["stages"].items() if n in STORED
        }
        folder["pool"] = plan.pool().folder
        items = stages.read_index(folder["pool"])
        values = stages.read_values(folder["measure"], stages.ids_of(items))
        chosen = stages.read_record(folder["select"] / stages.SELECTION, stages.Selected)
        ids = stages.ids_of(items)
        left = shadow_left(folder["pool"], folder["harvest"], ids)
        self.add(
            "kept",
            [
                dict(
                    zip(
                        KEPT,
                        (
                            arm, seed, number, item.id, item.style, item.id in set(chosen.accepted),
                            chosen.scores[item.id], values[item.id]["facts"]["size"],
                            values[item.id]["facts"]["contrast"], values[item.id]["truth"]["psnr"], left[item.id],
                        ),
                        strict=True,
                    )
                )
                for item in items
            ],
        )  # fmt: skip


STORED = ("harvest", "measure", "select")


def finished(values: Mapping[str, Any], group: str = "seen") -> float:
    """Effect-region PSNR of the finished picture, in decibels; of the removal where the network is a remover."""
    found = measure.metrics(values)[group]
    return found.get("layered_psnr", found["effect_psnr"])


def shadow_left(pool: Path, harvest: Path, ids: list[str]) -> dict[str, float]:
    """Share of each subject's effect that its removal left: 0 all gone, 1 nothing gone."""
    full, empty, mask = (
        load(pool, stages.WITH, ids),
        load(pool, stages.WITHOUT, ids),
        load_masks(pool, ids),
    )
    region = effect_of(full, empty, mask)
    change, rest = (full - empty) * region, (load(harvest, stages.WITHOUT, ids) - empty) * region
    share = (change * rest).sum((1, 2, 3)) / change.square().sum((1, 2, 3)).clamp_min(1e-6)
    return dict(zip(ids, share.tolist(), strict=True))


def run_loop(
    tables: Tables, arm: str, make: Callable[..., Plan], rounds: int, *words: str
) -> list[measure.Row]:
    """The product's own rounds; their rows."""
    plan = make(f"bootstrap.rounds={rounds}", *words)
    seed = plan.cfg.seed
    rows = Loop(plan.cfg, plan, lambda line: None, lambda row: None).run()
    test = plan.held_out()
    assert test is not None
    ids = stages.ids_of(stages.read_index(test.folder))
    for row in rows:
        number = int(row["round"])
        states = {"inserter": arm if number else "base"}
        if plan.cfg.bootstrap.retrain == "both":
            states["remover"] = f"remover of {arm}" if number else "remover base"
        for network, name in states.items():
            folder = plan.store.root / "evaluate" / row["stages"][f"evaluate_{network}"]
            tables.state(name, seed, number, stages.read_values(folder, ids))
        if number:
            tables.removals(arm, plan, row)
    return rows


def of_group(rows: pd.DataFrame, group: str) -> pd.DataFrame:
    """The rows of one group of held-out pictures, by the whole last part of an id: "unseen" ends in "seen"."""
    return rows[rows.id.map(measure.group_of) == group]


def gains(rows: pd.DataFrame, arm: str, number: int, group: str, value: str) -> np.ndarray:
    """Change against round 0 in decibels: the pooled one, then 1000 over scenes drawn with replacement."""
    base = next((f"{name} base" for name in ("effect", "remover") if arm.startswith(name)), "base")
    first, second = rows[rows.arm == base], rows[(rows.arm == arm) & (rows["round"] == number)]
    if arm.startswith("effect") or not len(second):
        first = first.groupby("id", as_index=False).mean(numeric_only=True)
    else:
        first = first[first.seed.isin(second.seed)].groupby("id", as_index=False).mean(numeric_only=True)
    tables = [of_group(part, group).groupby("id").mean(numeric_only=True) for part in (first, second)]
    before, after = (table[value].to_numpy() for table in tables)
    picks = np.random.default_rng(0).integers(len(before), size=(1000, len(before)))
    picks = np.concatenate([np.arange(len(before))[None], picks])
    return 10 * np.log10(before[picks].sum(1) / after[picks].sum(1))


def words_of(values: np.ndarray, digits: int = 2) -> str:
    """The change with its 95 % interval."""
    low, high = np.percentile(values[1:], (2.5, 97.5))
    return f"{values[0]:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
