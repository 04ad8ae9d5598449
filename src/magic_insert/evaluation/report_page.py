"""The pieces of a report's HTML page: its style sheet, tables, cards. Nothing is loaded from anywhere."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from magic_insert.evaluation.columns import Column
from magic_insert.evaluation.compare import Paired
from magic_insert.evaluation.intervals import Estimate
from magic_insert.evaluation.tables import MISSING, Line, Table, interval_text, printed_note

CSS = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5f6b7c; --line: #dfe3ea; --page: #f6f7f9; --card: #fff;
        --mark: #0b7a53; --warn: #a35200; --bad: #b3261e; --tint: #eef1f5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebf0; --soft: #98a2b3; --line: #323a47; --page: #14181f;
        --card: #1c222b; --mark: #4cc79a; --warn: #f0a35e; --bad: #ff8a80; --tint: #252c37; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1360px; margin: 0 auto; padding: 36px 20px 64px; }
h1 { font-size: 28px; margin: 0 0 4px; letter-spacing: -.01em; } h2 { font-size: 21px; margin: 40px 0 12px; }
h3 { font-size: 16px; margin: 22px 0 8px; } h4 { font-size: 14px; margin: 0 0 8px; }
h4 span, .quiet, small { color: var(--soft); font-weight: 400; }
.badge { display: inline-block; padding: 3px 10px; border-radius: 99px; background: var(--tint); font-size: 13px;
         margin: 0 6px 6px 0; }
.badge.micro { color: var(--warn); font-weight: 600; }
.card, .pair { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 16px;
               margin: 0 0 16px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13.5px; width: 100%; font-variant-numeric: tabular-nums; }
.card > p { color: var(--soft); font-size: 13px; margin: 0 0 8px; } p.quiet { font-size: 13px; }
th, td { text-align: right; padding: 5px 6px; border-top: 1px solid var(--line); white-space: nowrap;
         vertical-align: top; }
thead th { white-space: normal; min-width: 62px; vertical-align: bottom; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
.two + .two, .two h4 { margin-top: 10px; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--card); }
td.wrap { white-space: normal; min-width: 200px; } thead th { color: var(--soft); font-weight: 500; border-top: 0; }
td small { display: block; font-size: 10.5px; line-height: 1.25; }
tr.floor td, tr.ceiling td, tr.printed td { color: var(--soft); } tr.printed td { font-style: italic; }
tr.first td { border-top: 2px solid var(--line); } b { color: var(--mark); } b.bad { color: var(--bad); }
.strip { display: flex; gap: 10px; flex-wrap: wrap; } .two { display: grid; grid-template-columns: 1fr 1fr; gap: 20px; }
@media (max-width: 800px) { .two { grid-template-columns: 1fr; } }
figure { margin: 0; width: 112px; } .two figure { width: 104px; }
figure img { width: 100%; display: block; border-radius: 8px; background: #fff; }
figcaption { font-size: 11.5px; line-height: 1.3; color: var(--soft); margin-top: 4px; overflow-wrap: anywhere; }
figcaption small { display: block; }
.gone { display: grid; place-items: center; aspect-ratio: 1; border: 1px dashed var(--line); border-radius: 8px;
        font-size: 11px; color: var(--soft); }
.plot img { width: 100%; max-width: 940px; height: auto; display: block; border-radius: 8px; }
details { margin: 0 0 12px; } summary { cursor: pointer; font-weight: 600; padding: 4px 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; font-size: 13px; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 16px; }
footer { color: var(--soft); font-size: 13px; margin-top: 32px; }
"""


