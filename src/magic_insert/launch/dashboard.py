"""One page about a run or a sweep, made from its own files: curves, acceptance, heat map, table, contact sheets.

The page needs no other file and no network. A bootstrap's rounds come from `rounds.jsonl`, any other job's curves from
`metrics.jsonl`, a sweep's jobs from `sweep.json`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from magic_insert.config.schema import DashboardConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, read_jsonl, write_text
from magic_insert.launch.dashboard_page import page, section, sheet, table
from magic_insert.launch.results import ROUNDS, flat_numbers, read_rounds
from magic_insert.launch.run_folder import RECORD
from magic_insert.launch.svg import Curve, bar_chart, heat_chart, line_chart
from magic_insert.launch.sweep_table import Sweep, columns_of, grid, read_sweep
from magic_insert.tracking import METRICS

GROUPS = ("photo", "seen", "unseen")
NETWORKS = ("inserter", "remover")
MEASURES = {
    "effect_psnr": "effect-region PSNR, dB",
    "layered_psnr": "effect-region PSNR of the finished picture, dB",
    "shadow_iou": "shadow IoU",
    "lpips": "LPIPS, less is better",
}
SHARES = ("precision", "recall", "base_rate")
Row = Mapping[str, Any]


def write_dashboard(cfg: DashboardConfig) -> Path:
    """Writes the page that `cfg` asks for to `cfg.out`.

    Raises:
        UserError: the folder holds neither rounds nor measurements nor a sweep, or a file of these is damaged or empty.
    """
    text = run_page(Path(cfg.run)) if cfg.run is not None else sweep_page(Path(str(cfg.sweep_dir)))
    write_text(cfg.out, text)
    return Path(cfg.out)


def run_page(folder: Path) -> str:
    """The page of one run."""
    facts = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    lead = ", ".join(str(facts[name]) for name in ("job", "state", "started", "host") if facts.get(name))
    if (folder / ROUNDS).is_file():
        parts = round_sections(read_rounds(folder / ROUNDS), folder)
        return page(folder.name, lead, [*parts, *fit_sections(folder)])
    if (folder / METRICS).is_file():
        charts = metric_charts(read_jsonl(folder / METRICS))
        return page(folder.name, lead, [section("Measurements", charts)])
    raise UserError(
        f"expected {ROUNDS} or {METRICS} in {folder}, got neither; set run=FOLDER to a run that has measured"
    )


def round_sections(rows: Sequence[Row], folder: Path) -> list[str]:
    """A bootstrap: quality over rounds against the truth, what the filter did, and what it kept and refused."""
    quality = [
        line_chart(f"{network}: {label}", "round", curves)
        for network in NETWORKS
        for measure, label in MEASURES.items()
        if (curves := [group_curve(rows, network, group, measure) for group in GROUPS])
    ]
    last = rows[-1]
    judged = [curve_of(rows, f"filter.{name}", name) for name in SHARES]
    counts = [curve_of(rows[1:], name, name) for name in ("accepted", "rejected")]
    selection = [
        bar_chart(f"acceptance by style, round {row['round']}", sorted(row["acceptance"].items()), 1.0)
        for row in rows
    ]
    refused = sorted(last["rejected_by"].items(), key=lambda item: -item[1])
    selection.append(bar_chart("rejected by, last round", refused, max([n for _, n in refused], default=1)))
    selection.append(line_chart("harvested pictures", "round", counts))
    selection.append(line_chart("filter against the truth", "round", judged))
    sheets = [
        sheet(path)
        for row in rows
        for kind in ("accepted", "rejected")
        if (path := folder / "sheets" / f"round-{row['round']}-{kind}.png").is_file()
    ]
    return [
        section("Quality by round", quality),
        section("Selection", selection),
        section("Pictures", sheets),
    ]


def fit_sections(folder: Path) -> list[str]:
    """The losses of the fits that this bootstrap made itself, where there are any."""
    rows = read_jsonl(folder / METRICS) if (folder / METRICS).is_file() else []
    fits = [row for row in rows if row["stage"].startswith("fit-")]
    return [section("Training", metric_charts(fits))] if fits else []


def group_curve(rows: Sequence[Row], network: str, group: str, measure: str) -> Curve:
    """One network's measure in one group of styles, with its interval where there is one."""
    band = [
        (row["round"], *interval)
        for row in rows
        if (interval := row["intervals"].get(network, {}).get(group, {}).get(measure)) is not None
    ]
    return Curve(group, curve_of(rows, f"metrics.{network}.{group}.{measure}", group).points, band)


def curve_of(rows: Sequence[Row], key: str, name: str) -> Curve:
    """The number at the dotted `key` of each round that has it."""
    numbers = [(row["round"], flat_numbers(row)) for row in rows]
    return Curve(name, [(number, found[key]) for number, found in numbers if key in found])


def metric_charts(rows: Sequence[Row]) -> list[str]:
    """One chart per measured number, with a curve per stage."""
    numbers = [
        (row, flat_numbers({k: v for k, v in row.items() if k not in ("stage", "step")})) for row in rows
    ]
    names = dict.fromkeys(name for _, found in numbers for name in found)
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    charts = []
    for name in names:
        curves = []
        for stage in stages:
            # A resumed run repeats steps: the last word counts.
            points = {
                row["step"]: found[name] for row, found in numbers if row["stage"] == stage and name in found
            }
            curves.append(Curve(stage, sorted(points.items())))
        charts.append(line_chart(name, "step", curves))
    return charts


def sweep_page(folder: Path) -> str:
    """The page of a sweep: heat map, curves of all its jobs, table, failures, and the pictures of the best job."""
    sweep = read_sweep(folder)
    best = sweep.best
    failed = sum(row.state == "failed" for row in sweep.outcomes)
    told = f"{len(sweep.outcomes)} jobs of {sweep.job} over {', '.join(sweep.keys)}; {failed} failed"
    if best is not None:
        told += f"; best: {best.name} ({best.value:.4g})"
    found = grid(sweep)
    title = sweep.metric or "value"
    overview = [heat_chart(title, found)] if found is not None else []
    overview += sweep_curves(sweep)
    parts = [section("Results", overview), section("Jobs", [table(*sweep_table(sweep))])]
    if best is not None and (Path(best.out) / ROUNDS).is_file():
        parts += round_sections(read_rounds(Path(best.out) / ROUNDS), Path(best.out))
    return page(f"sweep {folder.name}", told, parts)


def sweep_curves(sweep: Sweep) -> list[str]:
    """For bootstraps: the inserter's effect-region PSNR by round, a curve per job."""
    rounds = {
        row.name: read_jsonl(path)
        for row in sweep.outcomes
        if row.state == "done" and (path := Path(row.out) / ROUNDS).is_file()
    }
    return [
        line_chart(
            f"inserter, {group}: effect-region PSNR, dB",
            "round",
            [
                Curve(name, group_curve(rows, "inserter", group, "effect_psnr").points)
                for name, rows in rounds.items()
            ],
        )
        for group in GROUPS
        if rounds
    ]


def sweep_table(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of jobs."""
    numbers = columns_of(sweep)
    head = [
        *sweep.keys,
        "state",
        sweep.metric or "value",
        *(name.removeprefix("metrics.") for name in numbers),
    ]
    rows = []
    for row in sweep.outcomes:
        values = [row.value, *(row.numbers.get(name) for name in numbers)]
        state = row.state if row.state == "done" else f"failed: {row.error} ({row.log})"
        rows.append(
            [
                *(row.settings.get(key, "") for key in sweep.keys),
                state,
                *("" if value is None else f"{value:.4g}" for value in values),
            ]
        )
    return head, rows
