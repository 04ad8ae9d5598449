"""An effect network and an edit UNet learned from the same pairs in the same CPU minutes, measured as a user has them.

    python experiments/006-effect-or-latent/measure.py --out runs/006 --pairs FOLDER
    python experiments/006-effect-or-latent/measure.py --out runs/006 --figure-only

`--pairs` adds real pairs (with/, without/, mask/, effect/); they only judge. Pairs and trainings are kept in `--out`,
so the command goes on where it was stopped. Writes rows.csv, table.md and figure.png beside this script.
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
from common import HUES, figure, interval, mean_with_interval
from own_light import NAMES, NOTHING, finished_by, measure, real_cases, table, toybox_cases

from magic_insert import MagicInsert
from magic_insert.core.jsonl import read_json, write_json

HERE = Path(__file__).resolve().parent
STYLES = "[photo,cartoon,watercolour,ink,pencil,papercut]"
PAIRS = ("toybox", "what=pairs", "num_subjects=240", "num_scenes=240", f"styles={STYLES}", "seed=6")
# Steps that take the same CPU minutes; the edit UNet's are those of its recipe.
FITS = {
    "effect": ("train=effect", "train.steps=300", "train.batch_size=8"),
    "diffusion": ("train.steps=600", "train.batch_size=16"),
}
SHIPPED = {"effect": "effect, shipped", "diffusion": "diffusion, shipped"}
LABELS = {
    "contact_shadow": "contact shadow, no weights",
    "effect": "effect network, trained here",
    "diffusion": "edit UNet, trained here",
    "effect, shipped": "effect network, shipped",
    "diffusion, shipped": "edit UNet, shipped",
}
EACH = 8  # pictures of a scene: four styles, own-lit and scene-lit
SEED = 60_061  # of the held-out scenes; those of experiment 005 have another


def made(words: Sequence[str], folder: Path) -> None:
    """Runs `magic-insert` unless it has ended before; the CPU seconds it took stand beside its folder."""
    book = folder.with_suffix(".json")
    spent = read_json(book) if book.is_file() else {"cpu_seconds": 0.0, "done": False}
    if spent["done"]:
        return
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = "from magic_insert.cli.main import program; program()"
    done = subprocess.run([sys.executable, "-c", code, *words, f"out={folder}"]).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    write_json(book, {"cpu_seconds": round(spent["cpu_seconds"] + took, 1), "done": done})
    if not done:
        raise SystemExit(1)


def train(out: Path) -> dict[str, Path]:
    """The folder of each architecture's weights."""
    pairs = out / "pairs"
    made(PAIRS, pairs)
    folders = {}
    for name, words in FITS.items():
        folders[name] = out / name
        made(
            ("insertion", "task=insert", "data=pairs", f"data.path={pairs}", *words, "seed=6"), folders[name]
        )
    return folders


def run(out: Path, scenes: int, real: Path | None) -> pd.DataFrame:
    """One row a picture and inserter."""
    inserters = {}
    folders = train(out)
    chosen = [(NOTHING, NOTHING, None), ("contact_shadow", "contact_shadow", None)]
    chosen += [(name, name, folder) for name, folder in folders.items()]
    chosen += [(shown, name, None) for name, shown in SHIPPED.items()]
    for shown, name, folder in chosen:
        weights = [] if folder is None else [f"inserter.run={folder}"]
        magic = MagicInsert.from_pretrained("micro", overrides=[f"inserter={name}", *weights])
        inserters[shown] = finished_by(magic.models.inserter(magic.settings.inserter, magic.folders.inserter))
    parts = [measure(toybox_cases(scenes, seed=SEED), inserters)]
    if real is not None:
        parts.append(measure(real_cases(real), inserters))
    return pd.concat(parts)


def by_scene(frame: pd.DataFrame, group: str, column: str) -> pd.DataFrame:
    """A score of one group: scenes down (real sides each for itself), inserters across."""
    part = frame[frame["group"] == group]
    number = part["picture"].astype(int)
    scenes = number if group == "real" else number // EACH
    return part.assign(scene=scenes).pivot_table(index="scene", columns="inserter", values=column)


def paired(frame: pd.DataFrame) -> str:
    """Differences scene by scene: the two trainings, each over nothing, and what the subject's own light costs."""
    lines = []
    for group in frame["group"].unique():
        line = {"pictures": group}
        for column, words in {"effect_psnr": "effect region", "rest_psnr": "rest"}.items():
            found = by_scene(frame, group, column)
            for name, other in (("effect", "diffusion"), ("effect", NOTHING), ("diffusion", NOTHING)):
                line[f"{name} - {other}, {words}, dB"] = mean_with_interval(
                    (found[name] - found[other]).to_numpy(), 2
                )
        lines.append(line)
    light = []
    for group in ("photo", "seen", "unseen"):
        own, lit = (by_scene(frame, f"{group}, {kind}-lit", "effect_psnr") for kind in ("own", "scene"))
        light.append(
            {"scene-lit minus own-lit, effect region, dB": group}
            | {name: mean_with_interval(lit[name].to_numpy() - own[name].to_numpy(), 2) for name in LABELS}
        )
    return "\n\n".join(pd.DataFrame(part).to_markdown(index=False) for part in (lines, light))


def draw(frame: pd.DataFrame) -> None:
    """Changes against doing nothing: the effect region, and the rest of the window."""
    shown = [name for name in frame["inserter"].unique() if name != NOTHING]
    groups = [
        group for group in frame["group"].unique() if "scene-lit" not in group or group.startswith("photo")
    ]
    with figure(HERE / "figure.png", 9.0, 4.2) as made:
        for n, (column, title) in enumerate(
            {"effect_psnr": "effect region", "rest_psnr": "rest of the window"}.items()
        ):
            axes = made.add_subplot(1, 2, n + 1)
            for k, name in enumerate(shown):
                for row, group in enumerate(groups):
                    part = by_scene(frame, group, column)
                    mean, low, high = interval((part[name] - part[NOTHING]).dropna().to_numpy())
                    y = row + 0.13 * (k - (len(shown) - 1) / 2)
                    axes.plot([low, high], [y, y], color=HUES[k], lw=1.5)
                    axes.plot([mean], [y], "o", ms=4, color=HUES[k], label=LABELS[name] if row == 0 else None)
            axes.axvline(0, color="grey", lw=0.8)
            axes.set_yticks(range(len(groups)), groups if n == 0 else [""] * len(groups))
            axes.invert_yaxis()
            axes.set_xlabel(f"{title}, dB over doing nothing")
        made.legend(*axes.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--figure-only", action="store_true")
    options = parser.parse_args()
    if not options.figure_only:
        frame = run(options.out.resolve(), options.scenes, options.pairs and options.pairs.resolve())
        frame.round(4).to_csv(HERE / "rows.csv", index=False)
        times = {name: read_json(options.out / f"{name}.json")["cpu_seconds"] for name in FITS}
        write_json(HERE / "minutes.json", {name: round(seconds / 60, 1) for name, seconds in times.items()})
    frame = pd.read_csv(HERE / "rows.csv", dtype={"picture": str})
    (HERE / "table.md").write_text(
        table(frame[["group", "picture", "inserter", *NAMES]].replace({None: np.nan}))
        + "\n\n"
        + paired(frame)
        + "\n"
    )
    draw(frame)


if __name__ == "__main__":
    main()
