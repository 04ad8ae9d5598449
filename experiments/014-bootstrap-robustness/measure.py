"""One bootstrap round from spoilt pictures, from a bad remover, without a filter, from one style only.

    python experiments/014-bootstrap-robustness/measure.py --out runs/014
    python experiments/014-bootstrap-robustness/measure.py --out runs/014 --figure-only

Faults are put into the pool and the harvest by this script; the product has no setting for them. Every stage is kept in
`--store` (experiment 009's store spares its renders). Writes rows.csv (errors of every held-out picture), kept.csv
(every removal with its fault), runs.csv (what each run would publish), table.md and figure.png beside this script.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bootstraps import SMALL, Tables, gains, plan_of, run_loop, words_of
from common import figure

from magic_insert.bootstrap import stages
from magic_insert.bootstrap.job import Plan, Source
from magic_insert.bootstrap.measure import best_round, improves, photo_loss, seen
from magic_insert.config.compose import compose_job
from magic_insert.config.freeze import freeze
from magic_insert.core.rand import generator
from magic_insert.core.store import Entry, Request, Store
from magic_insert.evaluation.statistics import exact_interval
from magic_insert.launch.executor import execute
from magic_insert.models.edit_unet import load_edit_unet, save_unet
from magic_insert.paths import micro_dir

HERE = Path(__file__).resolve().parent
SEEDS = (90, 91)
SHARE = 0.1  # of the pictures, for each kind of fault
NOISE = 0.1  # on the bad remover's weights, in standard deviations of each tensor
STYLE = "watercolour"
NOT_REMOVED, WRONG_MASK, DUPLICATE, BAD, SOUND = (
    "not removed",
    "wrong mask",
    "duplicate",
    "bad remover",
    "sound",
)
SHARES = dict.fromkeys((NOT_REMOVED, WRONG_MASK, DUPLICATE), SHARE)
# Arms that have one fault alone, in as many pictures as the mixture spoils.
ALONE = {
    "not removed, no filter": NOT_REMOVED,
    "wrong mask, no filter": WRONG_MASK,
    "duplicate, no filter": DUPLICATE,
}
NO_FILTER = "filter=none"
ARMS: dict[str, tuple[str, ...]] = {
    "clean": (),
    "clean, no filter": (NO_FILTER,),
    "spoilt, no filter": (NO_FILTER,),
    **dict.fromkeys(ALONE, (NO_FILTER,)),
    "bad remover, no filter": (NO_FILTER,),
    "one style": (f"pool.styles=[{STYLE}]",),
    "spoilt": (),
    "bad remover": (),
}


def shares_of(arm: str) -> Mapping[str, float]:
    """Share of the pictures that an arm spoils, by fault."""
    if arm in ALONE:
        return {ALONE[arm]: sum(SHARES.values())}
    return SHARES if arm.startswith("spoilt") else {}


def faults_of(ids: list[str], seed: int, shares: Mapping[str, float]) -> dict[str, tuple[str, str]]:
    """id -> its fault and the other picture that the fault takes from; `shares` of the pictures by fault."""
    order = [ids[i] for i in torch.randperm(len(ids), generator=generator(seed, "faults")).tolist()]
    kinds = [kind for kind, share in shares.items() for _ in range(round(share * len(ids)))]
    return {name: (kind, order[i - 1]) for i, (name, kind) in enumerate(zip(order, kinds, strict=False))}


class SpoiltPlan(Plan):
    """A plan whose pool holds pictures under a wrong mask and duplicates, and whose harvest leaves subjects."""

    shares: Mapping[str, float]

    def pool(self) -> Entry:
        whole = super().pool()
        faults = faults_of(stages.ids_of(stages.read_index(whole.folder)), self.cfg.seed, self.shares)

        def make(staging: Path) -> None:
            shutil.copytree(whole.folder, staging, dirs_exist_ok=True)
            for name, (kind, other) in faults.items():
                layers = {
                    WRONG_MASK: [stages.MASK],
                    DUPLICATE: [stages.WITH, stages.WITHOUT, stages.MASK],
                }.get(kind, [])
                for layer in layers:
                    source = stages.picture_file(whole.folder, layer, other)
                    shutil.copyfile(source, stages.picture_file(staging, layer, name))

        return self.store.obtain(Request("spoilt", 1, {"faults": faults}, {"pool": whole.content}), make)

    def harvest(self, pool: Entry, remover: Source) -> Entry:
        done = super().harvest(pool, remover)
        faults = faults_of(stages.ids_of(stages.read_index(pool.folder)), self.cfg.seed, self.shares)

        def make(staging: Path) -> None:
            shutil.copytree(done.folder, staging, dirs_exist_ok=True)
            for name, (kind, _) in faults.items():
                if kind == NOT_REMOVED:
                    source = stages.picture_file(pool.folder, stages.WITH, name)
                    shutil.copyfile(source, stages.picture_file(staging, stages.WITHOUT, name))

        return self.store.obtain(
            Request("spoilt-harvest", 1, {"faults": faults}, {"harvest": done.content}), make
        )


def spoilt_plan_of(
    seed: int, out: Path, store: Path, *words: str, shares: Mapping[str, float]
) -> "SpoiltPlan":
    """As `plan_of`, with faults."""
    cfg = freeze(compose_job("bootstrap", [*SMALL, f"seed={seed}", f"out={out}", f"store={store}", *words]))
    plan = SpoiltPlan(cfg, Store(store), lambda target, payload: execute(target, payload, cfg.exec))
    plan.shares = shares
    return plan


def bad_remover(out: Path) -> Path:
    """The shipped remover with noise on its weights."""
    folder = out / "bad-remover"
    if not (folder / "config.json").is_file():
        unet = load_edit_unet(micro_dir() / "remover")
        draw = generator(0, "bad remover")
        with torch.no_grad():
            for weight in unet.parameters():
                if weight.numel() > 1:
                    weight += NOISE * weight.std() * torch.randn(weight.shape, generator=draw)
        save_unet(folder, unet)
    return folder


def spoil_all(tables: Tables, kind: str, seed: int, out: Path, store: Path) -> None:
    """Every picture of a pool under one fault, or after the bad remover: what the filter says. Trains nothing."""
    arm, kept = f"all {kind}", tables.found["kept"]
    if len(kept) and ((kept.arm == arm) & (kept.seed == seed)).any():
        return
    words = [f"bootstrap.remover={bad_remover(out)}"] if kind == BAD else []
    shares = {} if kind == BAD else {kind: 1.0}
    plan = spoilt_plan_of(seed, out / "all", store, "filter.threshold=0", *words, shares=shares)
    pool, remover, inserter = plan.pool(), plan.base("remover"), plan.base("inserter")
    harvest = plan.harvest(pool, remover)
    measured = plan.measure(pool, harvest, inserter)
    chosen, _, _ = plan.select(pool, measured)
    entries = {"harvest": harvest, "measure": measured, "select": chosen}
    tables.removals(arm, plan, {"round": 1, "stages": {name: entry.key for name, entry in entries.items()}})


def run_arm(tables: Tables, arm: str, seed: int, out: Path, store: Path) -> dict[str, Any]:
    """One round; what would be published and whether early stopping would end the run here."""
    shares = shares_of(arm)
    make = partial(
        partial(spoilt_plan_of, shares=shares) if shares else plan_of,
        seed,
        out / f"{arm}-{seed}".replace(", ", "-").replace(" ", "-"),
        store,
    )
    words = [*ARMS[arm], *([f"bootstrap.remover={bad_remover(out)}"] if arm.startswith("bad") else [])]
    rows = run_loop(tables, arm, make, 1, *words)
    minutes = sum(
        v for k, v in rows[1]["minutes"].items() if k.split("-")[0] in ("harvest", "measure", "fit")
    )
    limit = make(*words).cfg.bootstrap.max_photo_loss
    return {
        "arm": arm, "seed": seed, "harvested": rows[1]["harvested"], "kept": rows[1]["accepted"],
        "gain, dB": round(seen(rows[1]) - seen(rows[0]), 3), "photo loss, dB": round(photo_loss(*rows), 3),
        "published": f"round {best_round(rows, limit)}",
        "goes on": improves(rows, min_gain=0.0, max_photo_loss=limit), "minutes of a round": round(minutes, 2),
    }  # fmt: skip


def fault_column(kept: pd.DataFrame) -> pd.DataFrame:
    """`kept` with what is wrong with each removal."""
    found = kept.copy()
    found["fault"] = SOUND
    for (arm, seed), part in found.groupby(["arm", "seed"]):
        if shares := shares_of(str(arm)):
            faults = faults_of(list(part.id), int(seed), shares)
            found.loc[part.index, "fault"] = [faults.get(name, (SOUND, ""))[0] for name in part.id]
    return found


def share_with_interval(values: np.ndarray) -> str:
    """A share with its exact 95 % interval."""
    low, high = exact_interval(int(values.sum()), len(values))
    return f"{values.mean():.2f} [{low:.2f}, {high:.2f}] of {len(values)}"


def sets_of(kept: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Removals by what is wrong with them: every picture of the pool under each fault, and those of the bad remover."""
    return {
        SOUND: kept[kept.arm == "clean"],
        **{kind: kept[kept.arm == f"all {kind}"] for kind in (WRONG_MASK, NOT_REMOVED, BAD)},
    }


