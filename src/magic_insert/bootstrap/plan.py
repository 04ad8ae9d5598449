"""The plan: what each stage of a bootstrap is made from. Asking for a stage finds it in the store or has it made.

    pool -> harvest -> measure -> select -> fit -> blend -> evaluate        photos, heldout: once per seed

A stage sees settings and inputs that are part of its key and nothing else, so runs that share them share the stage.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from magic_insert.bootstrap.filters import Selection, ask_for_cycle, build_filters, rule_settings, select
from magic_insert.bootstrap.stages import (
    LOSSES,
    LPIPS_FILE,
    NETWORKS,
    SELECTION,
    BlendSettings,
    EditSettings,
    EvaluateSettings,
    FitSettings,
    FolderSettings,
    ImagineSettings,
    MeasureSettings,
    Payload,
    RenderSettings,
    Selected,
    Task,
    read_index,
    read_values,
)
from magic_insert.config.schema.jobs import BootstrapConfig
from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_jsonl, write_json
from magic_insert.core.rand import fold_in
from magic_insert.core.store import WORK, Entry, Request, Store
from magic_insert.paths import micro_dir

Execute = Callable[[str, Path], None]
OnLosses = Callable[[str, list[dict[str, float]]], None]
HERE = "magic_insert.bootstrap."
# kind -> the function that makes it, and a version that is raised when its results change
STAGES = {
    "render": (HERE + "pool:render", 1),
    "folder": (HERE + "pool:take_in", 2),
    "imagine": (HERE + "pool:run_imagine", 1),
    "harvest": (HERE + "measure:run_harvest", 1),
    "measure": (HERE + "measure:run_measure", 2),
    "fit": (HERE + "fit:run_fit", 2),
    "blend": (HERE + "fit:run_blend", 1),
    "evaluate": (HERE + "measure:run_evaluate", 2),
}
SELECT_VERSION = 1
DRAWN_WITH = ("harvest", "measure", "fit", "evaluate")  # stages that need the model
UNKEYED = (
    "num_photos",
    "photos",
    "save_every",
    "blend",
)  # of a recipe: seen in the inputs, or without effect
LENT = ("model_index.json", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")


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
    path = work / LOSSES
    rows = read_jsonl(path) if path.is_file() else []
    return [row for _, row in sorted({row["step"]: row for row in rows}.items())]


def key_settings(settings: Any) -> dict[str, Any]:
    """The settings that decide a stage's result."""
    found = asdict(settings)
    if isinstance(settings, FitSettings):
        for name in UNKEYED:
            del found["recipe"][name]
    return found


