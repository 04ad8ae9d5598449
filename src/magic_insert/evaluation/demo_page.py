"""The demo as one HTML page that needs no other file: pictures are embedded, the style sheet is inside."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from jaxtyping import Float
from torch import Tensor

from magic_insert.core.images import png_bytes
from magic_insert.evaluation.demo_scores import Scores

CSS = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #687385; --line: #dfe3ea; --page: #f6f7f9; --card: #fff;
        --mark: #0b7a53; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebf0; --soft: #98a2b3; --line: #323a47; --page: #14181f;
        --card: #1c222b; --mark: #4cc79a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: 30px; margin: 0 0 6px; letter-spacing: -.01em; }
.lead { color: var(--soft); max-width: 68ch; margin: 0 0 28px; }
.subject { display: flex; gap: 20px; align-items: center; margin: 0 0 28px; }
.subject img { width: 128px; border-radius: 12px; border: 1px solid var(--line); background: #fff; }
.pair { background: var(--card); border: 1px solid var(--line); border-radius: 16px; padding: 18px; margin: 0 0 20px; }
.pair h2 { font-size: 17px; margin: 0 0 12px; }
.pair h2 span { color: var(--soft); font-weight: 400; }
.row { display: grid; grid-template-columns: repeat(5, 1fr); gap: 12px; }
@media (max-width: 760px) { .row { grid-template-columns: repeat(2, 1fr); } }
figure { margin: 0; min-width: 0; }
figure img { width: 100%; display: block; border-radius: 10px; image-rendering: pixelated; }
figcaption { font-size: 13px; color: var(--soft); margin-top: 6px; }
figure.ours img { outline: 3px solid var(--mark); outline-offset: 2px; }
figure.ours figcaption { color: var(--mark); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin-top: 14px; font-size: 14px; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 10px; border-top: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 500; color: var(--soft); border-top: 0; }
footer { color: var(--soft); font-size: 13px; margin-top: 28px; }
"""
COLUMNS = ("effect, dB", "subject box, dB", "identity", "style", "background untouched")


@dataclass(frozen=True)
class PairView:
    """What the page shows of one pair: pictures 3HW by name in reading order, and scores of the methods."""

    title: str
    style: str
    pictures: dict[str, Float[Tensor, "3 _ _"]]
    scores: dict[str, Scores]


def _image(picture: Float[Tensor, "3 _ _"], name: str) -> str:
    data = base64.b64encode(png_bytes(picture)).decode()
    return f'<img alt="{escape(name)}" src="data:image/png;base64,{data}">'


def _figure(name: str, picture: Float[Tensor, "3 _ _"]) -> str:
    kind = ' class="ours"' if name == "ours" else ""
    return f"<figure{kind}>{_image(picture, name)}<figcaption>{escape(name)}</figcaption></figure>"


def _cell(value: float | bool | None) -> str:
    if value is None:
        return "<td>n/a</td>"
    if isinstance(value, bool):
        return f"<td>{'yes' if value else 'no'}</td>"
    return f"<td>{value:.2f}</td>"


def _table(scores: dict[str, Scores]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    body = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(_cell(v) for v in (s.effect_db, s.box_db, s.identity, s.style, s.untouched))
        + "</tr>"
        for name, s in scores.items()
    )
    return f'<div class="scroll"><table><tr><th></th>{head}</tr>{body}</table></div>'


def _pair(view: PairView) -> str:
    figures = "".join(_figure(name, picture) for name, picture in view.pictures.items())
    return (
        f'<section class="pair"><h2>{escape(view.title)} <span>· {escape(view.style)}</span></h2>'
        f'<div class="row">{figures}</div>{_table(view.scores)}</section>'
    )


def page(
    subject: Float[Tensor, "3 _ _"], caption: str, pairs: Sequence[PairView], footnotes: Sequence[str]
) -> str:
    """The whole page as text; `caption` says who the subject is."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Magic Insert: demo</title><style>{CSS}</style></head><body><main>"
        "<h1>Magic Insert</h1><p class=lead>One picture of a subject never seen in training, learned once, then "
        "redrawn in the style of each scene, set down in it, and given its shadow. The Toybox knows the right answer, "
        "so every picture stands beside the truth and beside the floor: the subject pasted as it is.</p>"
        f'<div class="subject">{_image(subject, "subject")}<div><strong>{escape(caption)}</strong><br>'
        "the one picture the model learned from</div></div>"
        + "".join(_pair(view) for view in pairs)
        + f"<footer>{'<br>'.join(escape(note) for note in footnotes)}</footer></main></body></html>\n"
    )
