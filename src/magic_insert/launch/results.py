"""What runs measured: the numbers of one run by dotted name, the results of a sweep as files, and the page about both.

A sweep leaves `sweep.json` for programs, from its first job on, and at its end `sweep.md`, `sweep.csv` and
`heatmap.png` for people. The page is made from a run's or a sweep's own files, also while it runs, and needs no other
file and no network: a bootstrap's rounds come from `rounds.jsonl`, any other job's curves from `metrics.jsonl` and its
samples from `samples/`. Those who are logged in to W&B may have a saved view of the same curves there instead.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from magic_insert.config.schema.jobs import DashboardConfig
from magic_insert.core.errors import UserError, needing
from magic_insert.core.jsonl import read_jsonl, read_object, read_record, write_bytes, write_json, write_text
from magic_insert.core.tables import csv_table, markdown_table
from magic_insert.launch.run import RECORD, RunRecord
from magic_insert.pages import render, spread
from magic_insert.pages.charts import Chart, Curve, bar_chart, heat_map, line_chart
from magic_insert.tracking import METRICS

ROUNDS, RESULT, CARD, SWEEP_FILE = "rounds.jsonl", "result.json", "card.json", "sweep.json"
# Of the many numbers of a bootstrap's round, those that a table of runs shows.
SHOWN_OF_ROUNDS = (
    "round",
    *(f"metrics.inserter.{group}.effect_psnr" for group in ("photo", "seen", "unseen")),
    "accepted",
    "rejected",
    "filter.precision",
    "filter.recall",
)


@dataclass(frozen=True)
class Outcome:
    """One job of a sweep: `value` is what ranks it, `numbers` everything it measured, `error` why it failed."""

    name: str
    settings: dict[str, str]
    state: Literal["waiting", "running", "done", "failed"]
    value: float | None
    numbers: dict[str, float]
    out: str
    log: str
    seconds: float
    error: str

    @property
    def shown(self) -> dict[str, float]:
        """Those of its numbers that a table of runs has columns for."""
        rounds = {name: self.numbers[name] for name in SHOWN_OF_ROUNDS if name in self.numbers}
        return rounds or self.numbers

    @property
    def verdict(self) -> str:
        """Its state in a table: a failed job with its reason."""
        return f"failed: {self.error}" if self.state == "failed" else self.state


@dataclass(frozen=True)
class Sweep:
    """All jobs of a sweep over `keys`; `metric` (null: what jobs return) is best at its `direction`."""

    job: str
    keys: list[str]
    metric: str | None
    direction: Literal["max", "min"]
    jobs: list[Outcome]

    @property
    def best(self) -> Outcome | None:
        """The job of the best value, the first of equals; none where nothing was measured."""
        measured = [(row.value, row) for row in self.jobs if row.value is not None]
        sign = 1 if self.direction == "max" else -1
        return max(measured, key=lambda pair: sign * pair[0])[1] if measured else None

    def rows(self, *, links: bool = True) -> list[dict[str, str]]:
        """A table of its jobs; `links` says where each one lies."""
        columns = list(dict.fromkeys(name for row in self.jobs for name in row.shown))
        return [
            {
                **{key: row.settings.get(key, "") for key in self.keys},
                "state": row.verdict,
                self.metric or "value": _number(row.value),
                **{name.removeprefix("metrics."): _number(row.numbers.get(name)) for name in columns},
                "seconds": f"{row.seconds:.0f}",
                **({"where": row.log if row.state == "failed" else row.out} if links else {}),
            }
            for row in self.jobs
        ]

    def grid(self) -> pd.DataFrame | None:
        """The values over the first two swept keys, the mean over any other; None for fewer keys or no value."""
        if len(self.keys) < 2 or self.best is None:
            return None
        keys = self.keys[:2]
        jobs = [job for job in self.jobs if set(keys) <= set(job.settings)]
        frame = pd.DataFrame([{key: job.settings[key] for key in keys} for job in jobs])
        values = pd.Series([job.value for job in jobs], dtype=float)
        means = values.groupby([frame[key] for key in keys]).mean().unstack()
        rows, columns = (pd.Index(frame[key].unique(), name=key) for key in keys)
        return means.reindex(index=rows, columns=columns)


def write_sweep(folder: Path, sweep: Sweep) -> str:
    """Writes the four files; returns what to tell the user: the page to make, where the table is, and the best job."""
    write_json(folder / SWEEP_FILE, asdict(sweep))
    best = sweep.best
    rows = sweep.rows()
    if best is not None:
        place = sweep.jobs.index(best)
        key = sweep.metric or "value"
        rows[place] = {**rows[place], key: f"**{rows[place][key]}**"}
    write_text(
        folder / "sweep.md",
        f"# {sweep.job}: {', '.join(sweep.keys)}\n\n{markdown_table(rows, num_text=len(sweep.keys) + 1)}\n",
    )
    exact = [
        {**row.settings, "state": row.state, "value": row.value, **row.numbers, "seconds": row.seconds,
         "out": row.out, "log": row.log, "error": row.error}
        for row in sweep.jobs
    ]  # fmt: skip
    write_text(
        folder / "sweep.csv", csv_table(exact, list(dict.fromkeys(name for row in exact for name in row)))
    )
    if (grid := sweep.grid()) is not None:
        write_bytes(folder / "heatmap.png", heat_map(sweep.metric or "value", grid).light)
    told = f"table: {folder / 'sweep.md'}"
    return f"{told}; best: {best.name} ({best.value:.4g}) in {best.out}" if best else told


def read_sweep(folder: Path) -> Sweep:
    """The sweep whose files are in `folder`; a job that was left running when the sweep ended is shown as it is now.

    Raises:
        UserError: there is none, or its file is damaged.
    """
    sweep = read_record(folder / SWEEP_FILE, Sweep)
    for place, row in enumerate(sweep.jobs):
        record = Path(row.out) / RECORD
        if row.state == "running" and record.is_file():
            # What it has measured so far, or as failed where its process is gone.
            state: Any = read_record(record, RunRecord).state_now
            gone = {"state": "failed", "error": f"{state} before the sweep ended"}
            now = {"state": state} if state in ("running", "done") else gone
            sweep.jobs[place] = replace(row, numbers=read_numbers(Path(row.out)), **now)
    return sweep


def read_numbers(folder: Path) -> dict[str, float]:
    """Every number that the run in `folder` ended with, by dotted name.

    Its `result.json` where it wrote one; else the round that a bootstrap kept, or its last without a card; else
    the last row of each stage's log.
    """
    if (folder / RESULT).is_file():
        return flat_numbers(read_object(folder / RESULT))
    if (folder / ROUNDS).is_file():
        rows = read_jsonl(folder / ROUNDS)
        # What the run returns and publishes is the kept round's, and numbers of two rounds make no row.
        kept = read_object(folder / CARD).get("round", -1) if (folder / CARD).is_file() else -1
        return flat_numbers(rows[kept if kept < len(rows) else -1]) if rows else {}
    rows = read_jsonl(folder / METRICS, begun=False)
    stages = {row.get("stage") for row in rows}
    found: dict[str, float] = {}
    for row in rows:
        prefix = "" if len(stages) == 1 else f"{row.get('stage')}."
        numbers = {name: value for name, value in row.items() if name not in ("stage", "step")}
        found |= {prefix + name: value for name, value in flat_numbers(numbers).items()}
    return found


def read_rounds(path: Path) -> list[dict[str, Any]]:
    """The rows of a bootstrap's `rounds.jsonl`, at least one.

    Raises:
        UserError: the file is missing, damaged or empty.
    """
    if not (rows := read_jsonl(path)):
        raise UserError(
            f"expected rounds in {path}, got an empty file; run the bootstrap again, or delete the file"
        )
    return rows


def flat_numbers(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers of nested mappings, by dotted name; anything else is left out."""
    found: dict[str, float] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat_numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[prefix + name] = float(value)
    return found


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


