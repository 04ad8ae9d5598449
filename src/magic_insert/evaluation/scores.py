"""From pictures to rows: embeddings, each made once, then the numbers of every entry, stored by units.

Embeddings are kept by the bytes of the picture's file and the card of the encoder. Pictures come in groups, and a group
is embedded and stored as a whole, in chunks that depend on the group alone: a run that was killed, or that is spread
over processes, stacks the same pictures and gets the same bits. Files are decoded and prepared by threads while the
network is busy, a few chunks ahead, so memory does not grow with the number of pictures.
A unit is (track, method, subject). Its file names what its numbers depend on: the benchmark, the cards, the metrics,
the pictures' bytes, and the version of what the numbers mean.
Shape letters: H, W of a picture, C side of an encoder's input, D its embedding's length.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.config.registry import METRICS
from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb
from magic_insert.core.jsonl import read_record, write_json
from magic_insert.data.benchmarks import Benchmark
from magic_insert.evaluation.metrics import Distance, Metric, Sample, subject_crop
from magic_insert.evaluation.pictures import SELF, Entry, expected_mask, require_size
from magic_insert.evaluation.rows import MADE, Row
from magic_insert.models.tensor_file import read_tensors, save_tensors

VERSION = 2  # of what the numbers mean: raised when metrics.py or this file change them
CHUNK = 16  # pictures through a network at once
AHEAD = 3  # chunks that are being decoded while one is embedded
WORKERS = min(8, max(2, os.cpu_count() or 1))

Vectors = dict[str, Tensor]
Prepared = dict[str, Float[Tensor, "3 C C"]]
Unit = tuple[str, str, str]
Units = Sequence[tuple[Unit, Sequence[Entry]]]


# Embeddings


@dataclass(frozen=True)
class Picture:
    """What an encoder looks at: a whole picture, or with `mask` the subject's box cut out of it."""

    file: Path
    mask: Path | None = None

    def key(self) -> str:
        """A name by content: equal files have equal keys wherever they lie.

        Raises:
            UserError: a file is missing.
        """
        files = [path for path in (self.file, self.mask) if path is not None]
        for path in files:
            if not path.is_file():
                raise UserError(f"expected a picture at {path}, got no such file; make it again")
        shas = [sha256_file(path) for path in files]
        return shas[0] if self.mask is None else digest(shas)

    def pixels(self) -> Float[Tensor, "3 _ _"]:
        """The picture; transparent parts are white.

        Raises:
            UserError: a damaged file, or an empty mask; names the file.
        """
        rgb = load_rgb(self.file)
        if self.mask is None:
            return rgb
        try:
            return subject_crop(rgb, load_rgb(self.mask)[:1])
        except UserError as error:
            raise UserError(f"{self.mask}: {error}") from error


