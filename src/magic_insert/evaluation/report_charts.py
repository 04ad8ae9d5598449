"""The charts of a report: subject fidelity against style fidelity, and how well each metric follows the truth.

Bars are the 95 % intervals of the tables. Floors and ceilings stand in grey: they show how much of each axis is free.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from magic_insert.evaluation.diagnosis import Trust
from magic_insert.evaluation.rows import Column, axes_of
from magic_insert.evaluation.statistics import Estimate
from magic_insert.evaluation.tables import Table
from magic_insert.pages.charts import HUES, MARKERS, Chart, Ink, chart

GREYS = {"floor": "v", "ceiling": "^"}


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
        for number, (table, across, up) in enumerate(panels, start=1):
            axes = figure.add_subplot(len(panels), 1, number, xlabel=across.heading, ylabel=up.heading)
            axes.set_title(f"{table.track} · {table.label.split(' (')[0]}")
            _draw_methods(axes, table, across, up, ink)

    words = "subject fidelity against style fidelity"
    return chart(words, (8.4, 4.2 * len(panels)), draw) if panels else None


def _draw_methods(axes: Axes, table: Table, across: Column, up: Column, ink: Ink) -> None:
    """One track: methods in colour, floors and ceilings in grey, the frontier; printed rows do not compare."""
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


def trust_chart(found: Sequence[Trust]) -> Chart | None:
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


def _bars(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Distances from the means to the ends of their intervals; zero where there is no interval."""
    return [
        [0.0 if e.low is None else e.mean - e.low for e in estimates],
        [0.0 if e.high is None else e.high - e.mean for e in estimates],
    ]
