"""From pictures and embeddings to rows, judged and stored by units (track, method, subject), each once.

A stored unit names what its numbers depend on: the benchmark, the cards, the metrics, the pictures' bytes, and the
version of what the numbers mean. Shape letters: D embedding dimensions.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from magic_insert.config.registry import METRICS
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.data.benchmarks import Benchmark
from magic_insert.evaluation.features import WORKERS, FeatureStore, Picture
from magic_insert.evaluation.grid import SELF, Entry
from magic_insert.evaluation.metrics import Distance, Metric, Sample
from magic_insert.evaluation.pictures import expected_mask, require_size
from magic_insert.evaluation.rows import MADE, Row, check_row

VERSION = 1  # of what the numbers mean: raised when metrics.py or this file change them

Unit = tuple[str, str, str]
Units = Sequence[tuple[Unit, Sequence[Entry]]]


@dataclass(frozen=True)
class Judges:
    """The encoders by role, their embeddings of pictures and texts, the perceptual distance, the metrics by name."""

    encoders: Mapping[str, Any]
    store: FeatureStore
    texts: Mapping[str, Float[Tensor, " D"]]
    lpips: Distance | None
    extra: Sequence[str] = ()
    cards: Mapping[str, str] = field(init=False)
    metrics: Mapping[str, Metric] = field(init=False)

    def __post_init__(self) -> None:
        cards = {role: encoder.card.digest for role, encoder in self.encoders.items()}
        if self.lpips is not None:
            cards["lpips"] = self.lpips.card.digest  # type: ignore[attr-defined]
        object.__setattr__(self, "cards", cards)
        object.__setattr__(self, "metrics", {name: METRICS.get(name) for name in (*METRICS.own, *self.extra)})

    def embedding(self, key: str) -> dict[str, Tensor]:
        """The embeddings of one picture by role."""
        return {
            role: self.store.of(encoder.card.digest)[key]
            for role, encoder in self.encoders.items()
            if hasattr(encoder, "embed_pixels")
        }

    def values(self, sample: Sample) -> dict[str, float]:
        """Every column of the sample's track that can be had."""
        found: dict[str, float] = {}
        for metric in self.metrics.values():
            if sample.track in metric.columns:
                found |= metric.values(sample)
        return found


def embed_texts(bench: Benchmark, encoders: Mapping[str, Any]) -> dict[str, Float[Tensor, " D"]]:
    """Every text of the benchmark, embedded once and all together."""
    texts = {text for s in bench.subjects for text in (s.simple, s.detailed)}
    wanted = sorted(filter(None, texts | {b.style_text for b in bench.backgrounds}))
    if "clip_t" not in encoders or not wanted:
        return {}
    return dict(zip(wanted, encoders["clip_t"].embed_texts(wanted).cpu(), strict=True))


def pictures_of(entry: Entry) -> list[Picture]:
    """What encoders look at for an entry of its own; references are in `reference_pictures`."""
    return [] if entry.picture is None else [Picture(entry.picture, entry.mask)]


def reference_pictures(bench: Benchmark) -> list[list[Picture]]:
    """Subjects as one group, backgrounds as another."""
    return [
        [Picture(bench.subject_file(s.id)) for s in bench.subjects],
        [Picture(bench.background_file(b.id)) for b in bench.backgrounds],
    ]


def judge(out: Path, entry: Entry, bench: Benchmark, keys: Mapping[Picture, str], judges: Judges) -> Row:
    """The row of one entry."""
    pair, track = entry.pair, entry.track
    sample = (_redrawn if track == "stylize" else _inserted)(entry, bench, keys, judges)
    if entry.method == SELF and track == "stylize":
        # A reference against itself: the subject's columns look at the subject, the style's at the background.
        sides = {"subject": sample.subject, "style": sample.scene}
        values = {
            column: value
            for side, made in sides.items()
            for column, value in judges.values(replace(sample, made=made)).items()
            if column.startswith(side)
        }
    else:
        values = judges.values(sample)
    images = {
        "subject": bench.subject_file(pair.subject),
        "background": bench.background_file(pair.background),
    }
    if bench.has_truth:
        images["truth"] = bench.truth_file(pair, "styled" if track == "stylize" else "composite")
    if entry.picture is not None:
        images[MADE[track]] = entry.picture
    return {
        "track": track,
        "method": entry.method,
        "benchmark": bench.digest,
        "subject": pair.subject,
        "background": pair.background,
        "pair_id": pair.pair_id,
        "style": bench.style_of(pair),
        "seed": entry.seed,
        "values": values,
        "cards": dict(judges.cards),
        "images": {name: path.relative_to(out).as_posix() for name, path in images.items()},
    }


