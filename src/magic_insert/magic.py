"""The heart: a model with its methods, and the verbs personalize, redraw, place, insert and remove.

Two steps never hide in one another: `redraw` draws subjects in the style of scenes, always a batch; `place` puts a
redrawn picture into a scene. `insert` is one after the other. Models load on first use; every verb takes `on_event`
(core.events), and raising in it cancels.

Pictures are paths, PIL pictures, arrays or tensors. Large ones are worked on window by window: a scene stays in 8 bits,
and only the square that the inserter is shown becomes floats.
Shape letters: h, w a redrawn picture's rows and columns, H, W a scene's. Values are float32 in [0, 1].
"""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from magic_insert import __version__
from magic_insert.config.compose import compose_job, group_options
from magic_insert.config.freeze import freeze
from magic_insert.config.schema.shared import (
    FREE_INSERTERS,
    FREE_STYLIZERS,
    InserterConfig,
    ModelConfig,
    SamplingConfig,
    SegmenterConfig,
    StyleConfig,
    StylizerConfig,
)
from magic_insert.config.schema.training import PersonalizationConfig
from magic_insert.core.compositing import Region, region_around
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError, expecting
from magic_insert.core.events import Clock, OnEvent, no_event, stage
from magic_insert.core.images import Picture, as_float, clean_mask, on_white, read_picture, to_pil
from magic_insert.core.jsonl import read_json
from magic_insert.core.picture_files import require_mask_size, require_size
from magic_insert.core.placement import default_box
from magic_insert.core.records import Box, Scene, Subject
from magic_insert.core.store import Request, Store
from magic_insert.data.subject_files import CARD_FILE, PERSONALIZED_FILES, shipped_run
from magic_insert.drops import (
    LONGEST,
    Drop,
    Layer,
    Redrawn,
    clipped,
    layers_of,
    mask_box,
    parts_of,
    require_memory,
    result_of,
    shown,
    window_of,
)
from magic_insert.inserters import build_inserter
from magic_insert.inserters.base import insert_cutout
from magic_insert.models.folders import Folders, find_folders, find_remover
from magic_insert.models.segment import cut_subject, redraw_segmenter, segment_alike
from magic_insert.stylizers import build_stylizer, check_stylizer, needs_personalization
from magic_insert.stylizers.draws import Draw

if TYPE_CHECKING:
    from magic_insert.inserters.edit import Remover, RemoverSettings

log = logging.getLogger(__name__)
SUBJECTS = Path("runs/subjects")
RECIPE = 1  # version of what a personalisation makes of its settings
INSERTERS_KEPT = 8  # with different settings, of one model
PRODUCTION_SIDE = 512  # models that draw at least as many pixels a side take the recipe of SDXL
TOYBOX_SIDE = 256  # a picture with a longer side is taken for no render of the Toybox

Boxes = Box | Sequence[int] | None


@dataclass(frozen=True)
class Settings:
    """A model and how it is used: the groups of `magic-insert insert`, with `subjects`, where personalisations are.

    `mode`: `full` draws with the model, `preview` never loads it (`tone` for `personalized`), `auto` chooses between
    the two for each `insert`, see `MagicInsert.suited`.
    """

    model: ModelConfig
    personalization: PersonalizationConfig
    stylizer: StylizerConfig
    style: StyleConfig
    sampling: SamplingConfig
    segmenter: SegmenterConfig
    inserter: InserterConfig
    composite: str = "effect_layer"
    seed: int = 0
    subjects: Path = SUBJECTS
    mode: str = "full"

    @classmethod
    def of(cls, cfg: Any) -> "Settings":
        """The settings in a job's frozen configuration."""
        found = {part.name: getattr(cfg, part.name) for part in fields(cls) if hasattr(cfg, part.name)}
        return cls(**{**found, "subjects": Path(found.get("subjects", SUBJECTS))})

    @property
    def in_mode(self) -> "Settings":
        """The settings as the mode has them: `preview` redraws with the subject's own pixels."""
        if self.mode != "preview" or not self.drawing:
            return self
        return replace(self, stylizer=replace(self.stylizer, name="tone", structure="none"))

    @property
    def drawing(self) -> bool:
        """Whether the stylizer draws with the diffusion model."""
        return self.stylizer.name not in FREE_STYLIZERS

    @property
    def needs_model(self) -> bool:
        """Whether the diffusion model has a part in what is made."""
        return self.drawing or self.inserter.name not in FREE_INSERTERS


