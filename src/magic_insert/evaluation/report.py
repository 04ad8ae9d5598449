"""The report of an evaluation: tables in three formats, charts, and one page that needs no other file.

Everything is computed from the rows and from `Facts`, what the rows cannot know, which are written beside the report,
so that it can be made again. Bars of the charts are the 95 % intervals of the tables.

Shape letters: H, W pixels of a picture; thumbnails have a longer side of at most SIDE.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from typing_extensions import TypedDict

from magic_insert.config.schema.jobs import ReportConfig
from magic_insert.core.compositing import area_resize, size_within
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, png_bytes
from magic_insert.core.jsonl import read_record, write_bytes, write_json, write_text
from magic_insert.core.tables import MISSING, markdown_table
from magic_insert.evaluation import diagnosis, statistics
from magic_insert.evaluation.metrics import Column, axes_of, primary_columns
from magic_insert.evaluation.rows import MADE, Row, read_rows
from magic_insert.evaluation.tables import (
    Table,
    csv_text,
    interval_text,
    latex,
    main_table,
    markdown,
    metrics_label,
    printed_note,
)
from magic_insert.pages import png_address, render
from magic_insert.pages.charts import HUES, MARKERS, Chart, Ink, chart

FACTS_FILE = "facts.json"
REPORT_FILE = "report.html"
SIDE = 144
SHEET_PAIRS = 6
EXTREMES = 3
WORST_SHOWN = 40
CONTEXT = ("subject", "background", "truth")  # in the order of the sheets
# The first of these that was measured decides who won; where none was, every axis of the method has its own leader.
DECIDING = ("truth_psnr",)
AXES = ("subject", "style", "inside")
GREYS = {"floor": "v", "ceiling": "^"}


class Facts(TypedDict, total=False):
    """`facts.json`: what was evaluated, by which encoders (`EncoderCard`s as JSON), with which words, in what time."""

    benchmark: dict[str, Any]
    cards: list[dict[str, Any]]
    metrics: str
    command: str
    config_digest: str
    has_truth: bool
    seconds: dict[str, float]


def run_report(cfg: ReportConfig) -> Path:
    """Writes the report of `cfg.rows` in `cfg.out` and returns the page's path.

    Raises:
        UserError: the rows or the facts are damaged, or there is no row.
    """
    rows, folder = read_rows(cfg.rows), Path(cfg.rows).resolve().parent
    beside = folder / FACTS_FILE
    path = Path(cfg.facts) if cfg.facts is not None else beside if beside.is_file() else None
    facts = {} if path is None else dict(read_record(path, Facts))
    write_report(Path(cfg.out), rows, facts, pictures=folder, seed=cfg.seed)
    page = Path(cfg.out) / REPORT_FILE
    print(f"{len(rows)} rows; open {page.resolve()}")
    return page


def write_report(
    out: Path, rows: Sequence[Row], facts: Mapping[str, Any], *, pictures: Path | None = None, seed: int = 0
) -> list[Table]:
    """Writes table.{md,csv,tex}, trust.md, pareto.png, diagnosis.jsonl, facts.json and report.html in `out`.

    Args:
        pictures: the folder that the rows' picture paths start from; `out` if None.
        seed: of the bootstrap draws.

    Returns:
        The tables, one a track.

    Raises:
        UserError: there is no row, a column is unknown, or the place cannot be written.
    """
    if not rows:
        raise UserError("expected at least one row for a report, got none; evaluate something first")
    album = Album(pictures or out)
    tracks = sorted({row["track"] for row in rows}, reverse=True)  # stylize first
    parts = [track_part(rows, track, facts, album, seed) for track in tracks]
    tables = [part["table"] for part in parts]
    pareto = pareto_chart(tables)
    write_json(out / FACTS_FILE, dict(facts))
    known = [trust_markdown(part["trust"], f"{part['track']}, {part['table'].label}") for part in parts]
    write_text(out / "table.md", markdown(tables, facts))
    write_text(out / "trust.md", "\n".join(filter(None, known)))
    findings = [json.dumps(asdict(finding)) + "\n" for part in parts for finding in part["findings"]]
    write_text(out / "diagnosis.jsonl", "".join(findings))
    write_text(out / "table.csv", csv_text(tables, facts))
    write_text(out / "table.tex", latex(tables, facts))
    if pareto is not None:
        write_bytes(out / "pareto.png", pareto.light)
    subjects, backgrounds = (len({row[key] for row in rows}) for key in ("subject", "background"))
    methods = len({row["method"] for row in rows if statistics.kind_of(row["method"]) == "method"})
    badges = [f"{subjects} subjects × {backgrounds} backgrounds", f"{methods} methods", f"{len(rows)} rows"]
    page = render(
        "report",
        title="Magic Insert: evaluation",
        verdicts=[part["verdict"] for part in parts if part["verdict"]],
        badges=[*badges, "the truth is known" if facts.get("has_truth") else "no truth"],
        label=metrics_label(facts),
        facts=facts,
        pareto=pareto,
        parts=parts,
        missing=MISSING,
        blind=diagnosis.encoders_are_blind(facts),
        interval_text=interval_text,
        worst_shown=WORST_SHOWN,
    )
    write_text(out / REPORT_FILE, page)
    return tables


def track_part(
    rows: Sequence[Row], track: str, facts: Mapping[str, Any], album: "Album", seed: int
) -> dict[str, Any]:
    """What the template shows of one track."""
    frame = statistics.frame_of(rows, track)
    table = main_table(frame, track, facts, seed=seed)
    primary = primary_columns(table.columns)
    methods = statistics.methods_of(frame, "method")
    findings = diagnosis.diagnose(frame, track, facts)
    trusted = diagnosis.trust(frame, track, facts, seed=seed) if facts.get("has_truth") else []
    chosen = [row for row in rows if row["track"] == track]
    return {
        "track": track,
        "table": table,
        "verdict": verdict(frame, table, seed=seed),
        "printed_note": printed_note(facts) if table.has_printed else "",
        "columns": {column.key: column for column in table.columns},
        "primary": primary,
        "breakdowns": {
            by: statistics.breakdown(frame, primary, by, seed=seed) for by in ("style", "subject")
        },
        "sheet": list(sheet(chosen, statistics.methods_of(frame), album)),
        "extremes": {
            method: [side for column in primary for side in extremes(chosen, method, column, album)]
            for method in methods
        },
        "trust": trusted,
        "trust_chart": trust_chart(trusted),
        "signatures": [signature.name for signature in diagnosis.signatures_of(track, facts)],
        "methods": methods,
        "shares": diagnosis.shares(frame, track, findings, facts),
        "findings": findings,
    }


def verdict(frame: pd.DataFrame, table: Table, *, seed: int = 0) -> str:
    """One sentence: which method won, by how much, over whom; empty where nothing ranks."""
    columns = [c for c in primary_columns(table.columns) if c.better != "neither"]
    chosen = [c for c in columns if c.key in DECIDING] or [c for c in columns if c.group in AXES]
    found = [text for column in chosen if (text := leader(frame, table, column, seed=seed))]
    return f"{table.track}: {'; '.join(found)}." if found else ""


def leader(frame: pd.DataFrame, table: Table, column: Column, *, seed: int = 0) -> str:
    """Who leads in `column`, and the paired difference to the next method, or to the best floor where there is none."""
    lines = [line for line in table.lines if line.kind != "printed" and column.key in line.estimates]
    lines.sort(key=lambda line: -column.gain(line.estimates[column.key].mean))
    methods, floors = ([line for line in lines if line.kind == kind] for kind in ("method", "floor"))
    if not methods or not (rivals := [*methods[1:], *floors]):
        return ""
    best, rival, unit = methods[0], rivals[0].method, f" {column.unit}" if column.unit else ""
    text = f"{best.method} leads in {column.label} with {column.text(best.estimates[column.key].mean)}{unit}"
    if (found := statistics.paired(frame, column, best.method, rival, seed=seed)) is None:
        return text
    lead = column.gain(found.difference.mean)
    interval = f" {interval_text(column, found.difference)}".rstrip()
    text += f", {column.text(abs(lead))}{unit}{interval} {'better' if lead >= 0 else 'worse'} than {rival}"
    if found.win_rate is not None:
        text += f" and ahead on {found.win_rate.mean:.0%} of the shared pairs"
    return text if found.difference.excludes_zero else f"{text}, which may be chance"


# Pictures


@dataclass(frozen=True)
class Shot:
    """A picture of the report: its `address`, None where the file is gone, a caption and a quieter `note`."""

    address: str | None
    caption: str
    note: str = ""


@dataclass(frozen=True)
class Album:
    """Thumbnails as addresses, each file read once. `root` is the folder that the rows' paths start from."""

    root: Path
    known: dict[str, str | None] = field(default_factory=dict)

    def address(self, path: str | None) -> str | None:
        """The thumbnail of the picture at `path` below `root`; None if there is no file, or it lies elsewhere.

        Raises:
            UserError: there is a file, and it is no sound picture.
        """
        if path is None:
            return None
        if path not in self.known:
            file = (self.root / path).resolve()
            here = file.is_relative_to(self.root.resolve()) and file.is_file()
            self.known[path] = png_address(png_bytes(thumbnail(load_rgb(file)))) if here else None
        return self.known[path]


