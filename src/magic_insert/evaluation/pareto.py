"""Subject fidelity against style fidelity: which methods no other method beats on both axes.

Floors and ceilings stand in grey: they show how much of each axis is free. Bars are the 95 % intervals of the tables.
"""

import io
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from magic_insert.evaluation.columns import Column, axes_of
from magic_insert.evaluation.intervals import Estimate
from magic_insert.evaluation.tables import Table

INKS = {
    "light": ("#1d2430", "#687385", "#dfe3ea", "#ffffff"),
    "dark": ("#e8ebf0", "#98a2b3", "#323a47", "#1c222b"),
}
HUES = (
    "#2f6fde",
    "#e07b00",
    "#0b8f63",
    "#c2377a",
    "#8a5bd6",
    "#b8860b",
    "#0d9aa8",
    "#d0463b",
    "#6b7f2a",
    "#7a6a5b",
)
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p", "h", "*")
GREYS = {"floor": "v", "ceiling": "^"}


def frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names of those points that no other point beats on one axis without losing on the other, by rising x."""
    leading = [
        name
        for name, (x, y) in points.items()
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points.values())
    ]
    return sorted(leading, key=lambda name: points[name])


def drawable(tables: Sequence[Table]) -> list[tuple[Table, Column, Column]]:
    """The tables that have both axes and a line with both values."""
    found = [(table, axes_of(table.track, table.columns)) for table in tables]
    return [
        (table, *axes)
        for table, axes in found
        if axes
        and any(axes[0].key in line.estimates and axes[1].key in line.estimates for line in table.lines)
    ]


def pareto_png(tables: Sequence[Table], theme: str = "light") -> bytes | None:
    """One panel a track as the bytes of a PNG; `theme` is light or dark. None if no table has both axes."""
    panels = drawable(tables)
    if not panels:
        return None
    ink, soft, line, page = INKS[theme]
    figure = Figure(figsize=(9.6, 4.6 * len(panels)), dpi=130, facecolor=page, layout="constrained")
    for number, (table, across, up) in enumerate(panels, start=1):
        axes = figure.add_subplot(len(panels), 1, number, facecolor=page)
        draw_panel(axes, table, across, up, (ink, soft))
        axes.grid(color=line, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=soft, labelsize=9)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(line)
    buffer = io.BytesIO()
    # Without the note on the software, equal numbers give equal bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def draw_panel(axes: Axes, table: Table, across: Column, up: Column, inks: tuple[str, str]) -> None:
    """One track on `axes`: methods in colour, floors and ceilings in grey, the frontier; no printed rows."""
    ink, soft = inks
    methods: dict[str, tuple[float, float]] = {}
    for found in table.lines:
        x, y = found.estimates.get(across.key), found.estimates.get(up.key)
        if (
            x is None or y is None or found.kind == "printed"
        ):  # what is not comparable has no place on the axes
            continue
        colour, marker, label = soft, GREYS.get(found.kind, "o"), None
        if found.kind == "method":
            colour, marker = HUES[len(methods) % len(HUES)], MARKERS[len(methods) % len(MARKERS)]
            methods[found.method], label = (x.mean, y.mean), found.method
        else:  # grey marks look alike, so they carry their names
            name = found.method.split(":")[-1]
            axes.annotate(name, (x.mean, y.mean), (6, 5), textcoords="offset points", color=soft, fontsize=8)
        axes.errorbar(
            x.mean, y.mean, xerr=_bars(x), yerr=_bars(y), fmt=marker, color=colour, label=label,
            markersize=8 if found.kind == "method" else 6, elinewidth=1, capsize=0, zorder=3,
            alpha=1 if found.kind == "method" else 0.8,
        )  # fmt: skip
    leading = [methods[name] for name in frontier(methods)]
    axes.plot(
        *zip(*leading, strict=True), color=soft, linewidth=1.2, linestyle="--", zorder=2, label="frontier"
    )
    axes.set_xlabel(across.heading, color=ink)
    axes.set_ylabel(up.heading, color=ink)
    axes.set_title(f"{table.track} · {table.label.split(' (')[0]}", color=ink, fontsize=11, loc="left")
    legend = axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9, borderaxespad=0.0
    )
    for text in legend.get_texts():
        text.set_color(ink)


def _bars(estimate: Estimate) -> list[list[float]] | None:
    if estimate.low is None or estimate.high is None:
        return None
    return [[estimate.mean - estimate.low], [estimate.high - estimate.mean]]