class MagicInsert:
    """A model with its methods. Nothing is loaded before the first picture."""

    def __init__(self, settings: Settings, *, folders: Folders | None = None) -> None:
        """Looks at the files that will be needed, unless a job's inputs (`folders`) say where they are.

        Raises:
            UserError: weights are missing.
        """
        self.asked, self.settings = settings, settings.in_mode
        settings = self.settings
        if folders is None:
            model = settings.model if settings.needs_model else None
            folders = find_folders(model, settings.inserter, settings.segmenter)
            check_stylizer(settings.stylizer, settings.model, folders.model, subject_text=None)
        self.folders = folders
        self.models = Models(settings.model, folders.model)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "micro",
        *,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        mode: str = "auto",
        overrides: Sequence[str] = (),
    ) -> "MagicInsert":
        """The model `model` with the recipe that belongs to it.

        Args:
            model: a name of `conf/model` ("micro", "sdxl"), a folder in SDXL's format, or a hub id.
            device: "auto", "cpu" or "cuda"; None is the recipe's own.
            dtype: "float32", "float16" or "bfloat16"; None is the recipe's own.
            revision: the commit of a hub id.
            mode: "auto", "full" or "preview", which never loads the model (see `suited`).
            overrides: as on the command line of `magic-insert insert`, such as "sampling.steps=30".

        Raises:
            UserError: no such model, or overrides that do not fit.
        """
        choice, changes = recipe_of(str(model), revision)
        words = ["subject=-", "background=-", "out=-", f"model={choice}", f"mode={mode}", *overrides]
        cfg = freeze(compose_job("insert", words))
        if device is not None:
            changes["device"] = device
        if dtype is not None:
            changes["dtype"] = str(dtype).removeprefix("torch.")
        return cls(Settings.of(replace(cfg, model=replace(cfg.model, **changes))))

    def using(self, **changes: Any) -> "MagicInsert":
        """The same model with other settings (`stylizer=...`, `mode=...`, `seed=...`); what is loaded is shared."""
        other = MagicInsert(replace(self.asked, **changes))
        if other.settings.model == self.settings.model:
            self.models.folder = self.models.folder or other.folders.model
            other.models = self.models
        return other

    @property
    def on_cpu(self) -> bool:
        """Whether the model runs, or would run, without a GPU."""
        device = self.settings.model.device
        return device == "cpu" or (device == "auto" and not torch.cuda.is_available())

    def suited(self, longest: int, *, run: Path | None = None) -> "MagicInsert":
        """This, or with `mode=auto` its preview, for pictures larger than Toybox renders where the model is on a CPU.

        Nothing is previewed where a method, or a personalisation of before, was chosen. One line in the log says so.

        Args:
            longest: the longest side of the pictures, in pixels.
            run: the subject's personalisation.
        """
        settings = self.settings
        if settings.mode != "auto":
            return self
        chosen = run or settings.stylizer.structure != "none" or not needs_personalization(settings.stylizer)
        if (
            chosen
            or settings.inserter.name not in FREE_INSERTERS
            or longest <= TOYBOX_SIDE
            or not self.on_cpu
        ):
            return self.using(mode="full")
        log.warning(
            "magic-insert: mode=preview, the subject's own pixels in the background's tone, because no GPU is here to "
            "redraw pictures of more than %d pixels; set mode=full to redraw all the same",
            TOYBOX_SIDE,
        )
        return self.using(mode="preview")

    def load(self, on_event: OnEvent = no_event) -> None:
        """Loads the model and the inserter, unless they are.

        Raises:
            UserError: weights that do not fit, or style blocks that the model does not have.
        """
        settings, models = self.settings, self.models
        if settings.inserter not in models.inserters or (settings.drawing and not models.loaded):
            with stage(on_event, "load"):
                models.inserter(settings.inserter, self.folders.inserter)
                _ = models.pipe if settings.drawing else None
        if settings.drawing:
            models.check_style(settings.style)

    def subject(
        self,
        picture: Picture | Subject,
        *,
        text: str = "",
        run: Path | None = None,
        on_event: OnEvent = no_event,
    ) -> Subject:
        """The subject cut out of its picture.

        Args:
            text: what it is ("a red bunny"), for stylizers that are given words.
            run: the folder of a personalisation of before.

        Raises:
            UserError: nothing stands out from the ground, or `run` is of another model.
        """
        if isinstance(picture, Subject):
            return replace(picture, text=text or picture.text, run=run or picture.run)
        with stage(on_event, "cut"):
            pixels, alpha, name = read_picture(picture, longest=LONGEST)
            require_size(name, (pixels.shape[-1], pixels.shape[-2]))
            cut = cut_subject(
                as_float(pixels),
                alpha,
                name,
                segmenter=self.settings.segmenter.name,
                model_folder=self.folders.segmenter,
            )
        if run is not None:
            self.load(on_event)
            if (found := read_json(run / CARD_FILE).get("model")) != self.models.fingerprint:
                raise UserError(
                    f"expected a personalisation of this model ({self.models.fingerprint}) at {run}, got one of "
                    f"{found}; set model=... as in its training, or run=FOLDER"
                )
        return replace(cut, text=text, run=run)

    def personalize(
        self,
        subject: Picture | Subject | Sequence[Picture],
        *,
        text: str = "",
        on_event: OnEvent = no_event,
    ) -> Subject:
        """Teaches the model a subject from one to five pictures; the first one, with the folder of what was learned.

        The folder lies in the store `settings.subjects` by the digest of pictures, recipe and model: asked for again,
        what is there is taken, and what was interrupted goes on. What ships in `data/subjects` is taken, too.

        Raises:
            UserError: see `subject` and `training.personalize`.
        """
        from magic_insert.training.personalize import RunOptions, personalize

        cuts = [self.subject(source, text=text, on_event=on_event) for source in listed(subject)]
        self.load(on_event)
        cfg, pipe = self.settings.personalization, self.models.pipe
        seed = self.settings.seed
        with stage(on_event, "personalise") as running:

            def train(folder: Path) -> None:
                options = RunOptions(base=self.settings.model)
                personalize(pipe, cuts, cfg, seed=seed, out=folder, options=options, on_step=running)

            run = self._learned(cuts)
            if run is None:
                run = self._store().obtain(self._request(cuts), train).folder
        return replace(cuts[0], run=run)

    def learned(self, subject: Subject) -> Path | None:
        """The folder of what `personalize` has learned from this one picture before, or of what ships; or None."""
        self.load()
        return self._learned([subject])

    def _learned(self, cuts: Sequence[Subject]) -> Path | None:
        request = self._request(cuts)
        kept = self._store().find(request)
        return shipped_run(request.settings) if kept is None else kept.folder

    def _store(self) -> Store:
        return Store(self.settings.subjects, key="subjects")

    def _request(self, cuts: Sequence[Subject]) -> Request:
        from magic_insert.training.personalize import run_key

        cfg, seed = self.settings.personalization, self.settings.seed
        return Request("subject", RECIPE, run_key(self.models.fingerprint, cuts, cfg, seed))

    def redraw(
        self,
        subjects: Subject | Sequence[Subject],
        scenes: Picture | Scene | Sequence[Picture | Scene],
        *,
        seed: int | None = None,
        ids: Sequence[str] | None = None,
        style_texts: Sequence[str] | None = None,
        on_event: OnEvent = no_event,
    ) -> list[Redrawn]:
        """Each subject in the style of its scene; one subject serves all scenes, one scene all subjects.

        Args:
            seed: root of every draw; None is the settings' own.
            ids: names of the draws; by default `SUBJECT__SCENE`.
            style_texts: the scenes' styles in words, for stylizers that take them from words.

        Raises:
            UserError: numbers that do not fit, or a subject without the personalisation that the stylizer needs.
        """
        people, places = listed(subjects), [self.scene(scene) for scene in listed(scenes)]
        count = max(len(people), len(places))
        people = people * count if len(people) == 1 else people
        places = places * count if len(places) == 1 else places
        texts = list(style_texts or [""] * count)
        names = list(ids or [f"{s.id}__{p.id}" for s, p in zip(people, places, strict=False)])
        if not len(people) == len(places) == len(texts) == len(names):
            raise UserError(f"expected as many subjects as scenes, got {len(people)} and {len(places)}")
        self.load(on_event)
        seed = self.settings.seed if seed is None else seed
        made: dict[int, Redrawn] = {}
        for subject in {id(person): person for person in people}.values():
            rows = [i for i, person in enumerate(people) if person is subject]
            draws = [Draw(shown(places[i]), seed, names[i], texts[i]) for i in rows]
            made.update(zip(rows, self._redraw(subject, draws, on_event), strict=True))
        return [made[i] for i in range(count)]

    def _redraw(self, subject: Subject, draws: Sequence[Draw], on_event: OnEvent) -> list[Redrawn]:
        settings, clock = self.settings, Clock(on_event)
        pipe = self.models.pipe if settings.drawing else None
        with stage(clock, "stylise") as running:
            stylizer = build_stylizer(settings.stylizer, pipe, subject, settings.style, settings.sampling)
            try:
                pictures = stylizer(draws, on_step=running)
            finally:
                stylizer.close()
            running.preview = partial(to_pil, pictures[0])
            facts: dict[str, Any] = getattr(stylizer, "facts", {})
        weights: dict[str, str] = {}
        if settings.drawing:
            weights["model"] = self.models.fingerprint
            if subject.run is not None:
                weights |= {name: sha256_file(subject.run / name) for name in PERSONALIZED_FILES}
        share = {name: round(seconds / len(draws), 3) for name, seconds in clock.seconds.items()}
        return [
            Redrawn(
                picture[:3],
                subject.id,
                draw.id,
                {"weights": weights, "drawing": facts.get(draw.id, {})},
                share,
                picture[3:] if len(picture) == 4 else None,
                subject.alpha,
            )
            for picture, draw in zip(pictures, draws, strict=True)
        ]

    def cut(self, redrawn: Redrawn) -> Subject:
        """The redrawn subject without its ground; where its picture is opaque, as a model's is, its colours decide.

        With `segmenter=auto`, of GrabCut's cut and U2-Net's the one that is more like the subject's own outline.

        Raises:
            UserError: nothing stands out from the ground.
        """
        if redrawn.alpha is not None:
            return Subject(redrawn.rgb, redrawn.alpha, redrawn.subject)
        name = redraw_segmenter(self.settings.segmenter.name)
        if name not in redrawn.cuts:
            redrawn.cuts[name] = self._cut(redrawn, name)
        return redrawn.cuts[name]

    def _cut(self, redrawn: Redrawn, segmenter: str) -> Subject:
        if segmenter == "auto" and redrawn.outline is not None:
            matte = segment_alike(redrawn.rgb, redrawn.outline)
            return Subject(matte.rgb, matte.alpha, redrawn.subject)
        folder = self.folders.segmenter
        return cut_subject(redrawn.rgb, None, redrawn.subject, segmenter=segmenter, model_folder=folder)

    def place(
        self,
        redrawn: Redrawn | Subject | Picture,
        scene: Picture | Scene,
        box: Boxes = None,
        *,
        seed: int | None = None,
        id: str | None = None,
        occluders: Picture | None = None,
        on_event: OnEvent = no_event,
    ) -> Drop:
        """A redrawn picture, or any cut-out or picture, in `scene`, with the light that the inserter gives it.

        Args:
            box: x, y, w, h in pixels of the scene, top-left origin; None is the placement prior.
            seed: of the inserter's draw; None is the settings' own.
            id: names the draw; by default `SUBJECT__SCENE`.
            occluders: white where something in the scene stands before the subject; there the scene stays as it is.

        Raises:
            UserError: the box is not inside the scene, nothing can be cut out of the picture, or the mask of the
                occluders has another size than the scene.
        """
        scene, clock, settings = self.scene(scene), Clock(on_event), self.settings
        front = None if occluders is None else mask_of(occluders, scene)
        box = self.box(scene, box)
        with stage(clock, "load") if settings.inserter not in self.models.inserters else nullcontext():
            inserter = self.models.inserter(settings.inserter, self.folders.inserter)
        with stage(clock, "segment"):
            cut = self.cut(redrawn) if isinstance(redrawn, Redrawn) else self.subject(redrawn)
        name, seed = id or f"{cut.id}__{scene.id}", settings.seed if seed is None else seed
        window = window_of(box, scene, whole=settings.composite == "paper")
        require_memory(window)
        made = insert_cutout(
            Scene(scene.crop(window), scene.id),
            cut,
            Box(box.x - window.x, box.y - window.y, box.w, box.h),
            inserter=inserter,
            composite=settings.composite,
            draw=(seed, name),
            front=None if front is None else clean_mask(front.crop(window)),
            on_event=clock,
        )
        changed = torch.maximum(made.effect, (made.final.mask > 0).float())
        given = redrawn if isinstance(redrawn, Redrawn) else None
        record = {
            **self._record(name, seed, given),
            "result": result_of(made, box, window, changed, scene),
            "config": {**asdict(settings), "subjects": str(settings.subjects)},
        }
        return Drop(
            scene.patched(window, made.final.rgb),
            layers_of(made, box, window),
            Layer(changed, window.x, window.y),
            record,
            {**({} if given is None else given.timings), **clock.seconds},
            parts_of(made, cut, given),
            given,
            below=scene,
        )

    def _record(self, name: str, seed: int, given: Redrawn | None) -> dict[str, Any]:
        """What draw `name` of a redrawn picture, if it is one, was made of."""
        free = self.settings.inserter.name in FREE_INSERTERS  # the model has no part in placing
        sampling = self.settings.sampling.seed
        return {
            "magic_insert": __version__,
            "pair_id": name,
            "seeds": {"seed": seed, "sampling": sampling, "draws": "fold_in(seed, stage, pair_id)"},
            "weights": {
                **({} if free else {"model": self.models.fingerprint}),
                **({} if given is None else given.record["weights"]),
            },
            **({} if given is None else {"drawing": given.record.get("drawing", {})}),
        }

    def insert(
        self,
        subject: Picture | Subject,
        scene: Picture | Scene,
        box: Boxes = None,
        *,
        text: str = "",
        seed: int | None = None,
        occluders: Picture | None = None,
        on_event: OnEvent = no_event,
    ) -> Drop:
        """The subject, personalised if the stylizer needs it and it is not yet, redrawn for `scene` and placed there.

        Raises:
            UserError: see `personalize`, `redraw` and `place`.
        """
        clock, scene = Clock(on_event), self.scene(scene)
        box = self.box(scene, box)
        known = self.subject(subject, text=text, on_event=clock)
        if self.settings.mode == "auto":
            suited = self.suited(max(*known.rgb.shape, *scene.size), run=known.run)
            drop = suited.insert(known, scene, box, text=text, seed=seed, occluders=occluders, on_event=clock)
            return replace(drop, timings=clock.seconds)
        check_stylizer(
            self.settings.stylizer, self.settings.model, self.folders.model, subject_text=known.text
        )
        if known.run is None and needs_personalization(self.settings.stylizer):
            known = self.personalize(known, on_event=clock)
        redrawn = self.redraw(known, scene, seed=seed, on_event=clock)[0]
        drop = self.place(redrawn, scene, box, seed=seed, occluders=occluders, on_event=clock)
        return replace(drop, timings=clock.seconds)

    def remove(
        self,
        picture: Picture,
        mask: Picture,
        *,
        settings: "RemoverSettings | None" = None,
        seed: int | None = None,
        on_event: OnEvent = no_event,
    ) -> Drop:
        """The picture without what is white in `mask`, and without its shadow; its transparency is kept.

        Raises:
            UserError: the mask is empty or of another size, or there is no remover.
        """
        from magic_insert.inserters.edit import RemoverSettings

        seed = self.settings.seed if seed is None else seed
        return remove_object(self.models, picture, mask, settings or RemoverSettings(), seed, on_event)

    def box(self, scene: Picture | Scene, box: Boxes = None) -> Box:
        """`box` as a Box; None is the placement prior of the official results.

        Raises:
            UserError: it is not inside the scene.
        """
        scene = self.scene(scene)
        if box is None:
            return default_box(scene)
        return (box if isinstance(box, Box) else Box(*box)).require_inside(*scene.size)

    def scene(self, picture: Picture | Scene) -> Scene:
        """The background's picture, in 8 bits where the file is; transparent parts are laid on white.

        Raises:
            UserError: not a sound picture, or too small.
        """
        if isinstance(picture, Scene):
            return picture
        pixels, alpha, name = read_picture(picture)
        require_size(name, (pixels.shape[-1], pixels.shape[-2]))
        if alpha is not None:
            pixels = on_white(as_float(pixels), alpha)
        return Scene(pixels, name)


