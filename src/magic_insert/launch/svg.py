"""Charts as SVG text that needs nothing else: curves with bands, bars, a heat map. Sizes in pixels.

Marks carry a class (`point`, `curve`, `band`, `bar`, `cell`), so that a page can style them and a test can find them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from magic_insert.launch.sweep_table import Grid

# Told apart by people with any colour vision (Okabe and Ito 2008), the first three also in grey.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
WIDTH, HEIGHT = 380, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 34, 40
# The heat map's scale from least to most, evenly bright steps (matplotlib's viridis at its quarters).
SCALE = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


@dataclass(frozen=True)
class Curve:
    """Points by x, and if known an interval around each: (x, low, high)."""

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = field(default_factory=tuple)


def line_chart(title: str, x_label: str, curves: Sequence[Curve]) -> str:
    """Curves over a common x; a single point is a dot."""
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return ""
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points]
    ys += [y for curve in curves for _, low, high in curve.band for y in (low, high)]
    x_ticks = ticks(min(xs), max(xs), whole=all(float(x).is_integer() for x in xs))
    y_ticks = ticks(min(ys), max(ys))
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        right = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (y - y_low) / (y_high - y_low) if y_high > y_low else 0.5
        return LEFT + right * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for y in y_ticks:
        _, at = place(x_low, y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_text(LEFT - 6, at + 4, number(y), "end"))
    parts += [
        _text(place(x, y_low)[0], HEIGHT - BOTTOM + 16, number(x), "middle")
        for x in x_ticks
        if x_low <= x <= x_high
    ]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, "middle"))
    for curve, colour in zip(curves, _colours(len(curves)), strict=True):
        if len(curve.band) > 1:
            edge = [place(x, high) for x, _, high in curve.band]
            edge += [place(x, low) for x, low, _ in reversed(curve.band)]
            parts.append(f'<polygon class="band" points="{_points(edge)}" fill="{colour}"/>')
        placed = [place(x, y) for x, y in curve.points]
        parts.append(f'<polyline class="curve" points="{_points(placed)}" stroke="{colour}"/>')
        if len(placed) <= 40:
            parts += [
                f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}">'
                f"<title>{escape(curve.name)}: {number(value[1])} at {number(value[0])}</title></circle>"
                for (x, y), value in zip(placed, curve.points, strict=True)
            ]
    return _figure(title, WIDTH, HEIGHT, parts, [curve.name for curve in curves])


def bar_chart(title: str, bars: Sequence[tuple[str, float]], largest: float) -> str:
    """Horizontal bars from 0 to `largest`, each with its label and number."""
    if not bars:
        return ""
    room, step = 110, 20
    height = TOP + step * len(bars) + 8
    parts = []
    for i, (label, value) in enumerate(bars):
        y = TOP + i * step
        length = (WIDTH - room - 56) * (value / largest if largest else 0.0)
        parts.append(_text(room - 6, y + 13, label, "end"))
        parts.append(
            f'<rect class="bar" x="{room}" y="{y + 2}" width="{length:.1f}" height="{step - 5}" fill="{COLOURS[0]}"/>'
        )
        parts.append(_text(room + length + 5, y + 13, number(value), "start"))
    return _figure(title, WIDTH, height, parts, [])


def heat_chart(title: str, grid: Grid) -> str:
    """A cell for every pair of values, coloured by its number, which stands in it; a cell without one is empty."""
    wide, tall, left, top = 84, 40, 110, 62
    found = [cell for row in grid.cells for cell in row if cell is not None]
    low, high = min(found), max(found)
    width, height = left + wide * len(grid.columns) + 10, top + tall * len(grid.rows) + 10
    parts = [_text(left + wide * len(grid.columns) / 2, 34, grid.column_key, "middle")]
    parts.append(_text(6, top - 8, grid.row_key, "start"))
    parts += [_text(left + (j + 0.5) * wide, top - 8, name, "middle") for j, name in enumerate(grid.columns)]
    for i, (name, row) in enumerate(zip(grid.rows, grid.cells, strict=True)):
        parts.append(_text(left - 8, top + (i + 0.5) * tall + 4, name, "end"))
        for j, cell in enumerate(row):
            if cell is None:
                continue
            share = (cell - low) / (high - low) if high > low else 0.5
            parts.append(
                f'<rect class="cell" x="{left + j * wide + 1}" y="{top + i * tall + 1}" width="{wide - 2}" '
                f'height="{tall - 2}" fill="{heat(share)}"/>'
            )
            x, y = left + (j + 0.5) * wide, top + (i + 0.5) * tall + 4
            parts.append(_text(x, y, number(cell), "middle", "#fff" if share < 0.6 else "#111"))
    return _figure(title, width, height, parts, [])


def heat(share: float) -> str:
    """The colour at `share` in [0, 1] of the heat map's scale."""
    place = share * (len(SCALE) - 1)
    step = min(int(place), len(SCALE) - 2)
    rest = place - step
    red, green, blue = (round(a + rest * (b - a)) for a, b in zip(SCALE[step], SCALE[step + 1], strict=True))
    return f"rgb({red},{green},{blue})"


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """About five round numbers from at or below `low` to at or above `high`; with `whole` at least 1 apart."""
    if high <= low:
        return [low]
    rough = (high - low) / 5
    if whole:
        rough = max(rough, 1.0)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, last + 1)]


def number(value: float) -> str:
    """Four significant digits at most, thousands whole."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _text(x: float, y: float, words: str, anchor: str, colour: str = "") -> str:
    style = f' style="fill:{colour}"' if colour else ""  # else the page's own
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(words)}</text>'


def _figure(title: str, width: int, height: int, parts: Sequence[str], names: Sequence[str]) -> str:
    legend = "".join(
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>'
        for name, colour in zip(names, _colours(len(names)), strict=True)
    )
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
        f'<div class="legend">{legend}</div></figure>'
    )
