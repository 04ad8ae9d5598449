"""The report of an evaluation: tables in three formats, the subject-style plot, and one page that needs nothing else.

Everything is computed from the rows; `facts` says what the rows cannot: {"benchmark": {...}, "cards": [EncoderCard
dicts], "metrics": "micro" | "paper", "command": str, "config_digest": str, "has_truth": bool}. They are written beside
the report, so that it can be made again from the rows alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import write_bytes, write_json, write_text
from magic_insert.evaluation.columns import primary_columns
from magic_insert.evaluation.compare import (
    Row,
    breakdown,
    grouped,
    kind_of,
    paired_table,
    present_columns,
    tracks_of,
)
from magic_insert.evaluation.diagnosis import diagnose
from magic_insert.evaluation.metric_trust import trust
from magic_insert.evaluation.pareto import pareto_png
from magic_insert.evaluation.report_page import (
    breakdown_html,
    card_html,
    main_table_html,
    page,
    paired_html,
)
from magic_insert.evaluation.report_parts import diagnosis_html, picture_html, trust_html, trust_markdown
from magic_insert.evaluation.report_pictures import Album, extremes_html, sheet_html
from magic_insert.evaluation.tables import Table, csv_text, latex, main_table, markdown, metrics_label

FACTS_FILE = "facts.json"
REPORT_FILE = "report.html"


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
    tables = [main_table(rows, track, facts, seed=seed) for track in tracks_of(rows)]
    write_json(out / FACTS_FILE, dict(facts))
    trusted = {
        table.track: trust(rows, table.track, seed=seed) if facts.get("has_truth") else [] for table in tables
    }
    findings = diagnose(rows)
    known = [trust_markdown(trusted[table.track], f"{table.track}, {table.label}") for table in tables]
    write_text(out / "table.md", "\n".join([markdown(tables, rows, facts, seed=seed), *filter(None, known)]))
    write_text(out / "diagnosis.jsonl", "".join(f"{json.dumps(asdict(finding))}\n" for finding in findings))
    write_text(out / "table.csv", csv_text(tables, facts))
    write_text(out / "table.tex", latex(tables, facts))
    plots = pareto_png(tables, "light"), pareto_png(tables, "dark")
    if plots[0] is not None:
        write_bytes(out / "pareto.png", plots[0])
    album = Album(pictures or out, {})
    body = head_html(rows, facts) + plot_html(*plots)
    for table in tables:
        body += track_html(rows, table, facts, album, seed)
        body += trust_html(trusted[table.track], table.label)
        body += diagnosis_html(rows, findings, table.track, table.label)
    body += cards_html(facts)
    write_text(out / REPORT_FILE, page("Magic Insert: evaluation", body))
    return out / REPORT_FILE


def head_html(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """Title, what was evaluated with what, and the command that does it again."""
    subjects, backgrounds = ({row[key] for row in rows} for key in ("subject", "background"))
    methods = {row["method"] for row in rows if kind_of(row["method"]) == "method"}
    kind = "micro" if facts.get("metrics") == "micro" else ""
    badges = [f'<span class="badge {kind}">{escape(metrics_label(facts))}</span>']
    badges += [
        f'<span class="badge">{escape(text)}</span>'
        for text in (
            f"{len(subjects)} subjects × {len(backgrounds)} backgrounds",
            f"{len(methods)} methods",
            f"{len(rows)} rows",
            "the truth is known" if facts.get("has_truth") else "no truth",
        )
    ]
    command = f"<p><code>{escape(str(facts['command']))}</code></p>" if facts.get("command") else ""
    return f"<h1>Magic Insert: evaluation</h1><p>{''.join(badges)}</p>{command}"


def plot_html(light: bytes | None, dark: bytes | None) -> str:
    """The subject-style plot in the reader's light or dark theme; empty without one."""
    if light is None or dark is None:
        return ""
    return f"<h2>Subject against style</h2>{picture_html(light, dark, 'subject fidelity against style fidelity')}"


def track_html(rows: Sequence[Row], table: Table, facts: Mapping[str, Any], album: Album, seed: int) -> str:
    """Everything about one track: table, paired comparisons, breakdowns, sheets, worst and best pairs."""
    track = table.track
    primary = primary_columns(present_columns(rows, track))
    html = [f"<h2>Track {escape(track)}</h2>", main_table_html(table, facts)]
    html.append(
        paired_html(paired_table(rows, track, seed=seed), {c.key: c for c in table.columns}, table.label)
    )
    for by in ("style", "subject"):
        parts = breakdown(rows, track, by, seed=seed)
        shown = " open" if by == "style" else ""
        html.append(
            f"<details{shown}><summary>By {by}</summary>{breakdown_html(parts, primary, by, table.label)}</details>"
        )
    html.append(f"<h3>What they made</h3>{sheet_html(rows, track, album)}")
    chosen = [row for row in rows if row["track"] == track and kind_of(row["method"]) == "method"]
    for method, part in grouped(chosen, "method").items():
        body = "".join(extremes_html(part, column, album) for column in primary)
        html.append(f"<details><summary>Worst and best pairs of {escape(method)}</summary>{body}</details>")
    return "".join(html)


def cards_html(facts: Mapping[str, Any]) -> str:
    """The encoder cards: two numbers may be compared only where these agree."""
    cards = "".join(card_html(card) for card in facts.get("cards", ()))
    return f'<h2>Encoders</h2><div class="cards">{cards}</div>' if cards else ""
