"""The report of an evaluation: tables in three formats, charts, and one page that needs no other file.

Everything is computed from the rows; `facts` are what the rows cannot know: {"benchmark": {...}, "cards": [EncoderCard
dicts], "metrics": "micro" | "paper", "command": str, "config_digest": str, "has_truth": bool}. They are written beside
the report, so that it can be made again from the rows alone.

Shape letters: H, W pixels of a picture; thumbnails have a longer side of at most SIDE.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema.jobs import ReportConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, png_bytes
from magic_insert.core.jsonl import read_json, write_bytes, write_json, write_text
from magic_insert.core.tables import MISSING, markdown_table
from magic_insert.evaluation.diagnosis import (
    Finding,
    Trust,
    diagnose,
    encoders_are_blind,
    shares,
    signatures_of,
    trust,
)
from magic_insert.evaluation.report_charts import pareto_chart, trust_chart
from magic_insert.evaluation.rows import MADE, Column, primary_columns, read_rows
from magic_insert.evaluation.statistics import (
    Estimate,
    Row,
    breakdown,
    estimate_of,
    grouped,
    kind_of,
    methods_of,
    paired,
    paired_table,
    tracks_of,
)
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
from magic_insert.pages.render import png_address, render

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


def run_report(cfg: ReportConfig) -> Path:
    """Writes the report of `cfg.rows` in `cfg.out` and returns the page's path.

    Raises:
        UserError: the rows or the facts are damaged, or there is no row.
    """
    rows = read_rows(cfg.rows)
    folder = Path(cfg.rows).resolve().parent
    page = write_report(Path(cfg.out), rows, facts_for(cfg, folder), pictures=folder, seed=cfg.seed)
    print(f"{len(rows)} rows; open {page.resolve()}")
    return page


def facts_for(cfg: ReportConfig, folder: Path) -> dict[str, Any]:
    """The facts of `cfg.facts`, or those beside the rows in `folder`; empty where there are none.

    Raises:
        UserError: the file is damaged or holds no JSON object.
    """
    path = Path(cfg.facts) if cfg.facts is not None else folder / FACTS_FILE
    if cfg.facts is None and not path.is_file():
        return {}
    facts = read_json(path)
    if not isinstance(facts, dict):
        raise UserError(f"expected a JSON object in {path}, got {type(facts).__name__}; set facts=PATH")
    return facts


def write_report(
    out: Path, rows: Sequence[Row], facts: Mapping[str, Any], *, pictures: Path | None = None, seed: int = 0
) -> Path:
    """Writes table.{md,csv,tex}, pareto.png, diagnosis.jsonl, facts.json and report.html in `out`; returns the page.

    Args:
        pictures: the folder that the rows' picture paths start from; `out` if None.
        seed: of the bootstrap draws.

    Raises:
        UserError: there is no row, a column is unknown, or the place cannot be written.
    """
    if not rows:
        raise UserError("expected at least one row for a report, got none; evaluate something first")
    album, findings = Album(pictures or out), diagnose(rows, facts)
    parts = [track_part(rows, track, facts, album, findings, seed) for track in tracks_of(rows)]
    tables = [part["table"] for part in parts]
    pareto = pareto_chart(tables)
    write_json(out / FACTS_FILE, dict(facts))
    known = [trust_markdown(part["trust"], f"{part['track']}, {part['table'].label}") for part in parts]
    paired_by = {part["track"]: part["paired"] for part in parts}
    write_text(out / "table.md", "\n".join([markdown(tables, paired_by, facts), *filter(None, known)]))
    write_text(out / "diagnosis.jsonl", "".join(f"{json.dumps(asdict(finding))}\n" for finding in findings))
    write_text(out / "table.csv", csv_text(tables, facts))
    write_text(out / "table.tex", latex(tables, facts))
    if pareto is not None:
        write_bytes(out / "pareto.png", pareto.light)
    subjects, backgrounds = (len({row[key] for row in rows}) for key in ("subject", "background"))
    methods = len({row["method"] for row in rows if kind_of(row["method"]) == "method"})
    badges = [f"{subjects} subjects × {backgrounds} backgrounds", f"{methods} methods", f"{len(rows)} rows"]
    page = render(
        "report",
        title="Magic Insert: evaluation",
        verdicts=[sentence for part in parts if (sentence := verdict(rows, part["table"], seed=seed))],
        badges=[*badges, "the truth is known" if facts.get("has_truth") else "no truth"],
        label=metrics_label(facts),
        facts=facts,
        pareto=pareto,
        parts=parts,
        missing=MISSING,
        blind=encoders_are_blind(facts),
        interval_text=interval_text,
        worst_shown=WORST_SHOWN,
    )
    write_text(out / REPORT_FILE, page)
    return out / REPORT_FILE


def track_part(
    rows: Sequence[Row],
    track: str,
    facts: Mapping[str, Any],
    album: "Album",
    findings: Sequence[Finding],
    seed: int,
) -> dict[str, Any]:
    """What the template shows of one track."""
    table = main_table(rows, track, facts, seed=seed)
    primary = primary_columns(table.columns)
    chosen = [row for row in rows if row["track"] == track and kind_of(row["method"]) == "method"]
    trusted = trust(rows, track, facts, seed=seed) if facts.get("has_truth") else []
    return {
        "track": track,
        "table": table,
        "printed_note": printed_note(facts) if table.has_printed else "",
        "columns": {column.key: column for column in table.columns},
        "paired": paired_table(rows, track, seed=seed),
        "primary": primary,
        "breakdowns": {by: breakdown(rows, track, by, seed=seed) for by in ("style", "subject")},
        "sheet": list(sheet(rows, track, album)),
        "extremes": {
            method: [side for column in primary for side in extremes(part, column, album)]
            for method, part in grouped(chosen, "method").items()
        },
        "trust": trusted,
        "trust_chart": trust_chart(trusted),
        "signatures": [signature.name for signature in signatures_of(track, facts)],
        "methods": list(grouped(chosen, "method")),
        "shares": shares(rows, findings, facts),
        "findings": [finding for finding in findings if finding.track == track],
    }


def verdict(rows: Sequence[Row], table: Table, *, seed: int = 0) -> str:
    """One sentence: which method won, by how much, over whom; empty where nothing ranks."""
    columns = [c for c in primary_columns(table.columns) if c.better != "neither"]
    chosen = [c for c in columns if c.key in DECIDING] or [c for c in columns if c.group in AXES]
    found = [text for column in chosen if (text := leader(rows, table.track, column, seed=seed))]
    return f"{table.track}: {'; '.join(found)}." if found else ""


def leader(rows: Sequence[Row], track: str, column: Column, *, seed: int = 0) -> str:
    """Who leads in `column`, and the paired difference to the next method, or to the best floor where there is none."""
    mine = [row for row in rows if row["track"] == track]
    means = {
        m: e for m, part in grouped(mine, "method").items() if (e := estimate_of(part, column, seed=seed))
    }
    order = sorted(means, key=lambda method: -column.gain(means[method].mean))
    methods = [method for method in order if kind_of(method) == "method"]
    rivals = [*methods[1:], *(method for method in order if kind_of(method) == "floor")]
    if not methods or not rivals:
        return ""
    best, unit = methods[0], f" {column.unit}" if column.unit else ""
    text = f"{best} leads in {column.label} with {column.text(means[best].mean)}{unit}"
    if (found := paired(mine, track, column, best, rivals[0], seed=seed)) is None:
        return text
    lead = column.gain(found.difference.mean)
    interval = f" {interval_text(column, found.difference)}".rstrip()
    way = "better" if lead >= 0 else "worse"
    text += f", {column.text(abs(lead))}{unit}{interval} {way} than {rivals[0]}"
    if found.win_rate is not None:
        text += f" and ahead on {found.win_rate.mean:.0%} of the shared pairs"
    return text if found.difference.excludes_zero else f"{text}, which may be chance"


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


def thumbnail(image: Float[Tensor, "3 H W"], side: int = SIDE) -> Float[Tensor, "3 h w"]:
    """`image` with its longer side brought down to `side`; a smaller picture stays as it is."""
    scale = side / max(image.shape[-2:])
    if scale >= 1:
        return image
    size = [max(1, round(length * scale)) for length in image.shape[-2:]]
    return torch.nn.functional.interpolate(image[None], size=size, mode="area")[0]


def made_picture(row: Row) -> str | None:
    """The path of what the method made for this row."""
    path: str | None = row["images"].get(MADE[row["track"]])
    return path


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


def sheet(rows: Sequence[Row], track: str, album: Album) -> Iterator[tuple[str, str | None, list[Shot]]]:
    """(pair, style, pictures): what every method made of the same pairs, beside context and truth."""
    chosen = [row for row in rows if row["track"] == track and row["images"]]
    by_pair, methods = grouped(chosen, "pair_id"), methods_of(chosen)
    for pair in varied(chosen, SHEET_PAIRS):
        first = {row["method"]: row for row in sorted(by_pair[pair], key=lambda row: -int(row["seed"]))}
        paths = {name: path for row in first.values() for name, path in row["images"].items()}
        context = sorted(
            paths.keys() - {MADE[track]},
            key=lambda name: (CONTEXT.index(name) if name in CONTEXT else 9, name),
        )
        shots = [Shot(album.address(paths[name]), name) for name in context]
        for method in methods:
            made = made_picture(first[method]) if method in first else None
            if made or kind_of(method) == "method":
                shots.append(Shot(album.address(made), method))
        yield pair, next(iter(first.values()))["style"], shots


def extremes(rows: Sequence[Row], column: Column, album: Album) -> list[tuple[str, list[Shot]]]:
    """The worst and the best rows in one column, as (title, pictures)."""
    have = sorted(
        (row for row in rows if column.key in row["values"]),
        key=lambda row: (column.gain(row["values"][column.key]), row["pair_id"], row["seed"]),
    )
    count = min(EXTREMES, len(have) // 2)
    return [
        (
            f"{title} by {column.label}",
            [
                Shot(album.address(made_picture(row)), row["pair_id"], column.text(row["values"][column.key]))
                for row in part
            ],
        )
        for title, part in (("worst", have[:count]), ("best", have[: -count - 1 : -1]))
        if count
    ]


def trust_markdown(found: Sequence[Trust], label: str) -> str:
    """Which metric deserves trust, as Markdown; empty without a truth."""
    if not found:
        return ""
    rows = [
        {
            "metric": entry.metric.label, "truth": entry.truth.label,
            "Spearman within methods": _with_interval(entry.within), "pooled": _with_interval(entry.pooled),
            "agreement": _with_interval(entry.agreement),
        }
        for entry in found
    ]  # fmt: skip
    return f"### Which metric deserves trust ({label})\n\n{markdown_table(rows, num_text=2)}\n"


def _with_interval(estimate: Estimate | None) -> str | None:
    if estimate is None:
        return None
    known = estimate.low is not None and estimate.high is not None
    return f"{estimate.mean:.2f}" + (f" [{estimate.low:.2f}, {estimate.high:.2f}]" if known else "")