GROUPS = ("photo", "seen", "unseen")
NETWORKS = ("inserter", "remover")
MEASURES = {
    "effect_psnr": "effect-region PSNR, dB",
    "layered_psnr": "effect-region PSNR of the finished picture, dB",
    "shadow_iou": "shadow IoU",
    "lpips": "LPIPS, less is better",
}
KINDS = ("accepted", "rejected")
SHARES = ("precision", "recall", "base_rate")
SCORES = "validation.jsonl"  # the scores of each sheet of samples
MOST_SAMPLES = 12
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Sheet:
    """A PNG of the run with its caption and, where it was judged, its scores."""

    picture: bytes
    caption: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A heading with its charts, sheets or table; left out where there is nothing to show."""

    title: str
    charts: Sequence[Chart | None] = ()
    sheets: Sequence[Sheet] = ()
    table: Sequence[Mapping[str, str]] = field(default_factory=list)


def write_dashboard(cfg: DashboardConfig) -> Path:
    """Writes the page that `cfg` asks for to `cfg.out`.

    Raises:
        UserError: the folder holds neither rounds nor measurements nor a sweep, or a file of these is damaged or empty.
    """
    page = run_page(Path(cfg.run)) if cfg.run is not None else sweep_page(Path(str(cfg.sweep_dir)))
    write_text(cfg.out, page)
    return Path(cfg.out)


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page of those `sections` that have anything to show."""
    drawn = [replace(s, charts=[chart for chart in s.charts if chart is not None]) for s in sections]
    return render(
        "dashboard", title=title, lead=lead, sections=[s for s in drawn if s.charts or s.sheets or s.table]
    )


