"""Bootstrap rounds against the same training without drawings, without residue, and with other selections.

    python experiments/009-rounds/measure.py --out runs/009
    python experiments/009-rounds/measure.py --out runs/009 --figure-only

Every stage is kept in `--store`, so that the command goes on where it was stopped. Writes rows.csv (the errors of every
held-out picture), kept.csv (every removal), table.md and figure.png beside this script.

Arms: `harvest` (nothing is trained: what a filter keeps), `insertion` (frozen remover, each round from the last),
`control` (the same steps on photographs alone), `no residue` (the true backgrounds in place of the removals), `strict`
(filter.threshold=0.9), `quota` (the best PER_STYLE of every style, no threshold), `effect` and `effect control` (the
effect network fitted to the same harvest and to the same photographs), `both` and `both from base` (the remover learns
as well, from the last round or from the base). The product refuses rounds from the base with a frozen remover: the
harvest is the same, so that every round repeats the first.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import curve_fit
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bootstraps import (
    Tables,
    gains,
    plan_of,
    run_loop,
    values_of,
    words_of,
)
from common import figure

from magic_insert.bootstrap import measure, stages
from magic_insert.bootstrap.job import Plan
from magic_insert.bootstrap.networks import composited, load, load_masks
from magic_insert.core.digest import sha256_file
from magic_insert.core.fidelity import effect_of
from magic_insert.core.jsonl import write_json
from magic_insert.core.rand import fold_in, generator
from magic_insert.core.store import Entry, Request
from magic_insert.models.effect_net import SIDE, load_effect_net, predict
from magic_insert.models.pipeline import load_pipeline
from magic_insert.paths import effect_weights as shipped_effect
from magic_insert.training.effect import (
    Batch,
    Dice,
    EffectFit,
    EffectModule,
    effect_loss,
    randomised,
    write_weights,
)
from magic_insert.training.trainer import TrainerOptions, fit

HERE = Path(__file__).resolve().parent
SEEDS = (90, 91, 92)
ROUNDS, PER_STYLE = 4, 2
EFFECT_STEPS, EFFECT_BATCH, EFFECT_LR, PHOTO_SHARE = 16, 8, 2e-4, 0.4
# Arm -> rounds and settings of the product's own loop.
PREVIOUS, BASE, BOTH = "bootstrap.init_from=previous", "bootstrap.init_from=base", "bootstrap.retrain=both"
LOOPS: dict[str, tuple[int, tuple[str, ...]]] = {
    "insertion": (ROUNDS, (PREVIOUS,)),
    "strict": (1, ("filter.threshold=0.9",)),
    "quota": (1, ("filter.threshold=0", f"filter.keep_at_most_per_style={PER_STYLE}")),
    "both": (ROUNDS, (PREVIOUS, BOTH)),
    "both from base": (ROUNDS, (BASE, BOTH)),
}
ARMS = (
    "harvest",
    "insertion",
    "control",
    "no residue",
    "strict",
    "quota",
    "effect",
    "effect control",
    "both",
    "both from base",
)
# What differs in one thing, in the order of a difference.
PAIRS = (
    ("insertion", "control"),
    ("both", "insertion"),
    ("both from base", "both"),
    ("no residue", "control"),
    ("strict", "control"),
    ("quota", "control"),
    ("effect", "effect control"),
)
FIRST = {
    "insertion": "drawings", "control": "photographs", "no residue": "true\nbackgrounds",
    "strict": "cleanest\nthird", "quota": "best two\nof a style",
}  # fmt: skip
SHOWN = {
    "insertion": "rounds on drawings",
    "control": "photographs alone",
    "both": "remover too",
    "both from base": "remover too, from the base",
}


def selection(plan: Plan, pool: Entry) -> Entry:
    """Every picture of `pool`, as a selection."""
    ids = stages.ids_of(stages.read_index(pool.folder))
    chosen = stages.Selected(ids, {}, dict.fromkeys(ids, 1.0))
    request = Request("select", 1, {"all": True}, {"pool": pool.content})
    return plan.store.obtain(request, lambda staging: write_json(staging / stages.SELECTION, chosen.__dict__))


def run_harvest(tables: Tables, make: Callable[..., Plan]) -> None:
    """Removals and what the filter says of them; nothing is trained."""
    plan = make()
    pool, base = plan.pool(), {name: plan.base(name) for name in stages.NETWORKS.values()}
    harvest = plan.harvest(pool, base["remover"])
    measured = plan.measure(pool, harvest, base["inserter"])
    chosen, _, _ = plan.select(pool, measured)
    keys = {"harvest": harvest.key, "measure": measured.key, "select": chosen.key}
    tables.removals("harvest", plan, {"round": 1, "stages": keys})


def run_control(tables: Tables, seed: int, make: Callable[..., Plan]) -> None:
    """The same steps on photographs alone, from round to round."""
    plan = make("fit.photo_share=0", "fit.background=paper")
    photos = plan.photos()
    assert photos is not None
    network = plan.base("inserter")
    for number in range(1, ROUNDS + 1):
        network = plan.fit("insert", number, photos, photos, selection(plan, photos), network)
        tables.state("control", seed, number, values_of(plan, network))


def run_without_residue(tables: Tables, seed: int, make: Callable[..., Plan]) -> None:
    """The first round with true backgrounds: what the removals leave costs the difference to `insertion`."""
    plan = make()
    pool, base = plan.pool(), {name: plan.base(name) for name in stages.NETWORKS.values()}
    harvest = plan.harvest(pool, base["remover"])
    chosen, _, _ = plan.select(pool, plan.measure(pool, harvest, base["inserter"]))
    network = plan.fit("insert", 1, pool, pool, chosen, base["inserter"])
    tables.state("no residue", seed, 1, values_of(plan, network))


class HarvestModule(EffectModule):
    """The effect network on pairs whose sun nobody knows."""

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        dice = Dice(torch.Generator().manual_seed(fold_in(self.seed, "looks", batch["step"])))
        shown = randomised(Batch(*batch["layers"]), dice, SIDE)
        parts = effect_loss(self.net(shown.scene, shown.pasted, shown.mask), shown)
        loss = torch.stack(list(parts.values())).sum()
        self.log_dict({"loss": loss}, batch_size=len(shown.scene))
        return loss


def layers_of(scene: Tensor, picture: Tensor, mask: Tensor) -> list[Tensor]:
    """Scene, the subject as drawn, its mask, the truth, and a sun that is not known."""
    rows = len(scene)
    return [scene, picture, mask, picture, torch.zeros(rows, 5), torch.zeros(rows)]


def effect_batches(
    drawn: list[Tensor], photos: list[Tensor], share: float, seed: int
) -> Callable[[int], Any]:
    """Batch k as a function of k: `share` of its rows are photographs."""
    taken = round(share * EFFECT_BATCH)

    def batch_at(step: int) -> dict[str, Any]:
        draw = generator(seed, "effect rounds", step)
        first = torch.randint(0, len(photos[0]), (taken,), generator=draw)
        second = torch.randint(0, len(drawn[0]), (EFFECT_BATCH - taken,), generator=draw)
        order = torch.randperm(EFFECT_BATCH, generator=draw)
        return {
            "step": step,
            "layers": [torch.cat([p[first], d[second]])[order] for p, d in zip(photos, drawn, strict=True)],
        }

    return batch_at


def run_effect(
    tables: Tables, seed: int, rounds: int, make: Callable[..., Plan], out: Path, control: bool
) -> None:
    """The effect network, fitted to the kept removals, or to the photographs alone."""
    plan, arm = make(), "effect control" if control else "effect"
    source, names = plan.photos(), ("effect base", arm)
    assert source is not None
    pool, base = plan.pool(), {name: plan.base(name) for name in stages.NETWORKS.values()}
    harvest = plan.harvest(pool, base["remover"])
    chosen, _, _ = plan.select(pool, plan.measure(pool, harvest, base["inserter"]))
    kept = stages.read_record(chosen.folder / stages.SELECTION, stages.Selected).accepted
    photo_ids = stages.ids_of(stages.read_index(source.folder))

    def layers(folder: Path, without: Path, ids: list[str], mended: bool) -> list[Tensor]:
        picture, mask = load(folder, stages.WITH, ids), load_masks(folder, ids)
        scene = load(without, stages.WITHOUT, ids)
        if mended:
            scene = composited(load_pipeline(plan.cfg.model), picture, scene, mask)
        return layers_of(scene, picture, mask)

    photos = layers(source.folder, source.folder, photo_ids, False)
    drawn = photos if control else layers(pool.folder, harvest.folder, kept, True)
    start = shipped_effect()
    if not tables.done(names[0], 0, 0):
        tables.state(names[0], 0, 0, effect_values(plan, start))
    for number in range(1, rounds + 1):
        work = out / "effect" / f"{arm.replace(' ', '-')}-{seed}-{number}"
        product = work / "effect.safetensors"
        if not product.is_file():
            how = EffectFit(
                EFFECT_STEPS, EFFECT_BATCH, EFFECT_LR, fold_in(seed, "effect", number), 0, ema_decay=None
            )
            net = load_effect_net(start)
            module = HarvestModule(net.train().requires_grad_(True), how)
            key = f"{arm}-{seed}-{number}-{sha256_file(start)}"
            options = TrainerOptions(steps=how.steps, key=key, device="cpu", ema_decay=None, alone=True)
            fit(module, effect_batches(drawn, photos, PHOTO_SHARE, how.seed), options, work / "fit")
            write_weights(net, product)
        start = product
        if not tables.done(arm, seed, number):
            tables.state(arm, seed, number, effect_values(plan, product))


@torch.no_grad()
def effect_values(plan: Plan, weights: Path) -> dict[str, Any]:
    """What the effect network makes of every held-out picture, in the sums of the bootstrap."""
    test = plan.held_out()
    assert test is not None
    net, found = load_effect_net(weights), {}
    ids = stages.ids_of(stages.read_index(test.folder))
    for start in range(0, len(ids), 12):
        part = ids[start : start + 12]
        full, empty = (load(test.folder, layer, part) for layer in (stages.WITH, stages.WITHOUT))
        mask = load_masks(test.folder, part)
        given = mask * full + (1 - mask) * empty
        effect = predict(net, empty, given, mask)
        layer = (empty * torch.exp(effect.log_shade) + effect.light).clamp(0, 1)
        drawn, region = mask * full + (1 - mask) * layer, effect_of(full, empty, mask)
        for i, name in enumerate(part):
            changed = measure.changed_region(given[i], drawn[i], mask[i])
            row = measure.sums_of(given[i], drawn[i], full[i], mask[i], region[i], changed)
            found[name] = row | {"layered_error": row["effect_error"]}
    return found


def fitted(rows: pd.DataFrame, arm: str) -> tuple[float, float]:
    """Ceiling and rate per round of gain(r) = ceiling (1 - exp(-rate r)), least squares over all rounds."""
    found = [gains(rows, arm, r, "seen", "layered_error")[0] for r in range(1, ROUNDS + 1)]
    (ceiling, rate), _ = curve_fit(
        saturating, np.arange(ROUNDS + 1), [0.0, *found], (0.2, 1.0), bounds=([-1, 0.02], [3, 20])
    )
    return float(ceiling), float(rate)


def saturating(number: Any, ceiling: float, rate: float) -> Any:
    """No gain at round 0, `ceiling` after many."""
    return ceiling * (1 - np.exp(-rate * np.asarray(number, dtype=float)))


def states(rows: pd.DataFrame) -> list[tuple[str, int]]:
    """Arms and rounds that are there, in order."""
    there = set(zip(rows.arm, rows["round"], strict=True))
    return [(arm, r) for arm in ARMS for r in range(1, ROUNDS + 1) if (arm, r) in there]


def table_of(rows: pd.DataFrame, kept: pd.DataFrame) -> str:
    """Gains against round 0, arms against one another, what removals leave, and the sets."""
    lines = []
    for arm, number in states(rows):
        mine = {g: gains(rows, arm, number, g, "layered_error") for g in measure.GROUPS}
        per_seed = [
            gains(rows[(rows.seed == s) | (rows.arm == "effect base")], arm, number, "seen", "layered_error")[
                0
            ]
            for s in sorted(set(rows[(rows.arm == arm) & (rows["round"] == number)].seed))
        ]
        lines.append(
            {"arm": arm, "round": number, "seeds": len(per_seed), "seen, dB": words_of(mine["seen"]),
             "range over seeds": f"{min(per_seed):+.2f} to {max(per_seed):+.2f}",
             "unseen, dB": words_of(mine["unseen"]), "photo, dB": words_of(mine["photo"])}
        )  # fmt: skip
    sets = []
    for (arm, number), found in sorted(
        kept.groupby(["arm", "round"]), key=lambda one: (ARMS.index(one[0][0]), one[0][1])
    ):
        good = found[found.accepted]
        share = good["style"].value_counts(normalize=True)
        sets.append(
            {"arm": arm, "round": number, "kept": f"{len(good)} of {len(found)}",
             "size, kept / all": f"{good['size'].mean() / found['size'].mean():.2f}",
             "contrast, kept / all": f"{good.contrast.mean() / found.contrast.mean():.2f}",
             "styles kept": f"{good['style'].nunique()} of {found['style'].nunique()}",
             "effective styles": f"{np.exp(-(share * np.log(share)).sum()):.1f}",
             "shadow left, all": f"{found.left.mean():.3f}", "shadow left, kept": f"{good.left.mean():.3f}",
             "removal, dB": f"{found.psnr.mean():.2f}"}
        )  # fmt: skip
    parts = [
        found.to_markdown(index=False)
        for found in (
            pd.DataFrame(lines),
            paired(rows),
            removers(rows, kept),
            selections(kept),
            pd.DataFrame(sets),
        )
    ]
    for arm in ("insertion", "control"):
        if (arm, ROUNDS) in states(rows):
            ceiling, rate = fitted(rows, arm)
            parts.append(
                f"Fitted to `{arm}`, seen: gain(r) = {ceiling:.2f} (1 - exp(-{rate:.2f} r)) dB; the first round has "
                f"{100 * (1 - np.exp(-rate)):.0f} % of it."
            )
    return "\n\n".join(parts) + "\n"


def paired(rows: pd.DataFrame) -> pd.DataFrame:
    """Arms that differ in one thing, round by round on the seeds that both have."""
    there, lines = states(rows), []
    for one, other in PAIRS:
        for number in [r for arm, r in there if arm == one and (other, r) in there]:
            now = rows[rows["round"] == number]
            seeds = set(now[now.arm == one].seed) & set(now[now.arm == other].seed)
            both = rows[rows.seed.isin(seeds | {0})]
            line: dict[str, Any] = {"difference": f"{one} - {other}", "round": number, "seeds": len(seeds)}
            for group in ("seen", "unseen", "photo"):
                first, second = (gains(both, arm, number, group, "layered_error") for arm in (one, other))
                line[f"{group}, dB"] = words_of(first - second)
            lines.append(line)
    return pd.DataFrame(lines)


def residues(kept: pd.DataFrame, arm: str, value: str = "left") -> list[tuple[int, np.ndarray, np.ndarray]]:
    """By round: mean of `value` over the harvest of an arm and its change since round 1, each with 1000 resamples of
    the pictures; of the seeds that have the round."""
    table = kept[kept.arm == arm].pivot_table(index=["seed", "id"], columns="round", values=value)
    found = []
    for number in table.columns:
        now, first = (table[column][table[number].notna()].to_numpy() for column in (number, 1))
        picks = np.random.default_rng(0).integers(len(now), size=(1000, len(now)))
        picks = np.concatenate([np.arange(len(now))[None], picks])
        found.append((int(number), now[picks].mean(1), (now - first)[picks].mean(1)))
    return found


def removers(rows: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """What the remover of each round leaves of the pool's shadows, and held-out removals by what it has become then."""
    lines = []
    for arm in [name for name in LOOPS if BOTH in LOOPS[name][1] and (kept.arm == name).any()]:
        better = residues(kept, arm, "psnr")
        for (number, left, change), (_, _, gain) in zip(residues(kept, arm), better, strict=True):
            seeds = kept[(kept.arm == arm) & (kept["round"] == number)].seed.nunique()
            line: dict[str, Any] = {
                "arm": arm, "round": number, "seeds": seeds,
                "shadow left": f"{left[0]:.3f}", "since round 1": words_of(change, 3) if number > 1 else "",
                "removal since round 1, dB": words_of(gain) if number > 1 else "",
            }  # fmt: skip
            for group in ("seen", "unseen", "photo"):
                found = gains(rows, f"remover of {arm}", number, group, "effect_error")
                line[f"held out after the round, {group}, dB"] = words_of(found)
            lines.append(line)
    return pd.DataFrame(lines)


