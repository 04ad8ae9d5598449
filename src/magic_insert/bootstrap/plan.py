"""The plan: what each stage of a bootstrap is made from. Asking for a stage finds it in the store or has it made.

    pool -> harvest -> measure -> select -> fit -> blend -> evaluate        photos, heldout: once per seed

A stage sees settings and inputs that are part of its key and nothing else, so runs that share them share the stage.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from magic_insert.bootstrap.files import LPIPS_FILE, read_index, read_values
from magic_insert.bootstrap.filters import ask_for_cycle
from magic_insert.bootstrap.payload import Payload
from magic_insert.bootstrap.select import Selection, build_filters, rule_settings, select
from magic_insert.config.schema import BootstrapConfig
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
    "render": (HERE + "toybox_pictures:render", 1),
    "folder": (HERE + "folder_pictures:take_in", 2),
    "imagine": (HERE + "imagine:run_imagine", 1),
    "harvest": (HERE + "harvest:run_harvest", 1),
    "measure": (HERE + "measure:run_measure", 2),
    "fit": (HERE + "fit:run_fit", 2),
    "blend": (HERE + "blend:run_blend", 1),
    "evaluate": (HERE + "evaluate:run_evaluate", 2),
}
SELECT_VERSION = 1
SELECTION = "selection.json"
LOSSES = "train.jsonl"  # what a fit leaves in its work folder
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
    """A folder of the user, told by the bytes of the files in `parts` of it."""
    files: dict[str, str] = {}
    for part in parts:
        place = folder / part
        found = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
        files.update({path.relative_to(folder).as_posix(): sha256_file(path) for path in found})
    return Source(folder, digest(files))


def losses_of(work: Path) -> list[dict[str, float]]:
    """What a fit said while it trained, by step; of steps that a resumed fit repeated the last word counts."""
    path = work / LOSSES
    rows = read_jsonl(path) if path.is_file() else []
    return [row for _, row in sorted({row["step"]: row for row in rows}.items())]


class Plan:
    """The stages of one configuration. `used` collects what was asked for, by kind and key.

    `on_losses` hears the name and the losses of each fit that is made here and not found in the store.
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
        cfg, pool, size = self.cfg, self.cfg.pool, self.cfg.model.image_size
        common = {"seed": cfg.seed, "num_samples": cfg.bootstrap.num_samples, "size": size}
        if pool.name == "toybox":
            return self._stage(
                "render", {**common, "use": "pool", "styles": pool.styles, "occlusion": pool.occlusion}, {}
            )
        segmenter = asdict(cfg.segmenter)
        if pool.name == "folder":
            assert pool.dir is not None
            folder = Path(pool.dir)
            masks = Path(pool.masks) if pool.masks else folder / "masks"
            settings = {
                **common,
                "segment": pool.segment,
                "segmenter": segmenter,
                "on_error": cfg.data.on_error,
            }
            inputs = {
                "pictures": folder_source(folder),
                "masks": folder_source(masks),
                "heldout": source_of(self.held_out()),
            }
            return self._stage("folder", settings, inputs)
        settings = {**common, "styles": pool.styles, "prompts": pool.prompts, "segmenter": segmenter}
        drawing = {"steps": pool.steps, "guidance": pool.guidance}
        unet = folder_source(self.model.folder, ("unet",)) if self.model.folder.is_dir() else self.model
        return self._stage("imagine", settings | drawing, {"model": self.model, "unet": unet})

    def photos(self) -> Entry:
        """Counterfactual photographs that are mixed into every training."""
        cfg, fit = self.cfg, self.cfg.fit
        common = {"seed": cfg.seed, "num_samples": fit.num_photos, "size": cfg.model.image_size}
        if fit.photos is None:
            return self._stage("render", {**common, "use": "photos"}, {})
        settings = {**common, "use": "pairs", "on_error": cfg.data.on_error}
        inputs = {"pairs": folder_source(Path(fit.photos)), "heldout": source_of(self.held_out())}
        return self._stage("folder", settings, inputs)

    def held_out(self) -> Entry:
        """The test: never seen by any training, the same for every seed's run of this size."""
        amount = self.cfg.evaluate.num_scenes
        size, seed = self.cfg.model.image_size, self.cfg.evaluate.seed
        return self._stage(
            "render", {"use": "heldout", "seed": seed, "num_samples": amount, "size": size}, {}
        )

    def harvest(self, pool: Entry, remover: Source) -> Entry:
        """Every subject of the pool removed."""
        return self._stage("harvest", self._editing(), {"pool": source_of(pool), "remover": remover})

    def measure(self, pool: Entry, harvest: Entry, inserter: Source) -> Entry:
        """What can be seen of the removals; `inserter` puts the subjects back where a filter asks for that."""
        cycle = ask_for_cycle(self.filters.values())
        inputs = {"pool": source_of(pool), "harvest": source_of(harvest)}
        if cycle:
            inputs["inserter"] = inserter
        return self._stage("measure", {**self._editing(), "cycle": cycle}, inputs)

    def select(self, pool: Entry, measure: Entry) -> tuple[Entry, Selection, dict[str, Any]]:
        """The kept removals S', the decision about each, and the measurements it rests on (id -> row)."""
        cfg = self.cfg.filter
        items = read_index(pool.folder)
        values = read_values(measure.folder, [item.id for item in items])
        decided = select(
            values,
            {item.id: item.style for item in items},
            self.filters,
            threshold=cfg.threshold,
            keep_at_most_per_style=cfg.keep_at_most_per_style,
        )
        settings = {
            "threshold": cfg.threshold,
            "keep_at_most_per_style": cfg.keep_at_most_per_style,
            "rules": rule_settings(self.filters),
        }
        inputs = {"pool": pool.content, "measure": measure.content}

        def make(staging: Path) -> None:
            write_json(
                staging / SELECTION,
                {
                    "accepted": list(decided.accepted),
                    "rejected": dict(decided.rejected),
                    "scores": {item.id: item.score for item in decided.judged},
                },
            )

        entry = self.store.obtain(Request("select", SELECT_VERSION, settings, inputs), make)
        self.used[f"select-{entry.key}"] = entry
        return entry, decided, values

    def fit(
        self, task: str, number: int, pool: Entry, harvest: Entry, chosen: Entry, start: Source
    ) -> Source:
        """Round `number`'s network of `task` (insert or remove)."""
        cfg = self.cfg.fit
        settings = {
            "task": task,
            "seed": fold_in(self.cfg.seed, "bootstrap fit", task, number),
            **{
                k: v
                for k, v in asdict(cfg).items()
                if k not in ("num_photos", "photos", "save_every", "blend")
            },
        }
        inputs = {
            "pool": source_of(pool),
            "harvest": source_of(harvest),
            "select": source_of(chosen),
            "photos": source_of(self.photos()),
            "start": start,
        }
        # How often a checkpoint is written does not change what is trained.
        entry = self._stage(
            "fit",
            settings,
            inputs,
            aside={"save_every": cfg.save_every},
            done=lambda work: self.on_losses(f"fit-{task}-{number}", losses_of(work)),
        )
        product = "inserter" if task == "insert" else "remover"
        if cfg.blend == 1:
            return source_of(entry, product)
        ends = {"start": start, "trained": source_of(entry, product)}
        return source_of(self._stage("blend", {"task": task, "share": cfg.blend}, ends), product)

    def evaluate(self, task: str, network: Source) -> Entry:
        """What `network` draws of the held-out scenes."""
        cfg = self.cfg.evaluate
        settings = {**self._editing(), "task": task, "steps": cfg.steps, "seed": 0}
        inputs = {"heldout": source_of(self.held_out()), "network": network}
        if cfg.lpips is not None:
            inputs["lpips"] = folder_source(Path(cfg.lpips), (LPIPS_FILE,))
        return self._stage("evaluate", settings, inputs)

    def base(self, task: str) -> Source:
        """The network of photographs to start from.

        Raises:
            UserError: there is none.
        """
        name = "inserter" if task == "insert" else "remover"
        given = getattr(self.cfg.bootstrap, name)
        folder = Path(given) if given else self.model.folder / name
        if not (folder / "config.json").is_file():
            raise UserError(
                f"expected {name} weights (config.json and safetensors) in {folder}, got none; "
                f"set bootstrap.{name}=FOLDER"
            )
        return folder_source(folder)

    def _editing(self) -> dict[str, Any]:
        harvest = self.cfg.harvest
        return {"steps": harvest.steps, "batch_size": harvest.batch_size, "seed": self.cfg.seed}

    def _model(self) -> Source:
        """The model that lends its parts; a hub id is told by its name and commit."""
        model = self.cfg.model
        folder = Path(model.source).expanduser() if model.source else micro_dir()
        if folder.is_dir():
            parts = folder_source(folder, LENT)
            return replace(parts, content=digest([parts.content, model.dtype, model.image_size]))
        return Source(folder, digest([model.source, model.revision, model.dtype, model.image_size]))

    def _stage(
        self,
        kind: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Source],
        *,
        aside: Mapping[str, Any] | None = None,
        done: Callable[[Path], None] = lambda work: None,
    ) -> Entry:
        """`aside`: settings that the stage is told but that do not change its result. `done` may look into the work
        folder of a stage that was made, before it goes."""
        target, version = STAGES[kind]
        if kind in ("harvest", "measure", "fit", "evaluate"):
            inputs = {"model": self.model, **inputs}
        request = Request(kind, version, settings, {name: source.content for name, source in inputs.items()})

        def make(staging: Path) -> None:
            payload = Payload(
                out=staging,
                work=staging / WORK,
                settings={**settings, **(aside or {})},
                inputs={name: source.folder for name, source in inputs.items()},
                model=self.cfg.model,
                progress=self.progress,
            )
            path = payload.work / "payload.json"
            payload.write(path)
            self.execute(target, path)
            done(payload.work)

        entry = self.store.obtain(request, make)
        self.used[f"{kind}-{entry.key}"] = entry
        return entry