def page(title: str, body: str) -> str:
    """A whole HTML document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>{CSS}</style></head><body><main>{body}</main></body></html>\n"
    )


def table_html(head: Sequence[str], body: Sequence[str], caption: str, *, num_text: int = 1) -> str:
    """A table that scrolls sideways; `head` is text, `body` are ready rows, the first `num_text` columns are words."""
    kinds = ["text" if number < num_text else "number" for number in range(len(head))]
    cells = "".join(f'<th class="{kind}">{escape(name)}</th>' for kind, name in zip(kinds, head, strict=True))
    return (
        f'<div class="card"><p>{escape(caption)}</p><div class="scroll"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div></div>"
    )


def estimate_cell(column: Column, estimate: Estimate | None, *, bold: bool = False) -> str:
    """A value over its interval; empty if there is none."""
    if estimate is None:
        return f"<td>{MISSING}</td>"
    text = column.text(estimate.mean)
    text = f"<b>{text}</b>" if bold else text
    return f"<td>{text}<small>{interval_text(column, estimate)}</small></td>"


def main_table_html(table: Table, facts: Mapping[str, Any]) -> str:
    """The track's table with floors, ceilings and printed references."""
    body, kind = [], None
    for line in table.lines:
        body.append(_line(table, line, first=line.kind != kind))
        kind = line.kind
    head = ["method", "n", *(column.heading for column in table.columns)]
    note = (
        f"{table.label}. Means with 95 % intervals, clustered by subject and background; green: best method."
    )
    html = table_html(head, body, note)
    if any(line.kind == "printed" for line in table.lines):
        html += f'<p class="quiet">{escape(printed_note(facts))}</p>'
    return html


def _line(table: Table, line: Line, *, first: bool) -> str:
    cells = "".join(
        estimate_cell(
            column,
            line.estimates.get(column.key),
            bold=column.key in line.best,
        )
        for column in table.columns
    )
    count = MISSING if line.num_rows is None else str(line.num_rows)
    kind = f"{line.kind} first" if first else line.kind
    return f'<tr class="{kind}"><td>{escape(line.method)}</td><td>{count}</td>{cells}</tr>'


def paired_html(found: Sequence[Paired], columns: Mapping[str, Column], label: str) -> str:
    """Differences and win rates against the reference method, a column of the table per column of the rows."""
    if not found:
        return ""
    keys = list(dict.fromkeys(result.column for result in found))
    body = []
    for method in dict.fromkeys(result.method for result in found):
        cells = []
        for key in keys:
            result = next((r for r in found if (r.method, r.column) == (method, key)), None)
            cells += _paired_cells(result, columns[key])
        body.append(f"<tr><td>{escape(method)}</td>{''.join(cells)}</tr>")
    head = ["method", *(name for key in keys for name in (f"Δ {columns[key].label}", "wins"))]
    note = f"{label}. Difference to {found[0].reference} on shared pairs, and the share of pairs won (ties half)."
    return table_html(head, body, note + " Green and red: the interval excludes zero, or one half.")


def _paired_cells(result: Paired | None, column: Column) -> list[str]:
    if result is None:
        return [f"<td>{MISSING}</td>"] * 2
    difference, rate = result.difference, result.win_rate
    text = f"{difference.mean:+.{column.decimals}f}"
    if difference.excludes_zero and column.better != "neither":
        text = _verdict(text, good=column.gain(difference.mean) > 0)
    cells = [f"<td>{text}<small>{interval_text(column, difference)}</small></td>"]
    if rate is None:
        return [*cells, f"<td>{MISSING}</td>"]
    if rate.low is None or rate.high is None:
        return [*cells, f"<td>{rate.mean:.0%}</td>"]
    clear = rate.low > 0.5 or rate.high < 0.5
    share = _verdict(f"{rate.mean:.0%}", good=rate.mean > 0.5) if clear else f"{rate.mean:.0%}"
    return [*cells, f"<td>{share}<small>[{rate.low:.0%}, {rate.high:.0%}]</small></td>"]


def _verdict(text: str, *, good: bool) -> str:
    return f"<b>{text}</b>" if good else f'<b class="bad">{text}</b>'


def breakdown_html(
    parts: Mapping[str, Mapping[str, Mapping[str, Estimate]]], columns: Sequence[Column], by: str, label: str
) -> str:
    """One table per column: methods down, the values of `by` across."""
    values = sorted({value for per_method in parts.values() for value in per_method})
    html = []
    for column in columns:
        body = [
            f"<tr><td>{escape(method)}</td>"
            + "".join(estimate_cell(column, per_method.get(value, {}).get(column.key)) for value in values)
            + "</tr>"
            for method, per_method in parts.items()
            if any(column.key in estimates for estimates in per_method.values())
        ]
        if body:
            html.append(table_html(["method", *values], body, f"{column.heading} by {by}; {label}"))
    return "".join(html)


def card_html(card: Mapping[str, Any]) -> str:
    """An encoder card, every field in its order."""
    items = "".join(
        f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>"
        for key, value in card.items()
        if value is not None
    )
    return f'<div class="card"><dl>{items}</dl></div>'