def draw(path: Path, rows: pd.DataFrame, kept: pd.DataFrame) -> None:
    """Gains by round with the fitted curves; drawings over the control; first rounds; residue; what is kept."""
    titles = {
        "seen": "drawings in seen styles",
        "unseen": "drawings in unseen styles",
        "photo": "photographs",
    }
    with figure(path, 12.0, 7.0) as made:
        above, below = made.subfigures(2, 1, height_ratios=(1.1, 1))
        top = above.subplots(1, 3)
        for axes, (group, title) in zip(top, titles.items(), strict=True):
            by_round(axes, rows, group)
            axes.set(title=title, xlabel="round")
        top[0].set_ylabel("edit UNet, change, dB")
        top[0].legend(fontsize=8, loc="upper left")
        bottom = below.subplots(1, 4)
        leads(bottom[0], rows)
        first_rounds(bottom[1], rows)
        over_rounds(bottom[2], kept)
        bars(bottom[3], kept)


def leads(axes: Any, rows: pd.DataFrame) -> None:
    """Rounds on drawings minus the control of as many rounds, scene by scene."""
    for nudge, (group, name) in enumerate(
        {"seen": "seen styles", "unseen": "unseen styles", "photo": "photographs"}.items()
    ):
        found = []
        for number in range(1, ROUNDS + 1):
            one, other = (
                gains(rows, arm, number, group, "layered_error") for arm in ("insertion", "control")
            )
            found.append((number + 0.12 * (nudge - 1), one - other))
        points(axes, found, name, f"C{nudge + 3}")
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(title="drawings minus control, dB", xlabel="round")
    axes.set_xticks(range(1, ROUNDS + 1))
    axes.legend(fontsize=8, loc="lower left")


