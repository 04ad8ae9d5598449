"""What the experiments share: fresh subjects with their truth, likeness to it, rows that a run goes on from, intervals.

A script in a folder beside this file reaches it by

    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from common import ...

Shape letters: V pictures, S = SIZE their side. Pictures are float32 in [0, 1].
"""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.stats import bootstrap
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from magic_insert import MagicInsert
from magic_insert.core.compositing import area_resize
from magic_insert.core.events import no_step
from magic_insert.core.images import contact_sheet, to_pil
from magic_insert.core.jsonl import append_jsonl, read_jsonl
from magic_insert.core.masks import bounding_box
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Box, Scene, Subject
from magic_insert.data.subject_images import FILL, own_part, spot
from magic_insert.drops import Redrawn, shown
from magic_insert.models.encoders.micro import Encoders, load_encoders
from magic_insert.pages.charts import HUES
from magic_insert.paths import micro_dir
from magic_insert.stylizers import build_stylizer
from magic_insert.stylizers.draws import Draw
from magic_insert.stylizers.personalized import PersonalizedStylizer
from magic_insert.toybox.captions import caption
from magic_insert.toybox.scenes import SceneSpec, sample_scene
from magic_insert.toybox.styles import ALL_STYLES, TRAIN_STYLES
from magic_insert.toybox.subjects import SubjectSpec, sample_subject
from magic_insert.toybox.world import render_pairs, render_subjects