def thumbnail(image: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 h w"]:
    """`image` with its longer side brought down to SIDE; a smaller picture stays as it is."""
    return area_resize(image, *size_within(image.shape[-2:], SIDE))


def varied(rows: Sequence[Row], count: int) -> list[str]:
    """At most `count` pair ids, so chosen that subjects and backgrounds recur as late as can be."""
    left = {
        row["pair_id"]: (row["subject"], row["background"])
        for row in sorted(rows, key=lambda r: r["pair_id"])
    }
    seen: Counter[str] = Counter()
    chosen: list[str] = []
    while left and len(chosen) < count:
        pair = min(left, key=lambda name: sum(seen[part] for part in left[name]))
        seen.update(left.pop(pair))
        chosen.append(pair)
    return chosen


def sheet(
    rows: Sequence[Row], methods: Sequence[str], album: Album
) -> Iterator[tuple[str, str | None, list[Shot]]]:
    """(pair, style, pictures): what every method made of the same pairs, beside context and truth."""
    chosen = [row for row in rows if row["images"]]
    for pair in varied(chosen, SHEET_PAIRS):
        of_pair = sorted((row for row in chosen if row["pair_id"] == pair), key=lambda row: -row["seed"])
        first = {row["method"]: row for row in of_pair}
        paths = {name: path for row in of_pair for name, path in row["images"].items()}
        shots = [Shot(album.address(paths[name]), name) for name in CONTEXT if name in paths]
        for method in methods:
            row = first.get(method)
            made = None if row is None else row["images"].get(MADE[row["track"]])
            if made or statistics.kind_of(method) == "method":
                shots.append(Shot(album.address(made), method))
        yield pair, of_pair[0]["style"], shots


def extremes(rows: Sequence[Row], method: str, column: Column, album: Album) -> list[tuple[str, list[Shot]]]:
    """The worst and the best results of a method in one column, as (title, pictures)."""
    have = [row for row in rows if row["method"] == method and column.key in row["values"]]
    have.sort(key=lambda row: (column.gain(row["values"][column.key]), row["pair_id"], row["seed"]))
    count = min(EXTREMES, len(have) // 2)

    def shot(row: Row) -> Shot:
        made = album.address(row["images"].get(MADE[row["track"]]))
        return Shot(made, row["pair_id"], column.text(row["values"][column.key]))

    ends = (("worst", have[:count]), ("best", have[: -count - 1 : -1]))
    return [(f"{title} by {column.label}", [shot(row) for row in part]) for title, part in ends if count]


def trust_markdown(found: Sequence[diagnosis.Trust], label: str) -> str:
    """Which metric deserves trust, as Markdown; empty without a truth."""
    rows = [
        {
            "metric": entry.metric.label, "truth": entry.truth.label,
            "Spearman within methods": _with_interval(entry.within), "pooled": _with_interval(entry.pooled),
            "agreement": _with_interval(entry.agreement),
        }
        for entry in found
    ]  # fmt: skip
    return (
        f"### Which metric deserves trust ({label})\n\n{markdown_table(rows, num_text=2)}\n" if rows else ""
    )


def _with_interval(estimate: statistics.Estimate | None) -> str | None:
    if estimate is None or estimate.low is None:
        return None if estimate is None else f"{estimate.mean:.2f}"
    return f"{estimate.mean:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


# Charts


def frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names of those points that no other point beats on one axis without losing on the other, by rising x."""
    leading = [
        name
        for name, (x, y) in points.items()
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points.values())
    ]
    return sorted(leading, key=lambda name: points[name])


def pareto_chart(tables: Sequence[Table]) -> Chart | None:
    """Subject against style, one panel a track; None if no table has both axes."""
    panels = [
        (table, *axes)
        for table in tables
        if (axes := axes_of(table.track, table.columns))
        and any(axes[0].key in line.estimates and axes[1].key in line.estimates for line in table.lines)
    ]

    def draw(figure: Figure, ink: Ink) -> None:
        for number, panel in enumerate(panels, start=1):
            _draw_methods(figure.add_subplot(len(panels), 1, number), *panel, ink)

    words = "subject fidelity against style fidelity"
    return chart(words, (8.4, 4.2 * len(panels)), draw) if panels else None


def _draw_methods(axes: Axes, table: Table, across: Column, up: Column, ink: Ink) -> None:
    """One track: methods in colour, floors and ceilings in grey, the frontier; printed rows do not compare."""
    axes.set(xlabel=across.heading, ylabel=up.heading, title=f"{table.track} · {table.label.split(' (')[0]}")
    methods: dict[str, tuple[float, float]] = {}
    look: dict[str, Any]
    for line in table.lines:
        x, y = line.estimates.get(across.key), line.estimates.get(up.key)
        if x is None or y is None or line.kind == "printed":
            continue
        if line.kind == "method":
            look = {"color": HUES[len(methods) % len(HUES)], "fmt": MARKERS[len(methods) % len(MARKERS)]}
            look |= {"label": line.method, "markersize": 8}
            methods[line.method] = x.mean, y.mean
        else:  # grey marks look alike, so they carry their names
            look = {"color": ink.soft, "fmt": GREYS[line.kind], "markersize": 6, "alpha": 0.8}
            name = line.method.split(":")[-1]
            axes.annotate(
                name, (x.mean, y.mean), (6, 5), textcoords="offset points", color=ink.soft, fontsize=8
            )
        axes.errorbar(x.mean, y.mean, xerr=_bars([x]), yerr=_bars([y]), elinewidth=1, zorder=3, **look)
    leading = [methods[name] for name in frontier(methods)]
    axes.plot(*zip(*leading, strict=True), color=ink.soft, linestyle="--", linewidth=1.2, label="frontier")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)


def trust_chart(found: Sequence[diagnosis.Trust]) -> Chart | None:
    """Rank correlation within methods: metrics down, one mark per truth column; None if nothing could be computed."""
    known = [(e.metric.label, e.truth.label, e.within) for e in found if e.within is not None]
    metrics = list(dict.fromkeys(metric for metric, _, _ in known))
    truths = list(dict.fromkeys(truth for _, truth, _ in known))

    def draw(figure: Figure, ink: Ink) -> None:
        axes = figure.add_subplot(
            xlabel="Spearman correlation with the truth over pairs, within methods", xlim=(-1, 1)
        )
        for number, truth in enumerate(truths):
            shift = 0.18 * (number - (len(truths) - 1) / 2)
            mine = [(metrics.index(metric) + shift, value) for metric, of, value in known if of == truth]
            axes.errorbar(
                [value.mean for _, value in mine], [place for place, _ in mine], xerr=_bars([v for _, v in mine]),
                fmt=MARKERS[number], color=HUES[number], label=truth, markersize=5, elinewidth=1,
            )  # fmt: skip
        axes.axvline(0, color=ink.soft, linewidth=1)
        axes.set_yticks(range(len(metrics)), metrics)
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))

    words = "rank correlation of each metric with the truth"
    return chart(words, (8.4, 1.2 + 0.4 * len(metrics)), draw) if known else None


def _bars(estimates: Sequence[statistics.Estimate]) -> list[list[float]]:
    """Distances from the means to the ends of their intervals; zero where there is no interval."""
    return [
        [0.0 if e.low is None else e.mean - e.low for e in estimates],
        [0.0 if e.high is None else e.high - e.mean for e in estimates],
    ]