def by_round(axes: Any, rows: pd.DataFrame, group: str) -> None:
    """The arms that have several rounds; on seen styles the curves fitted to the first two."""
    there = states(rows)
    for nudge, (arm, name) in enumerate(SHOWN.items()):
        found = [(r, gains(rows, arm, r, group, "layered_error")) for a, r in there if a == arm]
        if found:
            points(axes, [(r + 0.07 * (nudge - 2), values) for r, values in found], name, f"C{nudge}")
        if group == "seen" and arm in ("insertion", "control") and len(found) == ROUNDS:
            curve = np.linspace(0, ROUNDS, 60)
            axes.plot(curve, saturating(curve, *fitted(rows, arm)), color=f"C{nudge}", linewidth=1)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_xticks(range(ROUNDS + 1))


def points(axes: Any, found: list[tuple[float, np.ndarray]], name: str, colour: str) -> None:
    """Values at x, each the pooled one with its resamples, as points with 95 % intervals."""
    middle = np.array([values[0] for _, values in found])
    low, high = np.array([np.percentile(values[1:], (2.5, 97.5)) for _, values in found]).T
    reach = (middle - low, high - middle)
    axes.errorbar(
        [x for x, _ in found], middle, reach, fmt="o", markersize=4.5, capsize=2.5, label=name, color=colour
    )


