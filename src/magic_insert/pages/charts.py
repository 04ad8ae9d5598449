"""Charts by matplotlib's object API, each drawn for light and for dark pages. Equal numbers give equal bytes."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Distinguishable with any colour vision (Okabe and Ito 2008); the last ones only where there are many curves.
HUES = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#8a5bd6",
    "#7a6a5b",
    "#6b7f2a",
    "#d0463b",
)
LONGEST_LABEL = 56
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p", "h", "*")


@dataclass(frozen=True)
class Ink:
    """The colours of a theme: text, quieter text, lines, and the ground behind them."""

    text: str
    soft: str
    line: str
    page: str


LIGHT, DARK = Ink("#1d2430", "#5f6b7c", "#dfe3ea", "#ffffff"), Ink("#e8ebf0", "#98a2b3", "#323a47", "#1c222b")


@dataclass(frozen=True)
class Chart:
    """A chart as the bytes of two PNGs; `words` describe it to those who do not see it."""

    words: str
    light: bytes
    dark: bytes


@dataclass(frozen=True)
class Curve:
    """Points (x, y), and if known an interval around each: (x, low, high)."""

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = field(default_factory=tuple)


def chart(words: str, size: tuple[float, float], draw: Callable[[Figure, Ink], None]) -> Chart:
    """What `draw` puts on an empty figure of `size` in inches, once in each theme."""
    drawn = []
    for ink in (LIGHT, DARK):
        with matplotlib.rc_context(_settings(ink)):
            figure = Figure(figsize=size, dpi=120, layout="constrained")
            draw(figure, ink)
            drawn.append(png_of(figure))
    return Chart(words, *drawn)


def png_of(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    # Drawn once, where savefig draws twice; without the note on the software, equal numbers give equal bytes.
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _settings(ink: Ink) -> dict[str, Any]:
    """matplotlib's settings for a theme."""
    return {
        "figure.facecolor": ink.page, "axes.facecolor": ink.page, "axes.edgecolor": ink.line,
        "text.color": ink.text, "axes.labelcolor": ink.text, "xtick.color": ink.soft, "ytick.color": ink.soft,
        "grid.color": ink.line, "axes.grid": True, "axes.axisbelow": True, "legend.frameon": False,
        "axes.spines.top": False, "axes.spines.right": False, "axes.prop_cycle": cycler(color=HUES),
        "axes.titlelocation": "left", "axes.titlesize": 10, "font.size": 9, "legend.fontsize": 8,
    }  # fmt: skip


def line_chart(title: str, x_label: str, curves: Sequence[Curve]) -> Chart | None:
    """Curves over a common x, intervals as bands; None where no curve has a point."""
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return None

    def draw(figure: Figure, ink: Ink) -> None:
        axes = figure.add_subplot(title=title, xlabel=x_label)
        for number, curve in enumerate(curves):
            few = len(curve.points) <= 40
            (drawn,) = axes.plot(
                *zip(*curve.points, strict=True), marker="o" if few else "", markersize=4, label=curve.name
            )
            if number >= len(HUES):
                drawn.set_linestyle("--")
            if len(curve.band) > 1:
                xs, low, high = zip(*curve.band, strict=True)
                axes.fill_between(xs, low, high, color=drawn.get_color(), alpha=0.16, linewidth=0)
        if all(float(x).is_integer() for curve in curves for x, _ in curve.points):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles, labels = axes.get_legend_handles_labels()
        short = [
            label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…" for label in labels
        ]
        figure.legend(handles, short, loc="outside lower left", ncols=columns)

    columns = max(1, min(3, round(60 / (8 + max(len(curve.name) for curve in curves)))))
    words = f"{title} ({', '.join(curve.name for curve in curves)})"
    return chart(words, (4.6, 3.0 + 0.16 * -(-len(curves) // columns)), draw)


def bar_chart(title: str, bars: Sequence[tuple[str, float]], largest: float) -> Chart | None:
    """Horizontal bars from 0 to `largest`, each with its label and number; None without bars."""
    if not bars:
        return None

    def draw(figure: Figure, ink: Ink) -> None:
        axes = figure.add_subplot(title=title)
        drawn = axes.barh([name for name, _ in bars], [value for _, value in bars])
        axes.bar_label(drawn, [f"{value:.4g}" for _, value in bars], padding=4, color=ink.text, fontsize=8)
        axes.set_xlim(0, 1.12 * (largest or 1))
        axes.invert_yaxis()
        axes.grid(visible=False)

    return chart(title, (4.6, 0.7 + 0.24 * len(bars)), draw)


def heat_map(title: str, grid: pd.DataFrame) -> Chart:
    """A cell for every pair of values, coloured by its number, which stands in it; a cell without one is empty."""
    values = grid.to_numpy(float)
    middle = float(np.nanmean([np.nanmin(values), np.nanmax(values)]))

    def draw(figure: Figure, ink: Ink) -> None:
        axes = figure.add_subplot(title=title, xlabel=grid.columns.name, ylabel=grid.index.name)
        axes.grid(visible=False)
        image = axes.imshow(values, cmap="viridis", aspect="auto")
        axes.set_xticks(range(len(grid.columns)), grid.columns)
        axes.set_yticks(range(len(grid.index)), grid.index)
        for (row, column), cell in np.ndenumerate(values):
            if not np.isnan(cell):
                colour = "white" if cell <= middle else "black"
                axes.text(column, row, f"{cell:.4g}", ha="center", va="center", color=colour)
        figure.colorbar(image)

    wide = 1.8 + 0.08 * max(map(len, grid.index)) + 0.9 * len(grid.columns)
    return chart(title, (max(4.6, wide), 1.4 + 0.5 * len(grid.index)), draw)