def _redrawn(entry: Entry, bench: Benchmark, keys: Mapping[Picture, str], judges: Judges) -> Sample:
    """The sample of a redrawn subject."""
    subject, scene = (judges.embedding(keys[picture]) for picture in _references(entry, bench))
    known = bench.subject_words[entry.pair.subject]
    style = bench.background_words[entry.pair.background].style_text
    words = {"simple": known.simple, "detailed": known.detailed, "style": style}
    texts = {name: judges.texts[text] for name, text in words.items() if text in judges.texts}
    sample = Sample("stylize", {}, subject, scene, words=words, texts=texts)
    if entry.picture is None:
        return sample
    return replace(
        sample,
        made=judges.embedding(keys[Picture(entry.picture)]),
        picture=load_rgb(entry.picture),
        truth=bench.truth(entry.pair) if bench.has_truth else None,
        encoders=judges.encoders,
        lpips=judges.lpips,
    )


def _inserted(entry: Entry, bench: Benchmark, keys: Mapping[Picture, str], judges: Judges) -> Sample:
    """The sample of a composite; the ceiling of a reference against itself is the background and a perfect subject."""
    subject, scene = (judges.embedding(keys[picture]) for picture in _references(entry, bench))
    background = load_rgb(bench.background_file(entry.pair.background))
    truth = bench.truth(entry.pair) if bench.has_truth else None
    expected = expected_mask(bench, entry.pair) if truth is None or entry.method == SELF else truth.mask
    sample = Sample(
        "insert", {}, subject, scene, background=background, expected=expected, truth=truth,
        encoders=judges.encoders, lpips=judges.lpips,
    )  # fmt: skip
    if entry.method == SELF:
        perfect = {**scene, **{role: vector for role, vector in subject.items() if role == "dino"}}
        return replace(sample, made=perfect, picture=background, mask=expected, truth=None)
    assert entry.picture is not None
    assert entry.mask is not None
    composite = load_rgb(entry.picture)
    require_size(composite, (background.shape[-2], background.shape[-1]), entry.picture)
    made = judges.embedding(keys[Picture(entry.picture, entry.mask)])
    return replace(sample, made=made, picture=composite, mask=load_rgb(entry.mask)[:1])


def _references(entry: Entry, bench: Benchmark) -> tuple[Picture, Picture]:
    pair = entry.pair
    return Picture(bench.subject_file(pair.subject)), Picture(bench.background_file(pair.background))


# Units


def unit_file(out: Path, unit: Unit) -> Path:
    """Where the rows of a unit are stored."""
    track, method, subject = unit
    return out / "rows" / track / method.replace(":", "-") / f"{subject}.json"


def stored_rows(out: Path, unit: Unit, inputs: str) -> list[Row] | None:
    """The rows of a unit that was judged on the same inputs; None when it has to be judged (again).

    Raises:
        UserError: the file is damaged.
    """
    path = unit_file(out, unit)
    if not path.is_file():
        return None
    stored = read_json(path)
    if not isinstance(stored, dict) or stored.get("inputs") != inputs:
        return None
    return [check_row(row, str(path)) for row in stored["rows"]]


def unit_inputs(
    entries: Sequence[Entry], bench: Benchmark, keys: Mapping[Picture, str], judges: Judges
) -> str:
    """A digest of everything the rows of a unit depend on."""
    pictures = [[e.pair.pair_id, e.seed, [keys[p] for p in pictures_of(e)]] for e in entries]
    of_pairs = {entry.pair.pair_id: entry for entry in entries}.values()
    references = [[keys[picture] for picture in _references(entry, bench)] for entry in of_pairs]
    return digest([VERSION, bench.digest, dict(judges.cards), list(judges.metrics), pictures, references])


def judge_all(
    out: Path,
    units: Units,
    bench: Benchmark,
    keys: Mapping[Picture, str],
    judges: Judges,
    on_row: Callable[[int], None],
) -> None:
    """Judges `units`, several at a time, storing each as it is done; `on_row` is called with the number of new rows.

    Judging is decoding and arithmetic, both of which leave Python's lock, so threads are enough. The first error ends
    it; units that are done by then are kept.

    Raises:
        UserError: a picture is damaged or has a wrong size; names the file.
    """

    def judge_unit(unit: Unit, entries: Sequence[Entry]) -> int:
        inputs = unit_inputs(entries, bench, keys, judges)
        if stored_rows(out, unit, inputs) is None:
            rows = [judge(out, entry, bench, keys, judges) for entry in entries]
            write_json(unit_file(out, unit), {"inputs": inputs, "rows": rows})
        return len(entries)

    with ThreadPoolExecutor(WORKERS) as pool:
        tasks = [pool.submit(judge_unit, unit, entries) for unit, entries in units]
        try:
            for task in as_completed(tasks):
                on_row(task.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def collect(
    out: Path, units: Units, bench: Benchmark, keys: Mapping[Picture, str], judges: Judges
) -> list[Row]:
    """The stored rows of all units.

    Raises:
        UserError: a unit has none.
    """
    rows: list[Row] = []
    for unit, entries in units:
        found = stored_rows(out, unit, unit_inputs(entries, bench, keys, judges))
        if found is None:
            raise UserError(f"expected rows in {unit_file(out, unit)}, got none; run the same command again")
        rows += found
    return rows