class FeatureStore:
    """Vectors on disk in `folder`/<card digest>/<group>.safetensors, and those of this run in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vectors: dict[str, Vectors] = {}

    def of(self, card: str) -> Vectors:
        """The vectors of one encoder by picture key; those on disk are read once.

        Raises:
            UserError: a stored file is damaged; names it.
        """
        if card not in self.vectors:
            files = sorted((self.folder / card).glob("*.safetensors"))
            parts = [read_tensors(path).tensors for path in files]
            self.vectors[card] = {key: vector for part in parts for key, vector in part.items()}
        return self.vectors[card]

    def add(self, card: str, group: Vectors) -> None:
        """Stores a group of vectors, atomically."""
        self.of(card).update(group)
        save_tensors(self.folder / card / f"{digest(sorted(group))}.safetensors", group, {})

    def forget(self) -> None:
        """Reads from disk again when next asked: other processes may have added theirs."""
        self.vectors.clear()


def embeddings(encoders: Mapping[str, Any]) -> dict[str, Any]:
    """The encoders that embed pictures by card digest; one that plays two roles is there once, scorers are left out."""
    return {e.card.digest: e for e in encoders.values() if hasattr(e, "embed_pixels")}


def keys_of(pictures: Sequence[Picture]) -> dict[Picture, str]:
    """The key of each picture; files are read by several threads.

    Raises:
        UserError: a file is missing.
    """
    unique = list(dict.fromkeys(pictures))
    with ThreadPoolExecutor(WORKERS) as pool:
        return dict(zip(unique, pool.map(Picture.key, unique), strict=True))


def embed_groups(
    groups: Sequence[Sequence[Picture]],
    keys: Mapping[Picture, str],
    encoders: Mapping[str, Any],
    store: FeatureStore,
    on_picture: Callable[[int], None],
) -> None:
    """Embeds every group that is not wholly in `store`; `on_picture` is called with the number of pictures done.

    Args:
        groups: pictures that are embedded together; a picture may be in several.
        keys: `keys_of` all of them.
        encoders: `embeddings(...)`, by card digest.

    Raises:
        UserError: a damaged picture, or an embedding that is not finite; names the file. Finished groups are kept.
    """
    pending = []
    for group in groups:
        unique = list({keys[picture]: picture for picture in group}.values())
        lacking = {
            card: e for card, e in encoders.items() if any(keys[p] not in store.of(card) for p in unique)
        }
        if lacking:
            pending.append((unique, lacking))
        else:
            on_picture(len(group))
    with ThreadPoolExecutor(WORKERS) as pool:
        chunks = _prepared(pool, pending)
        try:
            for group, lacking in pending:
                made: dict[str, Vectors] = {card: {} for card in lacking}
                for _ in range(0, len(group), CHUNK):
                    pictures, prepared = next(chunks)
                    for card, encoder in lacking.items():
                        rows = encoder.embed_pixels(torch.stack([part[card] for part in prepared])).cpu()
                        for picture, row in zip(pictures, rows, strict=True):
                            if not bool(torch.isfinite(row).all()):
                                raise UserError(
                                    f"expected a finite embedding of {picture.file} from {encoder.card.name}, got NaN "
                                    "or infinity; check the encoder's weights"
                                )
                            made[card][keys[picture]] = row.clone()
                    on_picture(len(pictures))
                for card in lacking:
                    store.add(card, made[card])
        finally:
            pool.shutdown(cancel_futures=True)


def _prepared(
    pool: ThreadPoolExecutor, pending: Sequence[tuple[Sequence[Picture], Mapping[str, Any]]]
) -> Iterator[tuple[Sequence[Picture], list[Prepared]]]:
    """Chunks in order, decoded and prepared AHEAD of their use."""

    def prepare(picture: Picture, encoders: Mapping[str, Any]) -> Prepared:
        pixels = picture.pixels()
        return {card: encoder.prepare(pixels) for card, encoder in encoders.items()}

    chunks = [(group[i : i + CHUNK], e) for group, e in pending for i in range(0, len(group), CHUNK)]
    waiting: deque[tuple[Sequence[Picture], list[Future[Prepared]]]] = deque()
    for number in range(len(chunks) + AHEAD):
        if number < len(chunks):
            chunk, encoders = chunks[number]
            waiting.append((chunk, [pool.submit(prepare, picture, encoders) for picture in chunk]))
        if number >= AHEAD:
            pictures, futures = waiting.popleft()
            yield pictures, [future.result() for future in futures]


# Judging


def pictures_of(entry: Entry) -> list[Picture]:
    """What encoders look at for an entry of its own."""
    return [] if entry.picture is None else [Picture(entry.picture, entry.mask)]


def references_of(entry: Entry, bench: Benchmark) -> dict[str, Picture]:
    """What an entry is compared with: subject, scene and, where it is known, the answer."""
    pair = entry.pair
    found = {
        "subject": Picture(bench.subject_file(pair.subject)),
        "scene": Picture(bench.background_file(pair.background)),
    }
    if bench.has_truth and entry.track == "stylize":
        found["answer"] = Picture(bench.truth_file(pair, "styled"))
    elif bench.has_truth:
        found["answer"] = Picture(bench.truth_file(pair, "composite"), bench.truth_file(pair, "mask"))
    return found


def picture_groups(bench: Benchmark, units: Units) -> list[list[Picture]]:
    """Pictures that are embedded together: the references by kind, then those of each unit; each picture once."""
    references = [references_of(entry, bench) for _, entries in units for entry in entries]
    kinds = ("subject", "scene", "answer")
    groups = [[found[kind] for found in references if kind in found] for kind in kinds]
    groups += [[picture for entry in entries for picture in pictures_of(entry)] for _, entries in units]
    known: set[Picture] = set()
    fresh = []
    for group in groups:
        fresh.append([picture for picture in dict.fromkeys(group) if picture not in known])
        known.update(group)
    return [group for group in fresh if group]


def embed_texts(bench: Benchmark, encoders: Mapping[str, Any]) -> dict[str, Float[Tensor, " D"]]:
    """Every text of the benchmark, embedded once and all together."""
    texts = {text for s in bench.subjects for text in (s.simple, s.detailed)}
    wanted = sorted(filter(None, texts | {b.style_text for b in bench.backgrounds}))
    if "clip_t" not in encoders or not wanted:
        return {}
    return dict(zip(wanted, encoders["clip_t"].embed_texts(wanted).cpu(), strict=True))


@dataclass(frozen=True)
class Stored:
    """A unit's file: the digest of what its rows depend on, and the rows."""

    inputs: str
    rows: list[Row]