def over_rounds(axes: Any, kept: pd.DataFrame) -> None:
    """Share of each shadow that the remover of a round leaves."""
    shown = [arm for arm in SHOWN if (kept.arm == arm).any()]
    for nudge, arm in enumerate(shown):
        found = [(number + 0.07 * (nudge - 1), left) for number, left, _ in residues(kept, arm)]
        points(
            axes,
            found,
            "remover frozen" if arm == "insertion" else SHOWN[arm],
            f"C{list(SHOWN).index(arm)}",
        )
    axes.set(title="share of a shadow left", xlabel="round", ylim=(0, None))
    axes.set_xticks(range(1, ROUNDS + 1))
    axes.legend(fontsize=8, loc="lower left")


def first_arms(rows: pd.DataFrame) -> list[str]:
    """Arms with a first round of its own that changes the edit UNet's training."""
    others = ("both", "both from base", "effect", "effect control")  # the first two begin as `insertion` does
    return [arm for arm, number in states(rows) if number == 1 and arm not in others]


def first_rounds(axes: Any, rows: pd.DataFrame) -> None:
    """One round of every arm beside the others."""
    arms = first_arms(rows)
    values = [gains(rows, arm, 1, "seen", "layered_error") for arm in arms]
    middle = np.array([v[0] for v in values])
    low, high = np.array([np.percentile(v[1:], (2.5, 97.5)) for v in values]).T
    place = np.arange(len(arms))[::-1]
    axes.errorbar(middle, place, xerr=(middle - low, high - middle), fmt="o", capsize=3, color="C0")
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_yticks(place, [FIRST.get(arm, arm) for arm in arms])
    axes.set(xlabel="change on seen styles, dB", title="one round, learned from")