class Models:
    """What is loaded, once, for all `MagicInsert` that share a model."""

    def __init__(self, model: ModelConfig, folder: Path | None, *, draws: bool = True) -> None:
        """`draws`: False where the pipeline's own UNet has nothing to draw, as where all that is done is to remove."""
        self.model, self.folder, self.draws = model, folder, draws
        self.inserters: dict[InserterConfig, Any] = {}
        self.removers: dict[RemoverSettings, Remover] = {}

    # diffusers and transformers take ten seconds to import, which a preview does not need.

    @cached_property
    def pipe(self) -> Any:
        """The pipeline; raises `UserError` for a model that is not there or not SDXL's."""
        from magic_insert.models.pipeline import load_pipeline

        return load_pipeline(self.model, draws=self.draws)

    @cached_property
    def fingerprint(self) -> str:
        """What tells this model from others."""
        from magic_insert.models.pipeline import fingerprint

        return fingerprint(self.pipe)

    @property
    def loaded(self) -> bool:
        """Whether the pipeline is there."""
        return "pipe" in vars(self)

    def check_style(self, style: StyleConfig) -> None:
        """Raises `UserError` for style blocks that the pipeline does not have."""
        from magic_insert.models.ip_adapter import check_blocks, has_adapter

        if style.mode == "ip_adapter" and style.scale > 0 and has_adapter(self.pipe):
            check_blocks(self.pipe.unet, style.blocks)

    def inserter(self, cfg: InserterConfig, folder: Path | None) -> Any:
        """The inserter that `cfg` names, with the weights in `folder`."""
        if cfg not in self.inserters:
            while len(self.inserters) >= INSERTERS_KEPT:
                del self.inserters[next(iter(self.inserters))]
            pipe = None if cfg.name in FREE_INSERTERS else self.pipe
            self.inserters[cfg] = build_inserter(cfg, pipe, folder)
        return self.inserters[cfg]

    def remover(self, cfg: "RemoverSettings") -> "Remover":
        """The remover that `cfg` names; one that is a pipeline of its own leaves `pipe` unloaded."""
        from magic_insert.inserters.edit import EditModel, Remover

        if cfg not in self.removers:
            steps = cfg.steps or self.model.edit_steps
            if cfg.remover == "diffusers":
                from magic_insert.models.foreign import ForeignModel, Runtime
                from magic_insert.models.pipeline import PRECISIONS, resolve_device

                run = Runtime(
                    resolve_device(self.model.device), PRECISIONS[self.model.dtype], self.model.offload
                )
                prompt, guidance = cfg.prompt, cfg.guidance
                model: Any = ForeignModel(cfg.run or "", "run", prompt=prompt, guidance=guidance, run=run)
            else:
                model = EditModel(self.pipe, find_remover(cfg.run, self.folder))
            self.removers[cfg] = Remover(replace(cfg, steps=steps), model)
        return self.removers[cfg]


