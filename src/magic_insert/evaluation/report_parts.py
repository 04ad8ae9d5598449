"""Two further parts of a report: which metric deserves trust, and what went wrong where."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

from matplotlib.figure import Figure

from magic_insert.evaluation.compare import Row
from magic_insert.evaluation.diagnosis import SIGNATURES, Finding, shares
from magic_insert.evaluation.intervals import Estimate
from magic_insert.evaluation.metric_trust import Trust
from magic_insert.evaluation.pareto import HUES, INKS, MARKERS
from magic_insert.evaluation.report_page import table_html
from magic_insert.evaluation.tables import MISSING

SHOWN = 40


def trust_png(found: Sequence[Trust], theme: str = "light") -> bytes | None:
    """Rank correlation within methods: metrics down, one mark per truth column. None if nothing could be computed."""
    drawn = [entry for entry in found if entry.within is not None]
    if not drawn:
        return None
    ink, soft, line, page = INKS[theme]
    metrics = list(dict.fromkeys(entry.metric.label for entry in drawn))
    truths = list(dict.fromkeys(entry.truth.label for entry in drawn))
    figure = Figure(figsize=(8.4, 1.2 + 0.42 * len(metrics)), dpi=130, facecolor=page, layout="constrained")
    axes = figure.add_subplot(facecolor=page)
    for number, truth in enumerate(truths):
        shift = 0.18 * (number - (len(truths) - 1) / 2)
        points = [
            (metrics.index(e.metric.label), e.within) for e in drawn if e.truth.label == truth and e.within
        ]
        middle = [estimate.mean for _, estimate in points]
        low = [m if e.low is None else e.low for m, (_, e) in zip(middle, points, strict=True)]
        high = [m if e.high is None else e.high for m, (_, e) in zip(middle, points, strict=True)]
        bars = [
            [m - a for m, a in zip(middle, low, strict=True)],
            [b - m for m, b in zip(middle, high, strict=True)],
        ]
        axes.errorbar(
            middle, [place + shift for place, _ in points], xerr=bars, fmt=MARKERS[number], color=HUES[number],
            label=truth, markersize=6, elinewidth=1,
        )  # fmt: skip
    axes.axvline(0, color=soft, linewidth=1)
    axes.set_yticks(range(len(metrics)), metrics, color=ink)
    axes.invert_yaxis()
    axes.set_xlim(-1, 1)
    axes.set_xlabel("Spearman correlation with the truth over pairs, within methods", color=ink)
    axes.tick_params(axis="x", colors=soft, labelsize=9)
    axes.grid(axis="x", color=line, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(line)
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_color(ink)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def picture_html(light: bytes, dark: bytes, words: str) -> str:
    """A plot in the reader's light or dark theme."""
    day, night = (f"data:image/png;base64,{base64.b64encode(image).decode()}" for image in (light, dark))
    return (
        f'<div class="card plot"><picture><source srcset="{night}" media="(prefers-color-scheme: dark)">'
        f'<img alt="{escape(words)}" src="{day}"></picture></div>'
    )


def trust_html(found: Sequence[Trust], label: str) -> str:
    """Plot and table of `evaluation.metric_trust`; empty without a truth."""
    light, dark = trust_png(found, "light"), trust_png(found, "dark")
    if light is None or dark is None:
        return ""
    body = [
        f"<tr><td>{escape(entry.metric.label)}</td><td class=text>{escape(entry.truth.label)}</td>"
        + "".join(_cell(estimate) for estimate in (entry.within, entry.pooled, entry.agreement))
        + "</tr>"
        for entry in found
    ]
    note = (
        f"{label}. Rank correlation of each metric with the truth, all turned so that more is better: over the pairs "
        "of one method (mean over methods), over all results, and the share of method pairs on one pair in which "
        "metric and truth prefer the same (0.5 is chance). 95 % intervals clustered by subject and background."
    )
    head = ["metric", "truth", "within methods", "pooled", "agreement"]
    return (
        "<h3>Which metric deserves trust</h3>"
        + picture_html(light, dark, "rank correlation of each metric with the truth")
        + table_html(head, body, note, num_text=2)
    )


def trust_markdown(found: Sequence[Trust], label: str) -> str:
    """The same table as Markdown; empty without a truth."""
    if not found:
        return ""
    lines = [f"### Which metric deserves trust ({label})", ""]
    lines += ["| metric | truth | Spearman within methods | pooled | agreement |", "|---|---|--:|--:|--:|"]
    lines += [
        f"| {entry.metric.label} | {entry.truth.label} | "
        + " | ".join(_text(estimate) for estimate in (entry.within, entry.pooled, entry.agreement))
        + " |"
        for entry in found
    ]
    return "\n".join([*lines, ""])


def _text(estimate: Estimate | None) -> str:
    if estimate is None:
        return MISSING
    return f"{estimate.mean:.2f} {_between(estimate)}".strip()


def _between(estimate: Estimate) -> str:
    return (
        "" if estimate.low is None or estimate.high is None else f"[{estimate.low:.2f}, {estimate.high:.2f}]"
    )


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return f"<td>{MISSING}</td>"
    return f"<td>{estimate.mean:.2f}<small>{_between(estimate)}</small></td>"


def diagnosis_html(rows: Sequence[Row], findings: Sequence[Finding], track: str, label: str) -> str:
    """How often each method fails in each known way, then the worst results with their numbers and what to turn."""
    names = [signature.name for signature in SIGNATURES if signature.track == track]
    counted = shares(rows, findings)
    methods = list(dict.fromkeys(method for of, method, _ in counted if of == track))
    body = [
        f"<tr><td>{escape(method)}</td>"
        + "".join(_share(counted, (track, method, name)) for name in names)
        + "</tr>"
        for method in methods
    ]
    html = "<h3>Diagnosis</h3>" + table_html(
        ["method", *names],
        body,
        f"{label}. Share of results that fail in each known way, judged between floor and ceiling rows.",
    )
    mine = [finding for finding in findings if finding.track == track]
    if not mine:
        return html
    lines = [
        f"<tr><td>{escape(f.pair_id)}</td><td class=text>{escape(f.method)}</td><td class=text>{escape(f.signature)}"
        f'</td><td class="text wrap">{escape(f.evidence)}</td><td class="text wrap">{escape(f.turn)}</td></tr>'
        for f in mine[:SHOWN]
    ]
    more = f", of {len(mine)} (all in diagnosis.jsonl)" if len(mine) > SHOWN else ""
    return (
        f"{html}<details><summary>The {len(lines)} worst{more}</summary>"
        + table_html(["pair", "method", "failure", "the number", "what to turn"], lines, label, num_text=5)
        + "</details>"
    )


def _share(counted: Mapping[tuple[str, str, str], tuple[int, int]], key: tuple[str, str, str]) -> str:
    failed, total = counted[key]
    return f"<td>{failed / total:.0%}<small>{failed} of {total}</small></td>"
