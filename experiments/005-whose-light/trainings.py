"""Which light the subject brings in training: four sets of pairs that differ in nothing else, both architectures.

    python experiments/005-whose-light/trainings.py --out runs/005
    python experiments/005-whose-light/trainings.py --out runs/005 --figure-only

Pairs and trainings are kept in `--out`, so the command goes on where it was stopped. Writes trainings.csv (one row a
picture and network), trainings.md and trainings.png beside this script.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
from common import HUES, figure, interval, mean_with_interval
from own_light import NAMES, NOTHING, finished_by, measure, real_cases, toybox_cases

from magic_insert import MagicInsert
from magic_insert.core.images import save_png
from magic_insert.core.rand import Dice
from magic_insert.data.relit_pairs import training_chunk
from magic_insert.training.effect import as_batch, shaded

HERE = Path(__file__).resolve().parent
SIDE, TRACED, CHUNK = 128, 192, 4
EACH = 8  # pictures of a scene: four styles, own-lit and scene-lit
SEED = 50_511  # of the held-out scenes; the table of this experiment has others
# What the subject of a training pair is lit by, and whether a random smooth light is laid over it.
SETS = {
    "scene-lit": (False, False),
    "relit": (True, False),
    "scene-lit, shaded": (False, True),
    "relit, shaded": (True, True),
}
FITS = {
    "effect": ("train=effect", "train.steps=240", "train.batch_size=8"),
    "diffusion": ("train.steps=300", "train.batch_size=16"),
}
LABELS = {"effect": "effect network", "diffusion": "edit UNet"}
# The shading is in the pairs here, so the effect network's own is left out, and all that it draws is followed.
CODE = """import sys
import magic_insert.training.effect as fit
fit.shaded = lambda batch, dice: batch
fit.fit_tells = lambda *_: None
from magic_insert.cli.main import program
program()"""


def make_pairs(out: Path, scenes: int) -> None:
    """Four folders of the same scenes, each as a photograph and as a drawing; they differ inside the subject alone."""
    for first in range(0, scenes, CHUNK):
        drawn = training_chunk(5, first, CHUNK, drawings=2, side=SIDE, traced=TRACED)
        planes = (drawn.without, drawn.own, drawn.mask, drawn.with_subject)
        batch = as_batch(torch.cat([torch.from_numpy(x) for x in planes], 1), torch.from_numpy(drawn.sun))
        for name, (relit, shade) in SETS.items():
            own = batch.own if relit else batch.truth
            if shade:
                dice = Dice(torch.Generator().manual_seed(first))
                own = shaded(batch._replace(own=own), dice).own
            pictures = batch.mask * own + (1 - batch.mask) * batch.truth
            for k, (with_subject, without, mask) in enumerate(
                zip(pictures, batch.scene, batch.mask, strict=True)
            ):
                layers: dict[str, Tensor] = {
                    "with": with_subject,
                    "without": without,
                    "mask": mask.expand(3, -1, -1),
                }
                for part, image in layers.items():
                    folder = out / name.replace(", ", "-") / part
                    folder.mkdir(parents=True, exist_ok=True)
                    save_png(folder / f"{2 * first + k:04d}.png", image)


def run(out: Path, pairs: int, scenes: int, real: Path | None) -> pd.DataFrame:
    """One row a picture and network."""
    if not (out / "pairs.done").is_file():
        make_pairs(out / "pairs", pairs // 2)
        (out / "pairs.done").touch()
    inserters = {NOTHING: finished_by(_inserter(NOTHING))}
    for data in SETS:
        for name, words in FITS.items():
            folder = out / f"{name}-{data.replace(', ', '-')}"
            where = f"data.path={out / 'pairs' / data.replace(', ', '-')}"
            told = ["insertion", "task=insert", "data=pairs", where, *words, "seed=5", f"out={folder}"]
            subprocess.run([sys.executable, "-c", CODE, *told], check=True)
            inserters[f"{name}, {data}"] = finished_by(_inserter(name, f"inserter.run={folder}"))
    parts = [measure(toybox_cases(scenes, seed=SEED), inserters)]
    if real is not None:
        parts.append(measure(real_cases(real), inserters))
    return pd.concat(parts)


def _inserter(name: str, *words: str):
    magic = MagicInsert.from_pretrained("micro", overrides=[f"inserter={name}", *words])
    return magic.models.inserter(magic.settings.inserter, magic.folders.inserter)


def over_nothing(frame: pd.DataFrame, group: str, column: str) -> pd.DataFrame:
    """What each network gains over doing nothing: scenes down, networks across."""
    part = frame[frame["group"] == group]
    number = part["picture"].astype(int)
    scenes = number if group == "real" else number // EACH
    wide = part.assign(scene=scenes).pivot_table(index="scene", columns="inserter", values=column)
    return wide.drop(columns=NOTHING).sub(wide[NOTHING], axis=0)


def tables(frame: pd.DataFrame) -> str:
    """Gains over doing nothing and over the training on `scene-lit`, what own light costs, and the sides."""
    groups = [g for g in frame["group"].unique() if "scene-lit" not in g or g.startswith("photo")]
    gains, paired, light, sides = [], [], [], []
    for name in FITS:
        for data in SETS:
            key, label = f"{name}, {data}", {"network": LABELS[name], "trained on": data}
            effect = {g: over_nothing(frame, g, "effect_psnr") for g in groups}
            rest = over_nothing(frame, "photo, own-lit", "rest_psnr")
            gains.append(
                label
                | {g: mean_with_interval(effect[g][key].dropna().to_numpy(), 2) for g in groups}
                | {"photo, own-lit, rest": mean_with_interval(rest[key].to_numpy(), 1)}
            )
            if data != "scene-lit":
                change = {g: (effect[g][key] - effect[g][f"{name}, scene-lit"]).dropna() for g in groups}
                paired.append(label | {g: mean_with_interval(x.to_numpy(), 2) for g, x in change.items()})
            own, lit = (effect[f"photo, {kind}-lit"][key] for kind in ("own", "scene"))
            light.append(label | {"scene-lit minus own-lit": mean_with_interval((lit - own).to_numpy(), 2)})
            mine = frame[frame["inserter"] == key].groupby("group", sort=False)["side"].agg(["sum", "count"])
            right = {g: f"{row['sum']:.0f} of {row['count']:.0f}" for g, row in mine.iterrows()}
            sides.append(label | {g: right[g] for g in groups})
    titles = (
        "Effect region (and the rest, last), dB over doing nothing",
        "The same, over the training on `scene-lit`",
        "What the subject's own light costs on photographs, effect region, dB",
        "Pictures whose effect lies on the true side",
    )
    parts = zip(titles, (gains, paired, light, sides), strict=True)
    return "\n\n".join(f"{title}\n\n{pd.DataFrame(rows).to_markdown(index=False)}" for title, rows in parts)


def draw(frame: pd.DataFrame) -> None:
    """Gains in the effect region, own-lit and scene-lit photographs and own-lit drawings."""
    groups = ("photo, scene-lit", "photo, own-lit", "seen, own-lit", "unseen, own-lit")
    with figure(HERE / "trainings.png", 9.0, 3.6) as made:
        for n, name in enumerate(FITS):
            axes = made.add_subplot(1, 2, n + 1)
            for k, data in enumerate(SETS):
                for row, group in enumerate(groups):
                    gain = over_nothing(frame, group, "effect_psnr")[f"{name}, {data}"]
                    mean, low, high = interval(gain.dropna().to_numpy())
                    y = row + 0.16 * (k - 1.5)
                    axes.plot([low, high], [y, y], color=HUES[k], lw=1.5)
                    axes.plot([mean], [y], "o", ms=4, color=HUES[k], label=data if row == 0 else None)
            axes.axvline(0, color="grey", lw=0.8)
            axes.set_yticks(range(len(groups)), groups if n == 0 else [""] * len(groups))
            axes.invert_yaxis()
            axes.set_xlabel(f"{LABELS[name]}: effect region, dB over doing nothing")
        made.legend(*axes.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train-pairs", type=int, default=240)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--pairs", type=Path, help="real pairs (with/, without/, mask/, effect/); they judge")
    parser.add_argument("--figure-only", action="store_true")
    options = parser.parse_args()
    if not options.figure_only:
        frame = run(options.out.resolve(), options.train_pairs, options.scenes, options.pairs)
        columns = ["group", "picture", "inserter", *NAMES]
        frame[columns].round(4).to_csv(HERE / "trainings.csv", index=False)
    frame = pd.read_csv(HERE / "trainings.csv", dtype={"picture": str})
    (HERE / "trainings.md").write_text(tables(frame) + "\n")
    draw(frame)


if __name__ == "__main__":
    main()