def remove_object(
    models: Models,
    picture: Picture,
    mask: Picture,
    settings: "RemoverSettings",
    seed: int,
    on_event: OnEvent = no_event,
) -> Drop:
    """The picture without what is white in `mask`; see `MagicInsert.remove`."""
    clock = Clock(on_event)
    pixels, alpha, name = read_picture(picture)
    scene = Scene(pixels, name)
    hole = mask_of(mask, scene)
    with stage(clock, "load"):
        remover = models.remover(settings)
    with stage(clock, "remove") as running:
        region = region_around(mask_box(hole), *scene.size)
        window = clipped(region, scene)
        require_memory(window)
        local = Region(region.x - window.x, region.y - window.y, region.side)
        inside, covered = scene.crop(window), clean_mask(hole.crop(window))
        filled, changed = remover(local.crop(inside), local.crop(covered), seed=seed, on_step=running)
        result = local.put_back(inside, filled)
        changed = local.put_back(torch.zeros_like(covered), changed)
    area = scene.size[0] * scene.size[1]
    record = {
        "magic_insert": __version__,
        "seed": seed,
        "weights": {
            **({"model": models.fingerprint} if settings.remover == "edit" else {}),
            **{f"remover_{name}": value for name, value in remover.model.weights.items()},
        },
        "result": {
            "window": [region.x, region.y, region.side],
            "masked_share": float((covered > 0).sum()) / area,
            "changed_share": float(changed.sum()) / area,
        },
        "config": {"model": asdict(models.model), **asdict(settings)},
    }
    return Drop(
        scene.patched(window, result),
        {},
        Layer(changed, window.x, window.y),
        record,
        clock.seconds,
        alpha=alpha,
    )


def mask_of(picture: Picture, scene: Scene) -> Scene:
    """The picture of a mask for `scene`; raises `UserError` where its size is another."""
    mask = Scene(read_picture(picture)[0], "mask")
    height, width = scene.size
    require_mask_size("the mask", (mask.size[1], mask.size[0]), (width, height))
    return mask


def recipe_of(model: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    """The name in `conf/model` whose recipe fits `model`, and what to change in it.

    Raises:
        UserError: a folder that holds no model.
    """
    if model in group_options("model"):
        return model, {} if revision is None else {"revision": revision}
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return "sdxl", {"source": model, "revision": revision}
    with expecting(f"the configs of a model in SDXL's format in {folder}", KeyError, TypeError):
        blocks = read_json(folder / "vae" / "config.json")["block_out_channels"]
        side = read_json(folder / "unet" / "config.json")["sample_size"] * 2 ** (len(blocks) - 1)
    return "sdxl" if side >= PRODUCTION_SIDE else "micro", {"source": str(folder), "image_size": side}


def listed(given: Any) -> list[Any]:
    """One or several as a list."""
    return list(given) if isinstance(given, list | tuple) else [given]