SIZE, COMPLEXITY = 128, 0.5
SEED = 8128  # of subjects and scenes that no recipe was chosen on; 7007 is that of experiment 007
GROUPS = {
    "photo": ["photo"],
    "drawn": list(TRAIN_STYLES[1:]),
    "held out": [s for s in ALL_STYLES if s not in TRAIN_STYLES],
}
AS_DRAWN = ("style.detail=0",)  # the model's own drawing is judged, without the subject's detail
# As the product has it, with marks for a subject that is judged alone and fills its picture.
AS_PASTED = ("style.detail=1", "stylizer.height=0.75")
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A held-out subject as a photograph, its truth in every style (V 3 S S), and a scene in every style.

    `spec` and `places` are what they were rendered from.
    """

    subject: Subject
    truth: Tensor
    scenes: list[Scene]
    spec: SubjectSpec
    places: list[SceneSpec]


def subject_spec(seed: int, number: int) -> SubjectSpec:
    """Held-out subject `number` of `seed`, standing."""
    return replace(sample_subject(fold_in(seed, "subject", number), "heldout"), pose="stand")


def case_of(
    seed: int, number: int, styles: Sequence[str], *, text: bool = True, complexity: float = COMPLEXITY
) -> Case:
    """Case `number` of `seed`; the photograph has medium complexity, truth and scenes have `complexity`."""
    spec = subject_spec(seed, number)
    drawn, levels = ["photo", *styles], [COMPLEXITY, *[complexity] * len(styles)]
    seeds = [fold_in(seed, "texture", number)] * len(drawn)
    alone = render_subjects([spec] * len(drawn), drawn, levels, seeds, SIZE)
    scenes, places = [], []
    for style in styles:
        place = sample_scene(fold_in(seed, "scene", number, style), "heldout")
        pair = render_pairs([place], [spec], [style], [complexity], [fold_in(seed, style, number)], SIZE)
        scenes.append(Scene(pair.without[0], f"{style}-{number}"))
        places.append(place)
    subject = Subject(alone.rgb[0], alone.alpha[0], f"subject-{number}", text=caption(spec) if text else "")
    return Case(subject, framed_like(alone.rgb[1:], bounding_box(alone.alpha[0])), scenes, spec, places)


def framed_like(pictures: Tensor, box: Box) -> Tensor:
    """Whole pictures scaled and moved as `data.subject_images.place` does a cut-out with this bounding box."""
    height, width = (round(side / max(box.h, box.w) * SIZE * FILL) for side in (box.h, box.w))
    at = torch.arange(SIZE) + 0.5
    y = ((at - round((SIZE - height) / 2)) / height * box.h + box.y) / pictures.shape[-2] * 2 - 1
    x = ((at - round((SIZE - width) / 2)) / width * box.w + box.x) / pictures.shape[-1] * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None].expand(len(pictures), -1, -1, -1)
    return grid_sample(pictures, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(0, 1)


class Judges:
    """The micro identity and style encoders."""

    def __init__(self) -> None:
        self.encoders: Encoders = load_encoders(micro_dir() / "encoders")

    @torch.no_grad()
    def embed(self, role: str, pictures: Tensor) -> Tensor:
        """Unit rows, V x 128, of the role "identity", "style" or "clip"."""
        return normalize(self.encoders[role].embed_images(pictures), dim=-1)  # type: ignore[literal-required]

    def likeness(self, drawn: Tensor, truth: Tensor) -> dict[str, list[float]]:
        """Cosine to the truth by role, picture by picture."""
        return {
            role: (self.embed(role, drawn) * self.embed(role, truth)).sum(-1).tolist()
            for role in ("identity", "style")
        }


def models_of(magic: MagicInsert, settings: Iterable[str], subjects: Path) -> dict[str, MagicInsert]:
    """One `MagicInsert` for each `NAME` or `NAME:key=value,key=value`, all on the weights of `magic`."""
    found = {}
    for setting in settings:
        name, _, words = setting.partition(":")
        other = MagicInsert.from_pretrained("micro", overrides=[*AS_DRAWN, *filter(None, words.split(","))])
        found[name] = other.using(subjects=subjects)
        found[name].models = magic.models
    return found


@torch.no_grad()
def drawn_and_made(
    magic: MagicInsert,
    subject: Subject,
    scenes: Sequence[Scene],
    seed: int,
    texts: Sequence[str] | None = None,
) -> tuple[list[Redrawn], list[Redrawn]]:
    """A learned subject for each scene: as the model draws it, and what is made of that by `style.detail`.

    One sampling gives both. The record says what share of the steps the personalised model drew.
    """
    magic.load()
    settings = magic.settings
    draws = [
        Draw(shown(scene), seed, f"{subject.id}__{scene.id}", text)
        for scene, text in zip(scenes, texts or [""] * len(scenes), strict=True)
    ]
    stylizer = build_stylizer(
        settings.stylizer, magic.models.pipe, subject, settings.style, settings.sampling
    )
    assert isinstance(stylizer, PersonalizedStylizer)
    try:
        embeds = stylizer.embeds_of(draws)
        with stylizer.active():
            drawn = stylizer.draw(draws, embeds, no_step, base=stylizer.resting)
        made = stylizer.with_detail(drawn, draws, embeds)
    finally:
        stylizer.close()

    def named(pictures: Tensor, mattes: Sequence[Tensor | None]) -> list[Redrawn]:
        return [
            Redrawn(
                picture.float().cpu(), subject.id, draw.id, stylizer.facts[draw.id], {}, matte, subject.alpha
            )
            for picture, draw, matte in zip(pictures, draws, mattes, strict=True)
        ]

    unknown: list[Tensor | None] = [None] * len(draws)
    cut_outs = made.shape[1] == 4
    return named(drawn, unknown), named(made[:, :3], list(made[:, 3:].float().cpu()) if cut_outs else unknown)


def pasted(truth: Tensor, rgb: Tensor, alpha: Tensor | None, subject: Subject) -> Tensor:
    """A redrawn subject in its own outline on the ground of its truth, 3 S S, framed as the subject is.

    `rgb`: a picture as the model draws it, or with `alpha` a cut-out.
    """
    at = spot(subject, (SIZE, SIZE))
    cover = area_resize(own_part(subject)[1], at.h, at.w)
    there = (slice(None), slice(at.y, at.bottom), slice(at.x, at.right))
    rgb = rgb[there] if alpha is None else area_resize(rgb, at.h, at.w)
    made = truth.clone()
    made[there] = torch.lerp(made[there], rgb, cover.expand_as(rgb))
    return made


class Rows:
    """`rows.jsonl` of a folder: what a run has measured, so that it goes on where it was stopped."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "rows.jsonl"
        self.rows: list[Row] = read_jsonl(self.file) if self.file.is_file() else []

    def __contains__(self, key: Mapping[str, Any]) -> bool:
        return any(all(row.get(name) == value for name, value in key.items()) for row in self.rows)

    def add(self, rows: Iterable[Row]) -> None:
        """Appends rows, with numbers of four decimals."""
        for row in rows:
            short = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
            append_jsonl(self.file, short)
            self.rows.append(short)

    @property
    def frame(self) -> pd.DataFrame:
        """All rows."""
        return pd.DataFrame(self.rows)