@dataclass(frozen=True)
class Judges:
    """What turns entries into rows: encoders by role, their embeddings of pictures and texts, a perceptual distance.

    `out`: the run folder, in which the rows of each unit are stored. `keys`: those of the benchmark's and the methods'
    pictures. `extra`: further metrics by name.
    """

    out: Path
    bench: Benchmark
    keys: Mapping[Picture, str]
    encoders: Mapping[str, Any]
    store: FeatureStore
    texts: Mapping[str, Float[Tensor, " D"]]
    lpips: Distance | None
    extra: Sequence[str] = ()

    @cached_property
    def cards(self) -> dict[str, str]:
        """The digest of each judge's card by role."""
        lpips = {} if self.lpips is None else {"lpips": self.lpips}
        return {role: judge.card.digest for role, judge in {**self.encoders, **lpips}.items()}

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """What is measured, by name."""
        return {name: METRICS.get(name) for name in (*METRICS.own, *self.extra)}

    def judge_all(self, units: Units, on_row: Callable[[int], None]) -> None:
        """Judges `units`, several at a time, storing each as it is done; `on_row` is called with the number of rows.

        Judging is decoding and arithmetic, both of which leave Python's lock, so threads are enough. The first error
        ends it; units that are done by then are kept.

        Raises:
            UserError: a picture is damaged or has a wrong size; names the file.
        """

        def judge_unit(unit: Unit, entries: Sequence[Entry]) -> int:
            if self.stored(unit, entries) is None:
                rows = [self.judge(entry) for entry in entries]
                write_json(self.unit_file(unit), {"inputs": self.inputs(entries), "rows": rows})
            return len(entries)

        with ThreadPoolExecutor(WORKERS) as pool:
            tasks = [pool.submit(judge_unit, unit, entries) for unit, entries in units]
            try:
                for task in as_completed(tasks):
                    on_row(task.result())
            finally:
                pool.shutdown(cancel_futures=True)

    def collect(self, units: Units) -> list[Row]:
        """The stored rows of all units.

        Raises:
            UserError: a unit has none.
        """
        rows: list[Row] = []
        for unit, entries in units:
            if (found := self.stored(unit, entries)) is None:
                raise UserError(
                    f"expected rows in {self.unit_file(unit)}, got none; run the same command again"
                )
            rows += found
        return rows

    def unit_file(self, unit: Unit) -> Path:
        """Where the rows of a unit are stored."""
        track, method, subject = unit
        return self.out / "rows" / track / method.replace(":", "-") / f"{subject}.json"

    def stored(self, unit: Unit, entries: Sequence[Entry]) -> list[Row] | None:
        """The rows of a unit that was judged on the same inputs; None when it has to be judged (again).

        Raises:
            UserError: the file is damaged.
        """
        path = self.unit_file(unit)
        found = read_record(path, Stored) if path.is_file() else None
        return found.rows if found is not None and found.inputs == self.inputs(entries) else None

    def inputs(self, entries: Sequence[Entry]) -> str:
        """A digest of everything the rows of a unit depend on."""
        pictures = [[e.pair.pair_id, e.seed, [self.keys[p] for p in pictures_of(e)]] for e in entries]
        of_pairs = {entry.pair.pair_id: entry for entry in entries}.values()
        references = [[self.keys[p] for p in references_of(e, self.bench).values()] for e in of_pairs]
        about = [VERSION, self.bench.digest, self.cards, list(self.metrics)]
        return digest([*about, pictures, references])

    def judge(self, entry: Entry) -> Row:
        """The row of one entry."""
        pair, track = entry.pair, entry.track
        sample = self._redrawn(entry) if track == "stylize" else self._inserted(entry)
        if entry.method == SELF and track == "stylize":
            # A reference against itself: the subject's columns look at the subject, the style's at the background.
            sides = {"subject": sample.subject, "style": sample.scene}
            values = {
                column: value
                for side, made in sides.items()
                for column, value in self._values(replace(sample, made=made)).items()
                if column.startswith(side)
            }
        else:
            values = self._values(sample)
        found = references_of(entry, self.bench)
        images = {"subject": found["subject"].file, "background": found["scene"].file}
        if "answer" in found:
            images["truth"] = found["answer"].file
        if entry.picture is not None:
            images[MADE[track]] = entry.picture
        return {
            "track": cast(Any, track),
            "method": entry.method,
            "benchmark": self.bench.digest,
            "subject": pair.subject,
            "background": pair.background,
            "pair_id": pair.pair_id,
            "style": self.bench.style_of(pair),
            "seed": entry.seed,
            "values": values,
            "cards": self.cards,
            "images": {name: path.relative_to(self.out).as_posix() for name, path in images.items()},
        }

    def _values(self, sample: Sample) -> dict[str, float]:
        """Every column of the sample's track that can be had."""
        found: dict[str, float] = {}
        for metric in self.metrics.values():
            if sample.track in metric.columns:
                found |= metric.values(sample)
        return found

    def _embedding(self, picture: Picture) -> dict[str, Tensor]:
        """The embeddings of one picture by role."""
        key = self.keys[picture]
        return {
            role: self.store.of(encoder.card.digest)[key]
            for role, encoder in self.encoders.items()
            if hasattr(encoder, "embed_pixels")
        }

    def _sample(self, entry: Entry, **fields: Any) -> Sample:
        """The sample of an entry without what was made."""
        references = references_of(entry, self.bench).items()
        found = {name: self._embedding(picture) for name, picture in references}
        about = {"encoders": self.encoders, "lpips": self.lpips, **found, **fields}
        return Sample(entry.track, {}, **about)

    def _redrawn(self, entry: Entry) -> Sample:
        """The sample of a redrawn subject."""
        known = self.bench.subject_words[entry.pair.subject]
        style = self.bench.background_words[entry.pair.background].style_text
        words = {"simple": known.simple, "detailed": known.detailed, "style": style}
        texts = {name: self.texts[text] for name, text in words.items() if text in self.texts}
        sample = self._sample(entry, words=words, texts=texts)
        if entry.picture is None:
            return sample
        return replace(
            sample,
            made=self._embedding(Picture(entry.picture)),
            picture=load_rgb(entry.picture),
            truth=self.bench.truth(entry.pair) if self.bench.has_truth else None,
        )

    def _inserted(self, entry: Entry) -> Sample:
        """The sample of a composite; a reference against itself is the background and a perfect subject."""
        bench, pair = self.bench, entry.pair
        background = load_rgb(bench.background_file(pair.background))
        truth = bench.truth(pair) if bench.has_truth else None
        expected = expected_mask(bench, pair) if truth is None or entry.method == SELF else truth.mask
        sample = self._sample(entry, background=background, expected=expected, truth=truth)
        if entry.method == SELF:
            same = {role: vector for role, vector in sample.subject.items() if role == "dino"}
            perfect = {**sample.scene, **same}
            return replace(sample, made=perfect, picture=background, mask=expected, truth=None)
        assert entry.picture is not None
        assert entry.mask is not None
        composite = load_rgb(entry.picture)
        require_size(composite, (background.shape[-2], background.shape[-1]), entry.picture)
        made = self._embedding(Picture(entry.picture, entry.mask))
        return replace(sample, made=made, picture=composite, mask=load_rgb(entry.mask)[:1])