def chosen_of(kept: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What selections of the first harvest keep, from the scores alone; the same number at 0.9 and by quota."""
    first = kept[kept.arm.isin(("harvest", "insertion")) & (kept["round"] == 1)]
    all_of_them = first.drop_duplicates(["seed", "id"])
    strict = all_of_them[all_of_them.score >= 0.9]
    ranked = all_of_them.sort_values("score", ascending=False, kind="stable")
    each = ranked.groupby(["seed", "style"]).head(PER_STYLE)
    return {
        "all": all_of_them,
        "threshold 0.5": all_of_them[all_of_them.score >= 0.5],
        "threshold 0.9": strict,
        f"best {PER_STYLE} of each style": each,
    }


def bars(axes: Any, kept: pd.DataFrame) -> None:
    """Share of each style's removals that two selections keep."""
    chosen = chosen_of(kept)
    total = chosen["all"].groupby("style").size()
    names = list(chosen)[2:]
    order = (chosen[names[0]].groupby("style").size() / total).fillna(0).sort_values(ascending=False).index
    for nudge, name in enumerate(names):
        share = (chosen[name].groupby("style").size() / total).fillna(0)[order]
        axes.bar(np.arange(len(order)) + 0.4 * nudge - 0.2, share, 0.4, label=name, color=f"C{nudge}")
    axes.set_xticks(range(len(order)), order, rotation=90, fontsize=8)
    axes.set(title="share kept, by style")
    axes.legend(fontsize=8)


def selections(kept: pd.DataFrame) -> pd.DataFrame:
    """Bias of what each selection keeps."""
    chosen, lines = chosen_of(kept), []
    every = chosen["all"]
    for name, found in chosen.items():
        share = found["style"].value_counts(normalize=True)
        lines.append(
            {"selection": name, "kept": f"{len(found)} of {len(every)}",
             "size, kept / all": f"{found['size'].mean() / every['size'].mean():.2f}",
             "contrast, kept / all": f"{found.contrast.mean() / every.contrast.mean():.2f}",
             "styles kept": f"{found['style'].nunique()} of {every['style'].nunique()}",
             "effective styles": f"{np.exp(-(share * np.log(share)).sum()):.1f}",
             "shadow left": f"{found.left.mean():.3f}", "removal, dB": f"{found.psnr.mean():.2f}"}
        )  # fmt: skip
    return pd.DataFrame(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="folder of stages; the default is OUT/store")
    parser.add_argument("--arms", type=lambda text: text.split(","), default=list(ARMS))
    parser.add_argument("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=list(SEEDS))
    parser.add_argument("--figure-only", action="store_true")
    args = parser.parse_args()
    if not args.figure_only:
        tables = Tables(args.out)
        for arm in args.arms:
            for seed in args.seeds:
                folder = args.out / f"{arm}-{seed}".replace(" ", "-")
                make = partial(plan_of, seed, folder, args.store or args.out / "store")
                run_arm(tables, arm, seed, make, args.out)
        for name, file in tables.files.items():
            (HERE / f"{name}.csv").write_text(file.read_text())
    rows, kept = pd.read_csv(HERE / "rows.csv"), pd.read_csv(HERE / "kept.csv")
    (HERE / "table.md").write_text(text := table_of(rows, kept))
    print(text)
    if missing := {"insertion", "control"} - set(rows.arm):
        print(f"no figure yet: it shows {' and '.join(sorted(missing))}, too")
        return
    draw(HERE / "figure.png", rows, kept)


def run_arm(tables: Tables, arm: str, seed: int, make: Callable[..., Plan], out: Path) -> None:
    """All rounds of one arm of one seed."""
    if arm == "harvest":
        run_harvest(tables, make)
    elif arm == "control":
        run_control(tables, seed, make)
    elif arm == "no residue":
        run_without_residue(tables, seed, make)
    elif arm in LOOPS:
        rounds, words = LOOPS[arm]
        run_loop(tables, arm, make, rounds, *words)
    else:
        run_effect(tables, seed, 2, make, out, control=arm == "effect control")


if __name__ == "__main__":
    main()