def by_subject(frame: pd.DataFrame, value: str) -> np.ndarray:
    """Mean of `value` for each subject that has one."""
    return frame.dropna(subset=[value]).groupby("subject")[value].mean().to_numpy()


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % BCa interval of one number per subject; NaN bounds for fewer than three."""
    mean = float(np.mean(values)) if len(values) else float("nan")
    if len(values) < 3:
        return mean, float("nan"), float("nan")
    if np.ptp(values) == 0:
        return mean, mean, mean
    low, high = bootstrap((values,), np.mean, random_state=0).confidence_interval
    return mean, float(low), float(high)


def mean_with_interval(values: np.ndarray, digits: int = 3) -> str:
    """Mean and 95 % interval as words of a table."""
    mean, low, high = interval(values)
    return f"{mean:.{digits}f}" + ("" if np.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]")


def difference(frame: pd.DataFrame, column: str, one: Any, other: Any, value: str) -> np.ndarray:
    """`one` minus `other` of `column`, paired by subject: what `interval` takes."""
    table = frame.pivot_table(index="subject", columns=column, values=value)
    return (table[one] - table[other]).dropna().to_numpy()


def resampled(
    frame: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], draws: int = 1000
) -> tuple[float, float, float]:
    """`statistic` of the frame with its 95 % percentile interval over subjects drawn with replacement."""
    groups = [part for _, part in frame.groupby("subject")]
    rng = np.random.default_rng(0)
    found = [
        statistic(pd.concat([groups[i] for i in rng.integers(len(groups), size=len(groups))]))
        for _ in range(draws)
    ]
    low, high = np.nanquantile(found, [0.025, 0.975])
    return statistic(frame), float(low), float(high)


def save_sheet(
    path: Path,
    rows: Sequence[Sequence[Tensor]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    cell: int = SIZE,
    quality: int = 82,
) -> None:
    """A sheet of pictures as JPEG."""
    sheet = to_pil(contact_sheet(rows, row_labels, column_labels, cell=cell))
    sheet.save(path, quality=quality, optimize=True)


@contextmanager
def figure(path: Path, width: float = 8.0, height: float = 4.0) -> Any:
    """A matplotlib figure that is written to `path` at 100 dots per inch."""
    settings = {
        "font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "grid.color": "#e6e9ef", "axes.axisbelow": True, "legend.frameon": False,
        "axes.prop_cycle": matplotlib.cycler(color=HUES), "figure.facecolor": "white",
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        made = Figure((width, height), layout="constrained")
        yield made
        made.savefig(path, dpi=100, metadata={"Software": None})


def publish(
    out: Path,
    frame: pd.DataFrame,
    tables: Callable[[pd.DataFrame], str],
    draw: Callable[[Path, pd.DataFrame], None],
) -> None:
    """Writes table.md and figure.png of an experiment's rows, and prints the tables."""
    (out / "table.md").write_text(text := tables(frame))
    draw(out / "figure.png", frame)
    print(text)


def arguments(words: str | None, *, subjects: int, seed: int = SEED) -> argparse.ArgumentParser:
    """The command line that every experiment has; `words` are the script's docstring."""
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of rows, pictures and LoRAs")
    parser.add_argument("--subjects", type=int, default=subjects)
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument(
        "--figure-only",
        action="store_true",
        help="table and figure again from the rows.csv beside the script",
    )
    return parser
