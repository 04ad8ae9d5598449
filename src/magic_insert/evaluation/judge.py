"""From embeddings and pixels to one row: what `scores` needs of a picture, its references and its truth.

Shape letters: H, W of a background. Pictures are float32 in [0, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.compositing import resize
from magic_insert.core.images import load_rgb
from magic_insert.data.benchmarks import Benchmark, Truth
from magic_insert.evaluation.entries import SELF, Entry
from magic_insert.evaluation.features import FeatureStore, Picture
from magic_insert.evaluation.given_pictures import expected_mask
from magic_insert.evaluation.images_methods import require_size
from magic_insert.evaluation.rows import Row
from magic_insert.evaluation.scores import (
    Distance,
    effect_region,
    effect_truth_values,
    insert_values,
    stylize_values,
    truth_values,
)


@dataclass(frozen=True)
class Judges:
    """The encoders by role, their embeddings of pictures and texts, and the perceptual distance if there is one."""

    encoders: Mapping[str, Any]
    store: FeatureStore
    texts: Mapping[str, Float[Tensor, " D"]]
    lpips: Distance | None
    cards: Mapping[str, str]

    def embedding(self, key: str) -> dict[str, Tensor]:
        """The embeddings of one picture by role."""
        found = {}
        for role, encoder in self.encoders.items():
            if hasattr(encoder, "embed_pixels"):
                found[role] = self.store.of(encoder.card.digest)[key]
        return found


def embed_texts(bench: Benchmark, encoders: Mapping[str, Any]) -> dict[str, Float[Tensor, " D"]]:
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