def run_page(folder: Path) -> str:
    """The page of one run."""
    facts = read_object(folder / RECORD) if (folder / RECORD).is_file() else {}
    lead = ", ".join(str(facts[name]) for name in ("job", "state", "started", "host") if facts.get(name))
    sections = run_sections(folder)
    if not sections:
        raise UserError(
            f"expected {ROUNDS} or {METRICS} in {folder}, got neither; set run=FOLDER to a run that has measured"
        )
    return page(folder.name, lead, sections)


def run_sections(folder: Path) -> list[Section]:
    """What a run has to show so far; nothing where it measured nothing."""
    rows = read_jsonl(folder / METRICS, begun=False)
    if not (folder / ROUNDS).is_file():
        return (
            [Section("Measurements", metric_charts(rows)), Section("Samples", sheets=samples(folder))]
            if rows
            else []
        )
    fits = metric_charts([row for row in rows if str(row.get("stage", "")).startswith("fit-")])
    return [*round_sections(read_rounds(folder / ROUNDS), folder), Section("Training", fits)]


def round_sections(rows: Sequence[Row], folder: Path) -> list[Section]:
    """A bootstrap: quality over rounds against the truth, what the filter did, and what it kept and refused."""
    quality = [
        line_chart(
            f"{network}: {label}", "round", [group_curve(rows, network, group, measure) for group in GROUPS]
        )
        for network in NETWORKS
        for measure, label in MEASURES.items()
    ]
    refused = sorted(rows[-1]["rejected_by"].items(), key=lambda item: -item[1])
    selection = [
        *(
            bar_chart(f"acceptance by style, round {row['round']}", sorted(row["acceptance"].items()), 1.0)
            for row in rows
        ),
        bar_chart("rejected by, last round", refused, max((n for _, n in refused), default=1)),
        line_chart(
            "harvested pictures",
            "round",
            [curve_of(rows[1:], name, name) for name in ("accepted", "rejected")],
        ),
        line_chart(
            "filter against the truth", "round", [curve_of(rows, f"filter.{name}", name) for name in SHARES]
        ),
    ]
    paths = [folder / "sheets" / f"round-{row['round']}-{kind}.png" for row in rows for kind in KINDS]
    sheets = [Sheet(path.read_bytes(), path.stem.replace("-", " ")) for path in paths if path.is_file()]
    return [
        Section("Quality by round", quality),
        Section("Selection", selection),
        Section("Pictures", sheets=sheets),
    ]


def group_curve(rows: Sequence[Row], network: str, group: str, measure: str) -> Curve:
    """One network's measure in one group of styles, with its interval where there is one."""
    band = [
        (row["round"], *interval)
        for row in rows
        if (interval := row["intervals"].get(network, {}).get(group, {}).get(measure)) is not None
    ]
    return replace(curve_of(rows, f"metrics.{network}.{group}.{measure}", group), band=band)


def curve_of(rows: Sequence[Row], key: str, name: str) -> Curve:
    """The number at the dotted `key` of each round that has it."""
    numbers = [(row["round"], flat_numbers(row)) for row in rows]
    return Curve(name, [(number, found[key]) for number, found in numbers if key in found])


