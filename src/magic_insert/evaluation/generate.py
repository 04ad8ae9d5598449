"""Making the pictures: personalise each subject once, redraw it by every stylizer, insert it by every inserter.

Work is shared by subject, and a subject's pictures are drawn in batches that depend on the selection alone: a batch of
which a picture is missing is drawn again as a whole, so a killed run ends with the pictures of one that was not.
Shape letters: h, w of a redrawn subject, H, W of a background. Pictures are float32 in [0, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert import inputs
from magic_insert.config.schema import (
    IMAGES,
    EvaluateConfig,
    EvaluatedInserter,
    EvaluatedStylizer,
    ImagesConfig,
)
from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.jsonl import append_jsonl
from magic_insert.core.records import Subject
from magic_insert.data.benchmarks import Benchmark, BenchPair
from magic_insert.evaluation.claims import (
    claim,
    model_marks,
    recipe,
    sampling_of,
    settings_key,
    style_of,
)
from magic_insert.evaluation.entries import (
    insert_methods,
    mask_file,
    method_folder,
    needs_stylised,
    picture_file,
    seeds_of,
)
from magic_insert.evaluation.images_methods import match_files
from magic_insert.inserters import build_inserter
from magic_insert.inserters.base import insert_cutout
from magic_insert.stylizers import build_stylizer, check_stylizer, needs_personalization
from magic_insert.stylizers.base import Draw as StyleDraw
from magic_insert.stylizers.base import Stylizer

BATCH = 8
NOTES = "notes.jsonl"

Draw = tuple[BenchPair, int]


class Workshop:
    """The model and what stands on it, loaded when the first picture is missing."""

    def __init__(self, cfg: EvaluateConfig, bench: Benchmark, out: Path, tick: Callable[[int], None]) -> None:
        """Looks at every file that will be needed; nothing heavy is loaded.

        Args:
            tick: hears how many pictures are done.

        Raises:
            UserError: a method's weights are not there, or its pictures made elsewhere are not complete.
        """
        self.cfg, self.bench, self.out, self.tick = cfg, bench, out, tick
        self.segmenter_folder = inputs.find_segmenter(cfg.segmenter)
        self.stylizers = {
            name: s for name, s in cfg.chosen_stylizers.items() if s.name != IMAGES and needs_stylised(cfg)
        }
        self.inserters: dict[str, EvaluatedInserter] = {}
        if "insert" in cfg.tracks:
            self.inserters = {name: i for name, i in cfg.chosen_inserters.items() if i.name != IMAGES}
        model_folder = inputs.find_model(cfg.model) if self.stylizers or self.inserters else None
        self.inserter_folders = {
            name: inputs.find_inserter(inserter, model_folder) for name, inserter in self.inserters.items()
        }
        self.model_folder = model_folder
        for stylizer in self.stylizers.values():
            check_stylizer(stylizer, cfg.model, model_folder, subject_text=None)
        self.made_elsewhere = {
            (track, name): match_files(method.images, bench.pairs, name)
            for track, methods in self._foreign().items()
            for name, method in methods.items()
        }
        self.masks_elsewhere = {
            name: match_files(ImagesConfig(i.mask_dir, i.pattern), bench.pairs, f"{name}'s masks")
            for name, i in cfg.chosen_inserters.items()
            if i.mask_dir and ("insert", name) in self.made_elsewhere
        }

    def _foreign(self) -> dict[str, dict[str, EvaluatedStylizer | EvaluatedInserter]]:
        cfg = self.cfg
        found: dict[str, dict[str, EvaluatedStylizer | EvaluatedInserter]] = {"stylize": {}, "insert": {}}
        if needs_stylised(cfg):
            found["stylize"] = {n: s for n, s in cfg.chosen_stylizers.items() if s.name == IMAGES}
        if "insert" in cfg.tracks:
            found["insert"] = {n: i for n, i in cfg.chosen_inserters.items() if i.name == IMAGES}
        return found

    @cached_property
    def pipe(self) -> Any:
        from magic_insert.models.zoo import load_pipeline

        return load_pipeline(self.cfg.model)

    @cached_property
    def drawn_inserters(self) -> dict[str, Any]:
        return {
            name: build_inserter(inserter, self.pipe, self.inserter_folders[name])
            for name, inserter in self.inserters.items()
        }

    def claim_methods(self) -> None:
        """Writes into each method's folder what its pictures depend on.

        Raises:
            UserError: a folder holds pictures of the same method with other settings.
        """
        cfg = self.cfg
        shared = [asdict(cfg.model), model_marks(self.model_folder), cfg.seed, self.bench.digest]
        keys: dict[str, Any] = {
            name: sorted(sha256_file(path) for path in files.values())
            for (track, name), files in self.made_elsewhere.items()
            if track == "stylize"
        }
        for name, stylizer in self.stylizers.items():
            keys[name] = [settings_key(cfg, stylizer), shared]
            claim(method_folder(self.out, "stylize", name), keys[name])
        for method, stylizer_name, inserter_name in insert_methods(cfg) if self.inserters else []:
            if stylizer_name is not None:
                inserter = asdict(self.inserters[inserter_name])
                marks = model_marks(self.inserter_folders[inserter_name])
                key = [keys[stylizer_name], inserter, marks, cfg.segmenter.name, shared]
                claim(method_folder(self.out, "insert", method), key)

    def count(self, subjects: Sequence[str]) -> int:
        """How many pictures `make` will make, or find, for these subjects."""
        pairs = sum(pair.subject in subjects for pair in self.bench.pairs)
        draws = pairs * self.cfg.num_draws
        methods = [m for m in insert_methods(self.cfg) if m[1] is not None] if self.inserters else []
        return draws * (len(self.stylizers) + len(methods))

    def make(self, subject_id: str) -> None:
        """All pictures of one subject that are not there yet.

        Raises:
            UserError: see `personalize` and the methods.
        """
        draws = [
            (pair, seed)
            for pair in self.bench.pairs
            if pair.subject == subject_id
            for seed in seeds_of(self.cfg)
        ]
        for name, stylizer in self.stylizers.items():
            self._redraw(subject_id, name, stylizer, draws)
        if self.inserters:
            for name, stylizer in self.cfg.chosen_stylizers.items():
                mine = draws if stylizer.name != IMAGES else [d for d in draws if d[1] == self.cfg.seed]
                for pair, seed in mine:
                    self._insert(name, pair, seed)

    def _redraw(self, subject_id: str, name: str, method: EvaluatedStylizer, draws: Sequence[Draw]) -> None:
        batches = [draws[start : start + BATCH] for start in range(0, len(draws), BATCH)]
        files = [[picture_file(self.out, "stylize", name, *draw) for draw in batch] for batch in batches]
        missing = [not all(path.is_file() for path in paths) for paths in files]
        if not any(missing):
            self.tick(len(draws))
            return
        subject = self.bench.subject(subject_id)
        run = self._personalised(subject, method)
        subject = replace(subject, text=self.bench.subject_words[subject_id].simple, run=run)
        stylizer = build_stylizer(
            method, self.pipe, subject, style_of(self.cfg, method), sampling_of(self.cfg, method)
        )
        try:
            for batch, paths, wanted in zip(batches, files, missing, strict=True):
                if wanted:
                    self._draw_batch(stylizer, batch, paths)
                self.tick(len(batch))
        finally:
            stylizer.close()

    def _draw_batch(self, stylizer: Stylizer, batch: Sequence[Draw], paths: Sequence[Path]) -> None:
        pictures = stylizer(
            [
                StyleDraw(
                    self.bench.scene(pair.background).rgb,
                    seed,
                    pair.pair_id,
                    self.bench.background_words[pair.background].style_text,
                )
                for pair, seed in batch
            ]
        )
        for path, picture in zip(paths, pictures, strict=True):
            save_png(path, picture)

    def _personalised(self, subject: Subject, method: EvaluatedStylizer) -> Path | None:
        """The folder of the subject's personalisation by this method's recipe, trained if need be."""
        if not needs_personalization(method):
            return None
        from magic_insert.training.personalize import personalize

        wanted = recipe(self.cfg, method)
        home = Path(self.cfg.personalized) if self.cfg.personalized else self.out / "personalized"
        key = digest([asdict(wanted), self.cfg.seed, asdict(self.cfg.model), model_marks(self.model_folder)])
        folder = home / subject.id / key
        return personalize(self.pipe, subject, wanted, seed=self.cfg.seed, out=folder, progress=False)

    def _insert(self, stylizer: str, pair: BenchPair, seed: int) -> None:
        """The composites of one redrawn subject by every inserter."""
        wanted = {}
        for name in self.inserters:
            path = picture_file(self.out, "insert", f"{stylizer}+{name}", pair, seed)
            if not (path.is_file() and mask_file(path).is_file()):
                wanted[name] = path
        self.tick(len(self.inserters) - len(wanted))
        if not wanted:
            return
        scene = self.bench.scene(pair.background)
        redrawn = load_rgb(picture_file(self.out, "stylize", stylizer, pair, seed))
        cut = self._cut(redrawn, stylizer, pair)
        for name, path in wanted.items():
            made = insert_cutout(
                scene,
                cut,
                self.bench.box(pair, scene),
                inserter=self.drawn_inserters[name],
                composite=self.inserters[name].composite,
                draw=(seed, pair.pair_id),
            )
            save_png(mask_file(path), made.final.mask)
            save_png(path, made.final.rgb)
            self.tick(1)

    def _cut(self, redrawn: Float[Tensor, "3 h w"], stylizer: str, pair: BenchPair) -> Subject:
        """The redrawn subject without its ground; where nothing stands out, the whole picture, ground and all.

        A method may draw anything; one bad picture is a bad score, not the end of an evaluation. NOTES names it.
        """
        from magic_insert.models.segment import cut_subject, redraw_segmenter

        try:
            return cut_subject(
                redrawn, None, pair.subject, segmenter=redraw_segmenter(self.cfg.segmenter.name),
                model_folder=self.segmenter_folder,
            )  # fmt: skip
        except UserError as error:
            note = f"pasted with its ground, because: {error}"
            append_jsonl(self.out / NOTES, {"method": stylizer, "pair_id": pair.pair_id, "note": note})
            return Subject(redrawn, torch.ones_like(redrawn[:1]), pair.subject)
