"""The loop: harvest with the last round's model, keep what passes the filter, train, and measure whether it helped.

    pool -> harvest -> measure -> select -> fit -> blend -> evaluate        photos, heldout: once per seed

The plan says what each stage is made from: settings and inputs that are part of its key, and nothing else, so runs that
share them share the stage. Asking for a stage finds it in the store or has it made, in a process group of its own, as
`exec` says; so the same command after a kill goes on. Round 0 is the base. Writes `rounds.jsonl` (whole, after every
round), contact sheets, and at the end inserter and remover of the best round in diffusers' layout, with a card that
says how they came to be.
"""

import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from magic_insert import __version__
from magic_insert.bootstrap import filters, measure, stages
from magic_insert.bootstrap.measure import GROUPS, Row, best_round, conclusion, improves, seen
from magic_insert.bootstrap.rounds import open_round, write_sheets
from magic_insert.config.freeze import thaw
from magic_insert.config.schema.jobs import BootstrapConfig
from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_jsonl, read_object, whole_folder, write_bytes, write_json, write_text
from magic_insert.core.rand import fold_in
from magic_insert.core.ranks import world_size
from magic_insert.core.store import WORK, Entry, Request, Store
from magic_insert.launch.executor import execute
from magic_insert.models.folders import NETWORK_FILES, require_network, weights_in
from magic_insert.paths import micro_dir
from magic_insert.tracking import Tracker, open_tracker

