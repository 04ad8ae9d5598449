"""The frame of the dashboard: one HTML page with its style sheet and pictures inside."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

CSS = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5b6575; --line: #dfe3ea; --page: #f6f7f9; --card: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebf0; --soft: #a3adbc; --line: #323a47; --page: #14181f;
        --card: #1c222b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 36px 20px 64px; }
h1 { font-size: 28px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 32px 0 12px; }
.lead { color: var(--soft); margin: 0; overflow-wrap: anywhere; }
.row { display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 12px;
        max-width: 100%; overflow-x: auto; }
figcaption { font-size: 14px; font-weight: 600; }
svg { display: block; } svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
.grid { stroke: var(--line); } .curve { fill: none; stroke-width: 2; } .band { opacity: .16; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12px; color: var(--soft); max-width: 380px; }
.legend span { display: inline-flex; align-items: center; gap: 5px; overflow-wrap: anywhere; }
.legend i { flex: none; width: 10px; height: 10px; border-radius: 2px; }
figure img { display: block; max-width: 100%; margin-top: 8px; image-rendering: pixelated; }
.scroll { overflow-x: auto; width: 100%; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; background: var(--card); }
th, td { text-align: left; padding: 5px 12px; border: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); }
"""


def page(title: str, lead: str, sections: Sequence[str]) -> str:
    """The whole page."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<style>{CSS}</style></head><body><main><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>'
        f"{''.join(sections)}</main></body></html>\n"
    )


def section(title: str, parts: Sequence[str]) -> str:
    """A heading and its charts; nothing where there are none."""
    shown = "".join(parts)
    return f'<h2>{escape(title)}</h2><div class="row">{shown}</div>' if shown else ""


def sheet(path: Path) -> str:
    """A contact sheet, inside the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    name = escape(path.stem.replace("-", " "))
    return (
        f"<figure><figcaption>{name}</figcaption>"
        f'<img class="sheet" alt="{name}" src="data:image/png;base64,{data}"></figure>'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain table."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'
