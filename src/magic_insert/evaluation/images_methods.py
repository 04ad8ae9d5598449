"""Pictures made elsewhere as a method: found by the pattern of their names, all of them and no other.

A missing or surplus file would compare methods on different pairs without a word, so both are refused.
Shape letters: H, W rows and columns of a background. Pictures are float32 in [0, 1].
"""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema import ImagesConfig
from magic_insert.core.errors import UserError
from magic_insert.core.masks import blur, dilate, erode, fill_holes, largest_component
from magic_insert.data.benchmark_sources import SUFFIXES
from magic_insert.data.benchmarks import BenchPair

SHOWN = 8
CHANGED = 0.12  # blurred change of colour that says: here stands the subject
THIN = 128  # half the width of a line that is no subject: one part of so many of the longer side


def match_files(images: ImagesConfig, pairs: Sequence[BenchPair], method: str) -> dict[str, Path]:
    """The file of every pair, by pair_id.

    Raises:
        UserError: two pairs share a name, files are missing, or there are pictures that belong to no pair.
    """
    place = Path(str(images.dir))
    found = {pair.pair_id: place / name_of(images.pattern, pair) for pair in pairs}
    if len(set(found.values())) < len(found):
        raise UserError(
            f"expected a name of its own for every pair of {method}, got pairs that share one; "
            "put {side} into its pattern, as in 'res_{subject}_{background}_{side}.jpg'"
        )
    missing = [path for path in found.values() if not path.is_file()]
    folders = sorted({path.parent for path in found.values()})
    wanted = set(found.values())
    surplus = [
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and path not in wanted
    ]
    if missing or surplus:
        told = [
            f"{len(paths)} {word} ({_some(paths)})"
            for word, paths in (("missing", missing), ("surplus", surplus))
            if paths
        ]
        raise UserError(
            f"expected one picture for each of {len(found)} pairs of {method} in {place}, got {' and '.join(told)}; "
            "choose the pairs with benchmark.subjects, benchmark.backgrounds, benchmark.pairs, or correct the pattern"
        )
    return found


def name_of(pattern: str, pair: BenchPair) -> str:
    """The file name of a pair; `{side}` is l or r."""
    named = pattern.replace("{subject}", pair.subject).replace("{background}", pair.background)
    return named.replace("{side}", pair.side or "")


def _some(paths: Sequence[Path]) -> str:
    names = [path.name for path in paths[:SHOWN]]
    return ", ".join([*names, "..."] if len(paths) > SHOWN else names)


def require_size(picture: Float[Tensor, "3 _ _"], size: tuple[int, int], path: Path) -> None:
    """That a composite has the background's size.

    Raises:
        UserError: it has not; names the file.
    """
    height, width = picture.shape[-2:]
    if (height, width) != size:
        raise UserError(
            f"expected {size[1]} x {size[0]} pixels as its background in {path}, got {width} x {height}"
        )


def estimate_mask(
    composite: Float[Tensor, "3 H W"], background: Float[Tensor, "3 H W"], expected: Float[Tensor, "1 H W"]
) -> Float[Tensor, "1 H W"]:
    """Where the subject stands in a composite that came without its mask: the largest place where colours changed.

    A whole picture may be redrawn by its method (about 29 dB in the official results), hence blur and threshold; lines
    that moved a little are thin, hence the core, which survives being worn down. Where nothing changed that much, the
    mask is `expected`, the subject's own picture at its place.
    """
    change = (composite - background).abs().amax(dim=0, keepdim=True)
    side = max(composite.shape[-2:])
    changed = (blur(change, side / 200) > CHANGED).float()
    thin = round(side / THIN)
    core = largest_component(dilate(erode(changed, thin), thin))
    if not bool(core.any()):
        return expected.clone()
    return fill_holes(largest_component(changed * dilate(core, 3 * thin)))