Networks = Mapping[str, "Source"]  # by name: inserter and remover
Execute = Callable[[str, Path], None]  # runs the function it names with a payload
OnLosses = Callable[[str, list[dict[str, float]]], None]
ROUNDS, CARD = "rounds.jsonl", "card.json"
HERE = "magic_insert.bootstrap."
# kind -> the function that makes it, and a version that is raised when its results change
STAGES = {
    "render": (HERE + "pool:render", 1),
    "folder": (HERE + "pool:take_in", 2),
    "imagine": (HERE + "pool:run_imagine", 1),
    "harvest": (HERE + "networks:run_harvest", 1),
    "measure": (HERE + "networks:run_measure", 2),
    "fit": (HERE + "networks:run_fit", 2),
    "blend": (HERE + "networks:run_blend", 1),
    "evaluate": (HERE + "networks:run_evaluate", 2),
}
SELECT_VERSION = 1
DRAWN_WITH = ("harvest", "measure", "fit", "evaluate")  # stages that need the model
TOYBOX = "toybox"
PIXELS = 8  # to a side of a latent cell
# Of a recipe: in the inputs, or without effect.
UNKEYED = ("num_photos", "photos", "save_every", "blend", "gradient_checkpointing")
LENT = ("model_index.json", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")


def run_bootstrap(cfg: BootstrapConfig) -> float:
    """Runs `cfg`; the last line on standard output says what changed. Returns what a sweep maximises: the kept round's
    effect-region PSNR of the inserter on seen styles, in decibel; NaN where nothing is held out.

    Raises:
        UserError: several processes were started to run it; the plan belongs to one.
    """
    if world_size() > 1:
        raise UserError(
            f"expected one process for the plan of a bootstrap, got WORLD_SIZE={world_size()}; start it once, without "
            "torchrun or srun, and set exec=torchrun or exec=slurm with exec.devices=N: it starts each stage's ranks"
        )

    def announce(line: str) -> None:
        print(line, file=sys.stderr if ": reused" in line else sys.stdout, flush=True)

    with open_tracker(Path(cfg.out), "bootstrap", cfg.logger, thaw(cfg)) as tracker:
        rows = run_plan(
            cfg,
            lambda target, payload: execute(target, payload, cfg.exec),
            announce=announce,
            on_round=lambda row: log_round(tracker, cfg, row),
            on_losses=lambda name, rows: log_losses(tracker.part(name), rows),
        )
    best = rows[best_round(rows, cfg.bootstrap.max_photo_loss)]
    return seen(best) if best["metrics"] else math.nan


def log_round(tracker: Tracker, cfg: BootstrapConfig, row: Row) -> None:
    """One round for the logger: its numbers, its contact sheets, and for W&B a table of what was rejected."""
    number, out = row["round"], Path(cfg.out)
    tracker.log(number, flat(row))
    if cfg.logger.name != "wandb" or number == 0:
        return
    sheets = {kind: out / "sheets" / f"round-{number}-{kind}.png" for kind in ("accepted", "rejected")}
    tracker.pictures(number, {kind: path for kind, path in sheets.items() if path.is_file()})
    tracker.table(number, "rejected samples", rejected_samples(out, number))


def log_losses(tracker: Tracker, rows: list[dict[str, float]]) -> None:
    """The losses of one fit for the logger."""
    for row in rows:
        tracker.log(int(row["step"]), {name: value for name, value in row.items() if name != "step"})


def rejected_samples(out: Path, number: int) -> list[dict[str, Any]]:
    """The removals of a round that were refused, the nearest miss first: pictures, score, measurements."""
    found = open_round(out, number)
    names = sorted(set(found.ids) - found.accepted, key=lambda name: (-found.scores[name], name))
    return [
        {
            "round": number,
            "id": name,
            "score": found.scores[name],
            stages.WITH: stages.picture_file(found.pool, stages.WITH, name),
            stages.WITHOUT: stages.picture_file(found.harvest, stages.WITHOUT, name),
            **found.values[name]["measures"],
        }
        for name in names
    ]


def flat(row: Row) -> dict[str, float]:
    """The numbers of a row by dotted name, for a logger that knows no trees."""
    values = {name: float(row[name]) for name in ("harvested", "accepted", "rejected")}
    for network, groups in row["metrics"].items():
        for group in GROUPS:
            values |= {f"{network}/{group}/{name}": value for name, value in groups.get(group, {}).items()}
    values |= {f"acceptance/{style}": share for style, share in row["acceptance"].items()}
    values |= {f"filter/{name}": value for name, value in (row["filter"] or {}).items() if value is not None}
    assert all(math.isfinite(value) for value in values.values())
    return values


def run_plan(
    cfg: BootstrapConfig,
    execute: Execute,
    *,
    announce: Callable[[str], None] = print,
    on_round: Callable[[Row], None] = lambda row: None,
    on_losses: OnLosses = lambda name, rows: None,
    progress: bool = True,
) -> list[Row]:
    """Runs the whole bootstrap of `cfg`; `execute(target, payload)` runs one stage. Returns the rows of rounds.jsonl.

    Args:
        announce: called with one line per stage and round.
        on_round: called with each row as soon as it is known.
        on_losses: called with `fit-insert-N` or `fit-remove-N` and the rows {"step", "loss"} of each fit made here.

    Raises:
        UserError: something the user set or gave does not fit; an empty selection; a full or closed disk.
    """
    file = Path(cfg.out) / ROUNDS
    before = file.read_bytes() if file.is_file() else None
    try:
        plan = Plan(cfg, Store(Path(cfg.store), announce), execute, on_losses, progress)
        return Loop(cfg, plan, announce, on_round).run()
    except UserError:
        if before is not None:  # the rows of an earlier run outlive a mistake
            write_bytes(file, before)
        raise


@dataclass(frozen=True)
class Source:
    """An input: where it lies, and the digest of what is in it."""

    folder: Path
    content: str


def source_of(entry: Entry, name: str | None = None) -> Source:
    """A finished stage, or one folder of it, as an input."""
    if name is None:
        return Source(entry.folder, entry.content)
    return Source(entry.folder / name, digest([entry.content, name]))


def folder_source(folder: Path, parts: tuple[str, ...] = (".",)) -> Source:
    """A folder of the user, by the bytes of the files in `parts` of it."""
    files: dict[str, str] = {}
    for part in parts:
        start = folder / part
        found = [start] if start.is_file() else sorted(p for p in start.rglob("*") if p.is_file())
        files.update({path.relative_to(folder).as_posix(): sha256_file(path) for path in found})
    return Source(folder, digest(files))


def losses_of(work: Path) -> list[dict[str, float]]:
    """The losses of a fit by step; of a step that a resumed fit repeated, the last row counts."""
    rows = read_jsonl(work / stages.LOSSES, begun=False)
    return [row for _, row in sorted({row["step"]: row for row in rows}.items())]


@dataclass
class Plan:
    """The stages of one configuration. `used` collects what was asked for, by kind and key.

    `on_losses` is called with the name and the losses of each fit that is made here and not found in the store.
    """

    cfg: BootstrapConfig
    store: Store
    execute: Execute
    on_losses: OnLosses = lambda name, rows: None
    progress: bool = True
    used: dict[str, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.filters = filters.build_filters(self.cfg.filter.rules)
        # The model that lends its parts; a hub id is known by its name and commit.
        model = self.cfg.model
        folder = Path(model.source).expanduser() if model.source else micro_dir()
        known: list[Any] = [model.source, model.revision]
        if folder.is_dir():
            known = [folder_source(folder, LENT).content]
        self.model = Source(folder, digest([*known, model.dtype, model.image_size]))

    def pool(self) -> Entry:
        """The stylised pictures S."""
        cfg, pool = self.cfg, self.cfg.pool
        seed, amount, size = cfg.seed, cfg.bootstrap.num_samples, cfg.model.image_size
        if pool.name == "toybox":
            return self._stage(
                "render", stages.RenderSettings("pool", seed, amount, size, pool.styles, pool.occlusion), {}
            )
        if pool.name == "folder":
            assert pool.dir is not None
            folder = Path(pool.dir)
            inputs = {
                "pictures": folder_source(folder),
                "masks": folder_source(Path(pool.masks) if pool.masks else folder / "masks"),
                **self._test(),
            }
            how = cfg.data.on_error, pool.segment, cfg.segmenter
            return self._stage("folder", stages.FolderSettings(False, seed, amount, size, *how), inputs)
        settings = stages.ImagineSettings(
            seed, amount, size, pool.styles, pool.prompts, pool.steps, pool.guidance, cfg.segmenter
        )
        unet = folder_source(self.model.folder, ("unet",)) if self.model.folder.is_dir() else self.model
        return self._stage("imagine", settings, {"model": self.model, "unet": unet})

    def photos(self) -> Entry | None:
        """Counterfactual photographs that are mixed into every training; None for none."""
        return self._pairs("photos", self.cfg.fit.photos, self.cfg.seed, self.cfg.fit.num_photos)

    def held_out(self) -> Entry | None:
        """The test: never seen by any training, the same for every seed's run of this size; None for none."""
        test = self.cfg.evaluate
        return self._pairs("heldout", test.pairs, test.seed, test.num_scenes)

    def _pairs(
        self, use: Literal["photos", "heldout"], given: str | None, seed: int, amount: int
    ) -> Entry | None:
        """Pairs from a folder of the user or the Toybox; None for nowhere."""
        cfg, test, size = self.cfg, use == "heldout", self.cfg.model.image_size
        source = given or (TOYBOX if cfg.model.toys else None)
        if source is None:
            return None
        if source == TOYBOX:
            return self._stage("render", stages.RenderSettings(use, seed, amount, size), {})
        how = stages.FolderSettings(True, seed, amount, size, cfg.data.on_error, heldout=test)
        inputs = {"pairs": folder_source(Path(source)), **({} if test else self._test())}
        return self._stage("folder", how, inputs)

    def _test(self) -> dict[str, Source]:
        """The test as an input of what must hold none of its pictures."""
        test = self.held_out()
        return {} if test is None else {"heldout": source_of(test)}

    def harvest(self, pool: Entry, remover: Source) -> Entry:
        """Every subject of the pool removed."""
        return self._stage("harvest", self._editing(), {"pool": source_of(pool), "remover": remover})

    def measure(self, pool: Entry, harvest: Entry, inserter: Source) -> Entry:
        """What can be seen of the removals; `inserter` puts the subjects back where a filter asks for that."""
        cycle = filters.ask_for_cycle(self.filters.values())
        inputs = {"pool": source_of(pool), "harvest": source_of(harvest)}
        if cycle:
            inputs["inserter"] = inserter
        return self._stage("measure", stages.MeasureSettings(self._editing(), cycle), inputs)

    def select(self, pool: Entry, measure: Entry) -> tuple[Entry, filters.Selection, dict[str, Any]]:
        """The kept removals S', the decision about each, and the measurements it rests on (id -> row)."""
        cfg = self.cfg.filter
        items = stages.read_index(pool.folder)
        values = stages.read_values(measure.folder, [item.id for item in items])
        limits: dict[str, Any] = {
            "threshold": cfg.threshold,
            "keep_at_most_per_style": cfg.keep_at_most_per_style,
        }
        decided = filters.select(values, {item.id: item.style for item in items}, self.filters, **limits)
        settings = {**limits, "rules": filters.rule_settings(self.filters)}
        inputs = {"pool": pool.content, "measure": measure.content}
        scores = {item.id: item.score for item in decided.judged}
        selected = stages.Selected(list(decided.accepted), dict(decided.rejected), scores)
        entry = self.store.obtain(
            Request("select", SELECT_VERSION, settings, inputs),
            lambda staging: write_json(staging / stages.SELECTION, asdict(selected)),
        )
        self.used[f"select-{entry.key}"] = entry
        return entry, decided, values

    def fit(
        self, task: stages.Task, number: int, pool: Entry, harvest: Entry, chosen: Entry, start: Source
    ) -> Source:
        """Round `number`'s network of `task`."""
        seed, share = fold_in(self.cfg.seed, "bootstrap fit", task, number), self.cfg.fit.blend
        photos = self.photos()
        inputs = {
            "pool": source_of(pool),
            "harvest": source_of(harvest),
            "select": source_of(chosen),
            **({} if photos is None else {"photos": source_of(photos)}),
            "start": start,
        }
        entry = self._stage(
            "fit",
            stages.FitSettings(task, seed, self.cfg.fit),
            inputs,
            done=lambda work: self.on_losses(f"fit-{task}-{number}", losses_of(work)),
        )
        product = stages.NETWORKS[task]
        if share == 1:
            return source_of(entry, product)
        ends = {"start": start, "trained": source_of(entry, product)}
        return source_of(self._stage("blend", stages.BlendSettings(task, share), ends), product)

    def evaluate(self, task: stages.Task, network: Source, test: Entry) -> Entry:
        """What `network` draws of the held-out scenes of `test`."""
        cfg = self.cfg.evaluate
        inputs = {"heldout": source_of(test), "network": network}
        if cfg.lpips is not None:
            inputs["lpips"] = folder_source(Path(cfg.lpips), (stages.LPIPS_FILE,))
        how = stages.EditSettings(cfg.steps, self.cfg.harvest.batch_size, seed=0)
        return self._stage("evaluate", stages.EvaluateSettings(how, task), inputs)

    def base(self, name: str) -> Source:
        """The inserter or remover of photographs to start from.

        Raises:
            UserError: there is none, or it was trained at another size than that of the run's pictures.
        """
        given = getattr(self.cfg.bootstrap, name)
        folder = Path(given) if given else self.model.folder / name
        require_network(folder, f"bootstrap; set bootstrap.{name}=FOLDER of an insertion job's {name}")
        card = read_object(folder / NETWORK_FILES[weights_in(folder).name])
        side, size = card["sample_size"] * PIXELS, self.cfg.model.image_size
        if side != size:
            raise UserError(
                f"expected model.image_size={side}, the size that {folder} was trained at, got {size}; "
                f"set model.image_size={side}"
            )
        return folder_source(folder)

    def _editing(self) -> stages.EditSettings:
        return stages.EditSettings(self.cfg.harvest.steps, self.cfg.harvest.batch_size, self.cfg.seed)

    def _stage(
        self,
        kind: str,
        settings: Any,
        inputs: Mapping[str, Source],
        *,
        done: Callable[[Path], None] = lambda work: None,
    ) -> Entry:
        """`done` may look into the work folder of a stage that was made, before it goes."""
        target, version = STAGES[kind]
        if kind in DRAWN_WITH:
            inputs = {"model": self.model, **inputs}
        contents = {name: source.content for name, source in inputs.items()}

        def make(staging: Path) -> None:
            folders, work = {name: source.folder for name, source in inputs.items()}, staging / WORK
            path = work / "payload.json"
            stages.Payload(settings, folders, self.cfg.model, staging, work, self.progress).write(path)
            self.execute(target, path)
            done(work)

        decisive = asdict(settings)
        for name in UNKEYED if kind == "fit" else ():
            del decisive["recipe"][name]
        entry = self.store.obtain(Request(kind, version, decisive, contents), make)
        self.used[f"{kind}-{entry.key}"] = entry
        return entry


@dataclass
class Loop:
    """The rounds of one run: the networks and the row of each, round 0 first.

    `base_values`: of round 0 on the held-out test, by network.
    """

    cfg: BootstrapConfig
    plan: Plan
    announce: Callable[[str], None]
    on_round: Callable[[Row], None]
    networks: list[Networks] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    base_values: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self) -> list[Row]:
        """All rounds, then the networks of the best one in `cfg.out`."""
        loop, plan = self.cfg.bootstrap, self.plan
        base = {name: plan.base(name) for name in stages.NETWORKS.values()}
        # First of all, because it holds what the user gave and may be refused.
        pool = plan.pool()
        if skipped := stages.skipped_of(pool.folder):
            self.announce(f"pool: {len(skipped)} unusable pictures left out: {'; '.join(skipped)}")
        self._finish(base, {"round": 0, "skipped": skipped})
        for number in range(1, loop.rounds + 1):
            self._round(number, pool)
            if self.rows[-1]["stopped"] and number < loop.rounds:
                self.announce(f"round {number} did not improve seen styles without harm to photo; stopped")
                break
        best = best_round(self.rows, loop.max_photo_loss)
        publish(self.cfg, self.rows, best, self.networks[best])
        self.announce(conclusion(self.rows, loop.max_photo_loss))
        return self.rows

    def _round(self, number: int, pool: Entry) -> None:
        cfg, plan, last = self.cfg, self.plan, self.networks[-1]
        harvest = plan.harvest(pool, last["remover"])
        measured = plan.measure(pool, harvest, last["inserter"])
        chosen, decided, values = plan.select(pool, measured)
        write_sheets(Path(cfg.out) / "sheets", number, pool.folder, harvest.folder, decided)
        start = self.networks[0] if cfg.bootstrap.init_from == "base" else last
        networks = dict(last)
        tasks: list[stages.Task] = ["insert", "remove"] if cfg.bootstrap.retrain == "both" else ["insert"]
        for task in tasks:
            name = stages.NETWORKS[task]
            networks[name] = plan.fit(task, number, pool, harvest, chosen, start[name])
        entries = {"pool": pool, "harvest": harvest, "measure": measured, "select": chosen}
        row = {
            "round": number,
            "harvested": len(values),
            "accepted": len(decided.accepted),
            "rejected": len(decided.rejected),
            "rejected_by": filters.rejected_by(decided),
            "acceptance": filters.acceptance(decided),
            "filter": filters.truth_report(decided, values, cfg.filter.good_db),
            "bias": filters.bias_report(decided, values),
            "stages": {name: entry.key for name, entry in entries.items()},
        }
        self._finish(networks, row)

    def _finish(self, networks: Networks, facts: Row) -> None:
        """Measures both networks on the held-out test, and writes all rows anew."""
        cfg, loop = self.cfg, self.cfg.bootstrap
        row = {
            "seed": cfg.seed,
            "store": str(Path(cfg.store).absolute()),
            "threshold": cfg.filter.threshold,
            "retrain": loop.retrain,
            "init_from": loop.init_from,
            **dict.fromkeys(("harvested", "accepted", "rejected"), 0),
            **dict.fromkeys(("filter", "bias")),
            **{
                name: {}
                for name in ("rejected_by", "acceptance", "metrics", "intervals", "changes", "minutes")
            },
            "skipped": [],
            "stages": {},
            **facts,
        }
        how: dict[str, Any] = {
            "seed": 0,
            "resamples": cfg.evaluate.resamples,
            "coverage": cfg.evaluate.coverage,
        }
        test = self.plan.held_out()
        for task, name in stages.NETWORKS.items():
            row["stages"][name] = networks[name].content
            if test is None:
                continue
            entry = self.plan.evaluate(task, networks[name], test)
            values = stages.read_values(entry.folder, stages.ids_of(stages.read_index(test.folder)))
            row["metrics"][name] = measure.metrics(values)
            row["intervals"][name] = measure.intervals(values, **how)
            if self.rows:
                row["changes"][name] = measure.changes(self.base_values[name], values, **how)
            else:
                self.base_values[name] = values
            row["stages"][f"evaluate_{name}"] = entry.key
        self.networks.append(networks)
        self.rows.append(row)
        if row["round"]:
            row["minutes"] = {f"{e.kind}-{e.key}": round(e.seconds / 60, 3) for e in self.plan.used.values()}
            helped = improves(self.rows, min_gain=loop.min_gain, max_photo_loss=loop.max_photo_loss)
            row["stopped"] = loop.early_stop and not helped
        lines = [json.dumps(one, ensure_ascii=False, allow_nan=False) + "\n" for one in self.rows]
        write_text(Path(cfg.out) / ROUNDS, "".join(lines))
        numbers = row["metrics"].get("inserter", {})
        kept = [f"kept {row['accepted']} of {row['harvested']}"] if row["round"] else []
        shown = ", ".join(f"{g} {numbers[g].get('effect_psnr', 0):.2f}" for g in GROUPS if g in numbers)
        measured = [f"effect-region PSNR {shown} dB"] if numbers else ["not measured"]
        self.announce(f"round {row['round']}: {', '.join(kept + measured)}")
        self.on_round(row)


def publish(cfg: BootstrapConfig, rows: list[Row], best: int, networks: Networks) -> None:
    """Puts the networks of round `best` into `cfg.out`, each folder whole, and the card beside them.

    Raises:
        UserError: no room there, or it is read-only; the finished stages are in the store.
    """
    out = Path(cfg.out)
    for name, source in networks.items():
        with whole_folder(out / name) as folder:
            weights = weights_in(source.folder).name
            for file in (NETWORK_FILES[weights], weights):
                shutil.copyfile(source.folder / file, folder / file)
    row = rows[best]
    settings = {k: value for k, value in thaw(cfg).items() if k not in ("out", "store", "logger", "exec")}
    card = {
        "model": "magic-insert bootstrapped inserter and remover",
        "version": __version__,
        "config_digest": digest(settings),
        "round": best,
        "rounds": len(rows) - 1,
        "chosen_by": "the inserter's effect-region PSNR on held-out scenes in seen styles, among rounds "
        f"whose photographs lose at most {cfg.bootstrap.max_photo_loss:g} dB"
        if row["metrics"]
        else "its number alone: nothing was held out to measure on",
        "trained_on": {key: row[key] for key in ("harvested", "accepted", "acceptance", "stages")},
        **{key: row[key] for key in ("metrics", "intervals", "changes")},
        "weights_sha256": {
            file.relative_to(out).as_posix(): sha256_file(file)
            for file in (weights_in(out / name) for name in networks)
        },
    }
    write_json(out / CARD, card)
