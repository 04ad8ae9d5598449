"""From embeddings and pixels to rows: one unit (track, method, subject) at a time, stored so that it is judged once.

A stored unit names what its numbers depend on: the benchmark, the cards, the pictures' bytes, and this code's version.
Shape letters: H, W of a background. Pictures are float32 in [0, 1].
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.compositing import paste, resize
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.data.benchmarks import Benchmark, BenchPair, Truth
from magic_insert.evaluation.entries import SELF, Entry
from magic_insert.evaluation.features import FeatureStore, Picture
from magic_insert.evaluation.images_methods import require_size
from magic_insert.evaluation.rows import Row, check_row
from magic_insert.evaluation.scores import (
    Distance,
    effect_region,
    effect_truth_values,
    insert_values,
    stylize_values,
    truth_values,
)

VERSION = 1  # of what the numbers mean: raised when scores.py or this file change them

Unit = tuple[str, str, str]


@dataclass(frozen=True)
class Judges:
    """The encoders by role, their embeddings of pictures and texts, and the perceptual distance if there is one."""

    encoders: Mapping[str, Any]
    store: FeatureStore
    texts: Mapping[str, Float[Tensor, "D"]]
    lpips: Distance | None
    cards: Mapping[str, str]

    def embedding(self, key: str) -> dict[str, Tensor]:
        """The embeddings of one picture by role."""
        found = {}
        for role, encoder in self.encoders.items():
            if hasattr(encoder, "embed_pixels"):
                found[role] = self.store.of(encoder.card.digest)[key]
        return found


def embed_texts(bench: Benchmark, encoders: Mapping[str, Any]) -> dict[str, Float[Tensor, "D"]]:
    """Every text of the benchmark, embedded once and all together."""
    texts = sorted(
        {t for s in bench.subjects for t in (s.simple, s.detailed)}
        | {b.style_text for b in bench.backgrounds}
    )
    texts = [text for text in texts if text]
    if "clip_t" not in encoders or not texts:
        return {}
    return dict(zip(texts, encoders["clip_t"].embed_texts(texts).cpu(), strict=True))


def pictures_of(entry: Entry) -> list[Picture]:
    """What encoders look at for an entry of its own; references are in `reference_pictures`."""
    if entry.picture is None:
        return []
    return [Picture(entry.picture, entry.mask)]


def reference_pictures(bench: Benchmark) -> list[list[Picture]]:
    """Subjects as one group, backgrounds as another."""
    return [
        [Picture(bench.subject_file(s.id)) for s in bench.subjects],
        [Picture(bench.background_file(b.id)) for b in bench.backgrounds],
    ]


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
    pairs = {entry.pair.pair_id: entry.pair for entry in entries}
    references = [
        [keys[Picture(bench.subject_file(p.subject))], keys[Picture(bench.background_file(p.background))]]
        for p in pairs.values()
    ]
    return digest([VERSION, bench.digest, dict(judges.cards), pictures, references])


def judge_unit(
    out: Path,
    unit: Unit,
    entries: Sequence[Entry],
    bench: Benchmark,
    keys: Mapping[Picture, str],
    judges: Judges,
) -> list[Row]:
    """The rows of a unit, stored and returned.

    Raises:
        UserError: a picture is damaged or has a wrong size; names the file.
    """
    inputs = unit_inputs(entries, bench, keys, judges)
    rows = stored_rows(out, unit, inputs)
    if rows is None:
        rows = [judge(out, entry, bench, keys, judges) for entry in entries]
        write_json(unit_file(out, unit), {"inputs": inputs, "rows": rows})
    return rows


def judge(out: Path, entry: Entry, bench: Benchmark, keys: Mapping[Picture, str], judges: Judges) -> Row:
    """The row of one entry."""
    values = (_stylize if entry.track == "stylize" else _insert)(entry, bench, keys, judges)
    return {
        "track": entry.track,
        "method": entry.method,
        "benchmark": bench.digest,
        "subject": entry.pair.subject,
        "background": entry.pair.background,
        "pair_id": entry.pair.pair_id,
        "style": bench.style_of(entry.pair),
        "seed": entry.seed,
        "values": values,
        "cards": dict(judges.cards),
        "images": _images(out, entry, bench),
    }


def _images(out: Path, entry: Entry, bench: Benchmark) -> dict[str, str]:
    made = {"stylize": "stylised", "insert": "composite"}[entry.track]
    files = {
        "subject": bench.subject_file(entry.pair.subject),
        "background": bench.background_file(entry.pair.background),
    }
    if bench.has_truth:
        files["truth"] = bench.truth_file(entry.pair, "styled" if entry.track == "stylize" else "composite")
    if entry.picture is not None:
        files[made] = entry.picture
    return {name: path.relative_to(out).as_posix() for name, path in files.items()}


def _references(
    entry: Entry, bench: Benchmark, keys: Mapping[Picture, str], judges: Judges
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    subject = judges.embedding(keys[Picture(bench.subject_file(entry.pair.subject))])
    return subject, judges.embedding(keys[Picture(bench.background_file(entry.pair.background))])


def _stylize(entry: Entry, bench: Benchmark, keys: Mapping[Picture, str], judges: Judges) -> dict[str, float]:
    subject, background = _references(entry, bench, keys, judges)
    words = bench.subject_words[entry.pair.subject]
    style_text = bench.background_words[entry.pair.background].style_text
    named = {"simple": words.simple, "detailed": words.detailed, "style": style_text}
    texts = {name: judges.texts[text] for name, text in named.items() if text in judges.texts}
    if entry.method == SELF:
        # A reference against itself: the subject's columns look at the subject, the style's at the background.
        whose = {"subject": subject, "style": background}
        return {
            column: value
            for side, stylised in whose.items()
            for column, value in stylize_values(
                stylised=stylised, subject=subject, background=background, texts=texts
            ).items()
            if column.startswith(side)
        }
    assert entry.picture is not None
    picture = load_rgb(entry.picture) if bench.has_truth or "image_reward" in judges.encoders else None
    reward = None
    if "image_reward" in judges.encoders and picture is not None:
        reward = float(judges.encoders["image_reward"].score(picture[None], [words.simple])[0])
    values = stylize_values(
        stylised=judges.embedding(keys[Picture(entry.picture)]),
        subject=subject, background=background, texts=texts, image_reward=reward,
    )  # fmt: skip
    if bench.has_truth and picture is not None:
        truth = bench.truth(entry.pair).styled
        same_size = resize(picture, *truth.shape[-2:])
        values |= truth_values(image=same_size, truth=truth, lpips=judges.lpips)
    return values


def _insert(entry: Entry, bench: Benchmark, keys: Mapping[Picture, str], judges: Judges) -> dict[str, float]:
    subject, scene = _references(entry, bench, keys, judges)
    background = load_rgb(bench.background_file(entry.pair.background))
    if entry.method == SELF:
        composite, inside = background, {**scene, **{k: v for k, v in subject.items() if k == "dino"}}
        mask = expected_mask(bench, entry.pair)
    else:
        assert entry.picture is not None
        assert entry.mask is not None
        composite, mask = load_rgb(entry.picture), load_rgb(entry.mask)[:1]
        require_size(composite, (background.shape[-2], background.shape[-1]), entry.picture)
        inside = judges.embedding(keys[Picture(entry.picture, entry.mask)])
    truth: Truth | None = bench.truth(entry.pair) if bench.has_truth else None
    # A subject may stand where its method put it; what it changes beyond that and beyond the effect is damage.
    allowed = torch.maximum(mask, expected_mask(bench, entry.pair) if truth is None else truth.mask)
    values = insert_values(
        composite=composite,
        background=background,
        mask=mask,
        region=effect_region(allowed, None if truth is None else truth.effect),
        inside=inside,
        subject=subject,
        scene=scene,
        lpips=judges.lpips,
    )
    if entry.method == SELF or truth is None:
        return values
    values |= truth_values(image=composite, truth=truth.composite, lpips=judges.lpips)
    return values | effect_truth_values(
        composite=composite, background=background, mask=mask,
        truth=truth.composite, truth_mask=truth.mask, truth_effect=truth.effect,
    )  # fmt: skip


@lru_cache(maxsize=32)
def expected_mask(bench: Benchmark, pair: BenchPair) -> Float[Tensor, "1 H W"]:
    """Where the subject's own picture would cover the background at the pair's place."""
    scene = bench.scene(pair.background)
    return paste(scene, bench.subject(pair.subject), bench.box(pair, scene)).mask


def judge_all(
    out: Path,
    units: Sequence[tuple[Unit, Sequence[Entry]]],
    bench: Benchmark,
    keys: Mapping[Picture, str],
    judges: Judges,
    on_row: Callable[[int], None],
) -> None:
    """Judges `units`, storing each as it is done; `on_row` hears how many rows are done."""
    for unit, entries in units:
        judge_unit(out, unit, entries, bench, keys, judges)
        on_row(len(entries))


def collect(
    out: Path,
    units: Sequence[tuple[Unit, Sequence[Entry]]],
    bench: Benchmark,
    keys: Mapping[Picture, str],
    judges: Judges,
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
