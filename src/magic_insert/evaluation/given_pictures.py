"""Pictures that no model draws: those made elsewhere, copied to where rows look for them, and the floors' composites.

Shape letters: H, W of a background. Pictures are float32 in [0, 1].
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema import EvaluateConfig
from magic_insert.core.compositing import paste
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.jsonl import read_json, write_bytes, write_json
from magic_insert.data.benchmarks import Benchmark, BenchPair
from magic_insert.evaluation.claims import CLAIM
from magic_insert.evaluation.entries import (
    COPY_PASTE,
    RANDOM_SUBJECT,
    mask_file,
    method_folder,
    other_subject,
    picture_file,
)
from magic_insert.evaluation.images_methods import estimate_mask, require_size


@lru_cache(maxsize=32)
def expected_mask(bench: Benchmark, pair: BenchPair) -> Float[Tensor, "1 H W"]:
    """Where the subject's own picture would cover the background at the pair's place."""
    scene = bench.scene(pair.background)
    return paste(scene, bench.subject(pair.subject), bench.box(pair, scene)).mask


def adopt(
    bench: Benchmark,
    out: Path,
    made_elsewhere: Mapping[tuple[str, str], Mapping[str, Path]],
    masks: Mapping[str, Mapping[str, Path]],
    seed: int,
) -> None:
    """Copies pictures made elsewhere to where the rows look for them, with a mask for each composite.

    Args:
        made_elsewhere: (track, method) to pair_id to file.
        masks: method to pair_id to the file of a composite's mask, where they came along.
        seed: the draw that they stand for.

    Masks that were handed in and masks that were estimated never mix: the method's claim says which its masks are, and
    while they are made there is none.

    Raises:
        UserError: a picture is damaged, or a composite or mask has another size than the background.
    """
    pairs = {pair.pair_id: pair for pair in bench.pairs}
    for (track, method), files in made_elsewhere.items():
        mark = method_folder(out, track, method) / CLAIM
        origin = {"masks": "given" if method in masks else "estimated"} if track == "insert" else {}
        same_origin = not origin or (mark.is_file() and read_json(mark) == origin)
        if not same_origin:
            mark.unlink(missing_ok=True)
        for pair_id, source in files.items():
            pair = pairs[pair_id]
            place = picture_file(out, track, method, pair, seed)
            content = source.read_bytes()
            given = masks.get(method, {}).get(pair_id) if track == "insert" else None
            known = same_origin and given is None
            if known and place.is_file() and place.read_bytes() == content:
                continue
            picture = load_rgb(source)
            if track == "insert":
                require_size(picture, bench.scene(pair.background).size, source)
                save_png(mask_file(place), _mask(bench, pair, picture, given))
            write_bytes(place, content)
        if not same_origin:
            write_json(mark, origin)


def _mask(
    bench: Benchmark, pair: BenchPair, composite: Float[Tensor, "3 H W"], given: Path | None
) -> Float[Tensor, "1 H W"]:
    scene = bench.scene(pair.background)
    if given is None:
        return estimate_mask(composite, scene.rgb, expected_mask(bench, pair))
    mask = load_rgb(given)
    require_size(mask, scene.size, given)
    return mask[:1]


def floor_pictures(cfg: EvaluateConfig, bench: Benchmark, out: Path, subject_id: str) -> None:
    """The composites of the floors: the subject's own picture, and another subject's, pasted as they are."""
    if not (cfg.floors and "insert" in cfg.tracks):
        return
    for pair in bench.pairs:
        if pair.subject != subject_id:
            continue
        who = {COPY_PASTE: pair.subject, RANDOM_SUBJECT: other_subject(bench, pair, cfg.seed)}
        for method, name in who.items():
            path = picture_file(out, "insert", method, pair, cfg.seed)
            if name is not None and not path.is_file():
                scene = bench.scene(pair.background)
                made = paste(scene, bench.subject(name), bench.box(pair, scene))
                save_png(mask_file(path), made.mask)
                save_png(path, made.rgb)
