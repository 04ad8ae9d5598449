"""Fidelity against editability over training length: which step is best, and the picture of all of them.

Source: Magic Insert (arXiv 2407.02489), where a pose edit survives to about 1500 steps and is lost after; the paper
gives pictures and no numbers.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from magic_insert.core.jsonl import write_bytes, write_text

CURVE = "curve"
COLUMNS = ("step", "identity", "prompt")


def pick_best(rows: Sequence[Mapping[str, Any]], tolerance: float) -> int:
    """The step of the highest identity among those whose prompt score is at least (1 - tolerance) of the best one.

    Ties go to the earlier step. A best prompt score below 0 allows nothing but itself.
    """
    assert rows
    best = max(row["prompt"] for row in rows)
    floor = best - tolerance * abs(best) if best > 0 else best
    obedient = [row for row in rows if row["prompt"] >= floor]
    return int(max(obedient, key=lambda row: (row["identity"], -row["step"]))["step"])


def write_curve(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes `curve.csv` (step, identity, prompt) and `curve.png` (prompt fit across, identity up, steps as labels)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([[row.get(name, "") for name in COLUMNS] for row in rows])
    write_text(out / f"{CURVE}.csv", text.getvalue())
    figure = Figure(figsize=(5, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    across, up = [row["prompt"] for row in rows], [row["identity"] for row in rows]
    axes.plot(across, up, marker="o")
    for row in rows:
        axes.annotate(
            str(row["step"]), (row["prompt"], row["identity"]), textcoords="offset points", xytext=(4, 4)
        )
    axes.set_xlabel("editability: fit of edited samples to their text")
    axes.set_ylabel("fidelity: identity with the subject")
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture, metadata={"Software": None})
    write_bytes(out / f"{CURVE}.png", picture.getvalue())