def refusals(kept: pd.DataFrame) -> pd.DataFrame:
    """Share refused at three thresholds, by fault."""
    rows = []
    for fault, found in sets_of(kept).items():
        cells = {
            f"refused at {limit}": share_with_interval((found.score < limit).to_numpy())
            for limit in (0.3, 0.5, 0.9)
        }
        rows.append(
            {
                "fault": fault,
                **cells,
                "removal, dB": f"{found.psnr.mean():.1f}",
                "shadow left": f"{found.left.mean():.2f}",
            }
        )
    return pd.DataFrame(rows)


def outcomes(rows: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Change against round 0 and against the clean round, and what the product does with it."""
    lines = []
    for arm in [a for a in ARMS if a in set(rows.arm)]:
        mine = {g: gains(rows, arm, 1, g, "layered_error") for g in ("seen", "unseen", "photo")}
        clean = gains(rows[rows.seed.isin(rows[rows.arm == arm].seed)], "clean", 1, "seen", "layered_error")
        run = runs[runs.arm == arm]
        lines.append({
            "arm": arm, "kept": f"{run.kept.sum():.0f} of {run.harvested.sum():.0f}",
            "seen, dB": words_of(mine["seen"]),
            "against clean": "" if arm == "clean" else words_of(mine["seen"] - clean),
            "unseen, dB": words_of(mine["unseen"]), "photo, dB": words_of(mine["photo"]),
            "published": ", ".join(run.published.unique()),
            "early stop goes on": f"{run['goes on'].sum()} of {len(run)}",
        })  # fmt: skip
    return pd.DataFrame(lines)


def draw(path: Path, rows: pd.DataFrame, kept: pd.DataFrame) -> None:
    """What is refused, and what a round gains."""
    with figure(path, 9.0, 4.2) as made:
        left, right = made.subplots(1, 2, width_ratios=(1, 1.25))
        names, parts = list(sets_of(kept)), list(sets_of(kept).values())
        for nudge, limit in enumerate((0.5, 0.9)):
            refused = [part.score < limit for part in parts]
            share = np.array([part.mean() for part in refused])
            low, high = np.array([exact_interval(int(part.sum()), len(part)) for part in refused]).T
            left.barh(
                np.arange(len(names)) - 0.4 * nudge + 0.2,
                share,
                0.4,
                xerr=(share - low, high - share),
                error_kw={"lw": 1, "capsize": 2},
                label=f"threshold {limit}",
                color=f"C{nudge}",
            )
        left.set_yticks(range(len(names)), names)
        left.set(xlabel="share refused", xlim=(0, 1.02), title="what the filter catches")
        left.legend(fontsize=8.5, loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=2)
        arms = [a for a in ARMS if a in set(rows.arm)]
        place = np.arange(len(arms))[::-1]
        for nudge, group in enumerate(("seen", "photo")):
            values = [gains(rows, arm, 1, group, "layered_error") for arm in arms]
            middle = np.array([v[0] for v in values])
            low, high = np.array([np.percentile(v[1:], (2.5, 97.5)) for v in values]).T
            label = {"seen": "drawings, seen styles", "photo": "photographs"}[group]
            reach = (middle - low, high - middle)
            right.errorbar(middle, place + 0.12 - 0.24 * nudge, xerr=reach, fmt="o", capsize=3, label=label)
        right.axvline(0, color="0.6", linewidth=0.8)
        right.set_yticks(place, arms)
        right.set(xlabel="change after one round, dB", title="what the inserter makes of it")
        right.legend(fontsize=8.5, loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="folder of stages; the default is OUT/store")
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=list(SEEDS))
    parser.add_argument("--figure-only", action="store_true")
    args = parser.parse_args()
    if not args.figure_only:
        tables, store = Tables(args.out), args.store or args.out / "store"
        for seed in args.seeds:
            for kind in (NOT_REMOVED, WRONG_MASK, BAD):
                spoil_all(tables, kind, seed, args.out, store)
            for arm in args.arms:
                file = args.out / "runs.csv"
                before = pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=["arm", "seed"])
                if not ((before.arm == arm) & (before.seed == seed)).any():
                    run = run_arm(tables, arm, seed, args.out, store)
                    pd.concat([before, pd.DataFrame([run])], ignore_index=True).to_csv(file, index=False)
        for name in ("rows", "kept", "runs"):
            shutil.copyfile(args.out / f"{name}.csv", HERE / f"{name}.csv")
    rows, kept, runs = (pd.read_csv(HERE / f"{name}.csv") for name in ("rows", "kept", "runs"))
    kept = fault_column(kept)
    parts = [refusals(kept), outcomes(rows, runs)]
    text = "\n\n".join(part.to_markdown(index=False) for part in parts) + "\n"
    (HERE / "table.md").write_text(text)
    draw(HERE / "figure.png", rows, kept)
    print(text)


if __name__ == "__main__":
    main()
