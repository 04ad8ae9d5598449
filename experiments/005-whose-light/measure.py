"""What the subject's own light costs on rendered photographs, for the inserters that ship: more scenes than the table.

    python experiments/005-whose-light/measure.py
    python experiments/005-whose-light/measure.py --figure-only

Writes light.csv (one row a picture and inserter) and light.md beside this script; the second command makes the table
again from the rows.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
from common import mean_with_interval
from own_light import SEED, finished_by, measure, toybox_cases

from magic_insert import MagicInsert
from magic_insert.evaluation.statistics import exact_interval

HERE = Path(__file__).resolve().parent
INSERTERS = ("copy_paste", "contact_shadow", "diffusion", "effect")
SCENES = {SEED: 16, 515: 24}  # seed -> number: those of experiment 005, and others


def rows() -> pd.DataFrame:
    """Photographs alone, own-lit and scene-lit; `scene` numbers them through a seed."""
    found, inserters = [], {}
    for name in INSERTERS:
        magic = MagicInsert.from_pretrained("micro", overrides=[f"inserter={name}"])
        inserters[name] = finished_by(magic.models.inserter(magic.settings.inserter, magic.folders.inserter))
    for seed, scenes in SCENES.items():
        photos = (case for case in toybox_cases(scenes, seed=seed) if case.group.startswith("photo"))
        frame = measure(photos, inserters)
        found.append(frame.assign(seed=seed, scene=frame["picture"].astype(int) // 2))
    return pd.concat(found).round(4)


def table(frame: pd.DataFrame) -> str:
    """By seed and of both: loss by the subject's own light, and the side of its effect."""
    lines = []
    for name in INSERTERS[1:]:
        for label, part in [*frame.groupby("seed"), ("both", frame)]:
            mine = part[part["inserter"] == name].set_index(["seed", "scene"])
            own, lit = (mine[mine["group"] == f"photo, {kind}-lit"] for kind in ("own", "scene"))
            loss = (lit["effect_psnr"] - own["effect_psnr"]).to_numpy()
            line = {"inserter": name, "seed": label, "photographs": len(own)}
            line["own light costs, effect region, dB"] = mean_with_interval(loss, 2)
            for kind, found in (("own-lit", own["side"].dropna()), ("scene-lit", lit["side"].dropna())):
                low, high = exact_interval(int(found.sum()), len(found))
                line[f"side right, {kind}"] = f"{found.sum():.0f} of {len(found)} [{low:.2f}, {high:.2f}]"
            lines.append(line)
    return pd.DataFrame(lines).to_markdown(index=False) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", help="taken as by the other scripts; nothing is written there")
    parser.add_argument("--figure-only", action="store_true")
    if not parser.parse_args().figure_only:
        rows().to_csv(HERE / "light.csv", index=False)
    (HERE / "light.md").write_text(text := table(pd.read_csv(HERE / "light.csv")))
    print(text)


if __name__ == "__main__":
    main()