def metric_charts(rows: Sequence[Row]) -> list[Chart | None]:
    """One chart per measured number, with a curve per stage; of a step that a resumed run repeated, the last row."""
    points: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        numbers = flat_numbers({key: value for key, value in row.items() if key not in ("stage", "step")})
        for name, value in numbers.items():
            points.setdefault(name, {}).setdefault(str(row.get("stage")), {})[row.get("step", 0)] = value
    return [
        line_chart(name, "step", [Curve(stage, sorted(found.items())) for stage, found in stages.items()])
        for name, stages in points.items()
    ]


def samples(folder: Path) -> list[Sheet]:
    """The sheets of samples that a run drew on its way, evenly spread up to the last, each with its own scores."""
    scores = {row.get("step"): row for row in read_jsonl(folder / SCORES, begun=False)}
    found = []
    for path in spread(sorted((folder / "samples").glob("step-*.png")), MOST_SAMPLES):
        step = int(path.stem.removeprefix("step-"))
        numbers = flat_numbers(scores.get(step, {})).items()
        note = ", ".join(f"{name} {value:.3f}" for name, value in numbers if name != "step")
        found.append(Sheet(path.read_bytes(), f"step {step}", note))
    return found


def sweep_page(folder: Path) -> str:
    """The page of a sweep: heat map, curves of all its jobs, table, failures, and what the best job has to show."""
    sweep = read_sweep(folder)
    best = sweep.best
    states = [row.state for row in sweep.jobs]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    lead = f"{len(sweep.jobs)} jobs of {sweep.job} over {', '.join(sweep.keys)}: {counted}"
    if best is not None:
        lead += f"; best: {best.name} ({best.value:.4g})"
    grid = sweep.grid()
    overview = [None if grid is None else heat_map(sweep.metric or "value", grid)]
    # For bootstraps: the inserter's effect-region PSNR by round, a curve per job.
    rounds = {row.name: read_jsonl(path) for row in sweep.jobs if (path := Path(row.out) / ROUNDS).is_file()}
    for group in GROUPS:
        key = f"metrics.inserter.{group}.effect_psnr"
        curves = [curve_of(rows, key, name) for name, rows in rounds.items()]
        overview.append(line_chart(f"inserter, {group}: effect-region PSNR, dB", "round", curves))
    sections = [Section("Results", overview), Section("Jobs", table=sweep.rows(links=False))]
    if best is not None:
        sections += [replace(s, title=f"Best job: {s.title}") for s in run_sections(Path(best.out))]
    return page(f"sweep {folder.name}", lead, sections)


def save_view(cfg: DashboardConfig) -> str:
    """Builds the view of the group of runs that `cfg.run` or `cfg.sweep_dir` names in W&B, and returns its address.

    Raises:
        UserError: wandb-workspaces is not installed.
    """
    with needing("wandb-workspaces", "a saved view (logger=jsonl makes a page of your own)", "workspaces"):
        import wandb_workspaces.workspaces  # noqa: F401
    import wandb

    return str(build_view(cfg, wandb.Api().default_entity).save().url)


def build_view(cfg: DashboardConfig, entity: str) -> Any:
    """The unsaved view: quality of both networks by round, acceptance by style, the losses of the fits."""
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces

    folder = Path(str(cfg.run or cfg.sweep_dir))
    panels = [
        reports.LinePlot(
            title=f"{network}: effect-region PSNR",
            x="bootstrap/step",
            y=[f"bootstrap/{network}/{group}/effect_psnr" for group in GROUPS],
        )
        for network in NETWORKS
    ]
    # The package turns `metric_regex` into W&B's pair metricRegex, useMetricRegex.
    panels.append(
        reports.LinePlot(title="acceptance", x="bootstrap/step", metric_regex="bootstrap/acceptance/.*")
    )
    panels.append(reports.LinePlot(title="loss", x="Step", metric_regex=".*/loss"))
    return workspaces.Workspace(
        entity=entity,
        project=cfg.logger.project,
        name=folder.name,
        sections=[workspaces.Section(name="magic-insert", panels=panels, is_open=True)],
        runset_settings=workspaces.RunsetSettings(
            filters=[workspaces.Metric("Group").isin([folder.name, f"bootstrap {folder.name}"])]
        ),
    )