class Plan:
    """The stages of one configuration. `used` collects what was asked for, by kind and key.

    `on_losses` is called with the name and the losses of each fit that is made here and not found in the store.
    """

    def __init__(
        self,
        cfg: BootstrapConfig,
        store: Store,
        execute: Execute,
        *,
        on_losses: OnLosses = lambda name, rows: None,
        progress: bool = True,
    ):
        self.cfg, self.store, self.execute, self.progress = cfg, store, execute, progress
        self.on_losses = on_losses
        self.filters = build_filters(cfg.filter.rules)
        self.model = self._model()
        self.used: dict[str, Entry] = {}

    def pool(self) -> Entry:
        """The stylised pictures S."""
        cfg, pool = self.cfg, self.cfg.pool
        seed, amount, size = cfg.seed, cfg.bootstrap.num_samples, cfg.model.image_size
        if pool.name == "toybox":
            return self._stage(
                "render", RenderSettings("pool", seed, amount, size, pool.styles, pool.occlusion), {}
            )
        if pool.name == "folder":
            assert pool.dir is not None
            folder = Path(pool.dir)
            inputs = {
                "pictures": folder_source(folder),
                "masks": folder_source(Path(pool.masks) if pool.masks else folder / "masks"),
                "heldout": source_of(self.held_out()),
            }
            how = cfg.data.on_error, pool.segment, cfg.segmenter
            return self._stage("folder", FolderSettings(False, seed, amount, size, *how), inputs)
        settings = ImagineSettings(
            seed, amount, size, pool.styles, pool.prompts, pool.steps, pool.guidance, cfg.segmenter
        )
        unet = folder_source(self.model.folder, ("unet",)) if self.model.folder.is_dir() else self.model
        return self._stage("imagine", settings, {"model": self.model, "unet": unet})

    def photos(self) -> Entry:
        """Counterfactual photographs that are mixed into every training."""
        cfg, fit = self.cfg, self.cfg.fit
        seed, size = cfg.seed, cfg.model.image_size
        if fit.photos is None:
            return self._stage("render", RenderSettings("photos", seed, fit.num_photos, size), {})
        inputs = {"pairs": folder_source(Path(fit.photos)), "heldout": source_of(self.held_out())}
        settings = FolderSettings(True, seed, fit.num_photos, size, cfg.data.on_error)
        return self._stage("folder", settings, inputs)

    def held_out(self) -> Entry:
        """The test: never seen by any training, the same for every seed's run of this size."""
        test = self.cfg.evaluate
        settings = RenderSettings("heldout", test.seed, test.num_scenes, self.cfg.model.image_size)
        return self._stage("render", settings, {})

    def harvest(self, pool: Entry, remover: Source) -> Entry:
        """Every subject of the pool removed."""
        return self._stage("harvest", self._editing(), {"pool": source_of(pool), "remover": remover})

    def measure(self, pool: Entry, harvest: Entry, inserter: Source) -> Entry:
        """What can be seen of the removals; `inserter` puts the subjects back where a filter asks for that."""
        cycle = ask_for_cycle(self.filters.values())
        inputs = {"pool": source_of(pool), "harvest": source_of(harvest)}
        if cycle:
            inputs["inserter"] = inserter
        return self._stage("measure", MeasureSettings(self._editing(), cycle), inputs)

    def select(self, pool: Entry, measure: Entry) -> tuple[Entry, Selection, dict[str, Any]]:
        """The kept removals S', the decision about each, and the measurements it rests on (id -> row)."""
        cfg = self.cfg.filter
        items = read_index(pool.folder)
        values = read_values(measure.folder, [item.id for item in items])
        limits: dict[str, Any] = {
            "threshold": cfg.threshold,
            "keep_at_most_per_style": cfg.keep_at_most_per_style,
        }
        decided = select(values, {item.id: item.style for item in items}, self.filters, **limits)
        settings = {**limits, "rules": rule_settings(self.filters)}
        inputs = {"pool": pool.content, "measure": measure.content}
        scores = {item.id: item.score for item in decided.judged}
        selected = Selected(list(decided.accepted), dict(decided.rejected), scores)
        entry = self.store.obtain(
            Request("select", SELECT_VERSION, settings, inputs),
            lambda staging: write_json(staging / SELECTION, asdict(selected)),
        )
        self.used[f"select-{entry.key}"] = entry
        return entry, decided, values

    def fit(
        self, task: Task, number: int, pool: Entry, harvest: Entry, chosen: Entry, start: Source
    ) -> Source:
        """Round `number`'s network of `task`."""
        seed, share = fold_in(self.cfg.seed, "bootstrap fit", task, number), self.cfg.fit.blend
        inputs = {
            "pool": source_of(pool),
            "harvest": source_of(harvest),
            "select": source_of(chosen),
            "photos": source_of(self.photos()),
            "start": start,
        }
        entry = self._stage(
            "fit",
            FitSettings(task, seed, self.cfg.fit),
            inputs,
            done=lambda work: self.on_losses(f"fit-{task}-{number}", losses_of(work)),
        )
        product = NETWORKS[task]
        if share == 1:
            return source_of(entry, product)
        ends = {"start": start, "trained": source_of(entry, product)}
        return source_of(self._stage("blend", BlendSettings(task, share), ends), product)

    def evaluate(self, task: Task, network: Source) -> Entry:
        """What `network` draws of the held-out scenes."""
        cfg = self.cfg.evaluate
        inputs = {"heldout": source_of(self.held_out()), "network": network}
        if cfg.lpips is not None:
            inputs["lpips"] = folder_source(Path(cfg.lpips), (LPIPS_FILE,))
        how = EditSettings(cfg.steps, self.cfg.harvest.batch_size, seed=0)
        return self._stage("evaluate", EvaluateSettings(how, task), inputs)

    def base(self, task: Task) -> Source:
        """The network of photographs to start from.

        Raises:
            UserError: there is none.
        """
        name = NETWORKS[task]
        given = getattr(self.cfg.bootstrap, name)
        folder = Path(given) if given else self.model.folder / name
        if not (folder / "config.json").is_file():
            raise UserError(
                f"expected {name} weights (config.json and safetensors) in {folder}, got none; "
                f"set bootstrap.{name}=FOLDER"
            )
        return folder_source(folder)

    def _editing(self) -> EditSettings:
        return EditSettings(self.cfg.harvest.steps, self.cfg.harvest.batch_size, self.cfg.seed)

    def _model(self) -> Source:
        """The model that lends its parts; a hub id is known by its name and commit."""
        model = self.cfg.model
        folder = Path(model.source).expanduser() if model.source else micro_dir()
        if folder.is_dir():
            parts = folder_source(folder, LENT)
            return replace(parts, content=digest([parts.content, model.dtype, model.image_size]))
        return Source(folder, digest([model.source, model.revision, model.dtype, model.image_size]))

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
            Payload(settings, folders, self.cfg.model, staging, work, self.progress).write(path)
            self.execute(target, path)
            done(work)

        entry = self.store.obtain(Request(kind, version, key_settings(settings), contents), make)
        self.used[f"{kind}-{entry.key}"] = entry
        return entry
