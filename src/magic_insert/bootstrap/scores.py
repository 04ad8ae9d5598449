"""From sums per picture to the numbers of a round, their intervals, and which round is kept.

Shape letters: N scenes, R resamples. A resample draws scenes with replacement, the same ones for every group and model,
so that differences between rounds are paired. A row is a line of rounds.jsonl; rows[0] is the base. Kept is the round
that gains most effect-region PSNR of the inserter on seen styles among those that do not lose too much on photographs;
unseen styles decide nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from magic_insert.core.fidelity import psnr_pooled

Row = dict[str, Any]
Sums = Mapping[str, float]
Rows = Sequence[Sums]
GROUPS = ("photo", "seen", "unseen")


def pooled(rows: Rows, error: str, pixels: str) -> float | None:
    """PSNR of the pooled squared error; None where there is no such region, or not every picture has such an error."""
    if any(error not in row for row in rows):
        return None
    return psnr_pooled((row[error], row[pixels]) for row in rows)


def mean_of(rows: Rows, name: str) -> float | None:
    """Plain mean over the pictures that have the value."""
    values = [row[name] for row in rows if name in row]
    return sum(values) / len(values) if values else None


STATISTICS: dict[str, Callable[[Rows], float | None]] = {
    "effect_psnr": lambda rows: pooled(rows, "effect_error", "effect_pixels"),
    "effect_psnr_nothing": lambda rows: pooled(rows, "nothing_error", "effect_pixels"),
    "hole_psnr": lambda rows: pooled(rows, "hole_error", "hole_pixels"),
    "outside_psnr": lambda rows: pooled(rows, "outside_error", "outside_pixels"),
    "shadow_iou": lambda rows: mean_of(rows, "shadow_iou"),
    "lpips": lambda rows: mean_of(rows, "lpips"),
    # The same of the effect layer over the scene, which is what a user gets; only an insertion has it.
    "layered_psnr": lambda rows: pooled(rows, "layered_error", "effect_pixels"),
    "layered_lpips": lambda rows: mean_of(rows, "layered_lpips"),
}


def group_of(name: str) -> str:
    """photo, seen or unseen, from the id of a held-out picture ("0007-seen")."""
    return name.rpartition("-")[2]


def metrics(values: Mapping[str, Sums]) -> dict[str, dict[str, float]]:
    """group -> metric -> value, for the pictures `values` (id -> sums)."""
    return {
        group: {
            name: round(found, 4)
            for name, statistic in STATISTICS.items()
            if (found := statistic(rows)) is not None
        }
        for group in GROUPS
        if (rows := [row for name, row in values.items() if group_of(name) == group])
    }


def intervals(
    values: Mapping[str, Sums], *, seed: int, resamples: int, coverage: float
) -> dict[str, dict[str, list[float]]]:
    """group -> metric -> [low, high], percentiles over resampled scenes."""
    return {
        group: {
            name: _percentiles([statistic([rows[i] for i in pick]) for pick in picks], coverage)
            for name, statistic in STATISTICS.items()
            if statistic(rows) is not None
        }
        for group, rows, picks in _resampled(values, seed, resamples)
    }


def changes(
    before: Mapping[str, Sums],
    after: Mapping[str, Sums],
    *,
    seed: int,
    resamples: int,
    coverage: float,
) -> dict[str, dict[str, list[float]]]:
    """group -> metric -> [difference, low, high] of two models on the same pictures, paired by scene."""
    result: dict[str, dict[str, list[float]]] = {}
    second = [rows for _, rows, _ in _resampled(after, seed, 1)]
    for (group, first, picks), then in zip(_resampled(before, seed, resamples), second, strict=True):
        result[group] = {}
        for name, statistic in STATISTICS.items():
            if (was := statistic(first)) is None or (now := statistic(then)) is None:
                continue
            drawn = [
                _difference(statistic([first[i] for i in pick]), statistic([then[i] for i in pick]))
                for pick in picks
            ]
            result[group][name] = [round(now - was, 4), *_percentiles(drawn, coverage)]
    return result


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _resampled(
    values: Mapping[str, Sums], seed: int, resamples: int
) -> list[tuple[str, list[Sums], np.ndarray]]:
    """Per group its rows in order of their ids, and R x N row numbers."""
    found = []
    for group in GROUPS:
        rows = [values[name] for name in sorted(values) if group_of(name) == group]
        if rows:
            picks = np.random.default_rng(seed).integers(0, len(rows), (resamples, len(rows)))
            found.append((group, rows, picks))
    return found


def _percentiles(values: Sequence[float | None], coverage: float) -> list[float]:
    tail = 50 * (1 - coverage)
    known = [value for value in values if value is not None]
    return [round(float(q), 4) for q in np.percentile(known, (tail, 100 - tail))]


def seen(row: Row) -> float:
    """What rounds are chosen by: the inserter's effect-region PSNR on seen styles."""
    return _psnr(row, "seen") or 0.0


def photo_loss(base: Row, row: Row) -> float:
    """How much worse than `base` photographs have become; 0 where no held-out photograph has an effect."""
    before, after = _psnr(base, "photo"), _psnr(row, "photo")
    return 0.0 if before is None or after is None else before - after


def best_round(rows: Sequence[Row], max_photo_loss: float) -> int:
    """The position of the best row with a photo loss of at most `max_photo_loss`; 0, the base, where none is better."""
    return max(_eligible(rows, max_photo_loss), key=lambda i: seen(rows[i]))


def improves(rows: Sequence[Row], *, min_gain: float, max_photo_loss: float) -> bool:
    """Whether the last row gains more than `min_gain` over the best eligible one before it, and is eligible itself."""
    gain = seen(rows[-1]) - seen(rows[best_round(rows[:-1], max_photo_loss)])
    return gain > min_gain and len(rows) - 1 in _eligible(rows, max_photo_loss)


def conclusion(rows: Sequence[Row], max_photo_loss: float) -> str:
    """The last line of a run: what changed against the truth, whether beyond chance, and at what price."""
    best = best_round(rows, max_photo_loss)
    base, row = rows[0], rows[best]
    if best == 0:
        tried = max(rows, key=seen)
        if tried is base:
            return f"no round improved drawn styles ({seen(base):.1f} dB); the base networks were kept"
        return (
            f"the base networks were kept: drawn styles {_pair(base, tried, 'seen')} dB in round {tried['round']}, but "
            f"photo lost {photo_loss(base, tried):.2f} dB, more than bootstrap.max_photo_loss={max_photo_loss:g}"
        )
    low, high = row["changes"]["inserter"]["seen"]["effect_psnr"][1:]
    where, zero = ("beyond", "outside") if low > 0 else ("within", "inside")
    loss = photo_loss(base, row)
    photo = f"lost {loss:.2f} dB" if loss > 0 else f"gained {-loss:.2f} dB"
    return (
        f"effect-region PSNR on drawn styles {_pair(base, row, 'seen')} dB, a gain {where} its paired interval "
        f"(zero lies {zero} [{low:+.2f}, {high:+.2f}]), unseen styles {_pair(base, row, 'unseen')}; "
        f"photo {photo} ({_pair(base, row, 'photo')})"
    )


def _eligible(rows: Sequence[Row], max_photo_loss: float) -> list[int]:
    return [i for i, row in enumerate(rows) if photo_loss(rows[0], row) <= max_photo_loss]


def _psnr(row: Row, group: str) -> float | None:
    found = row["metrics"]["inserter"].get(group, {}).get("effect_psnr")
    return None if found is None else float(found)


def _pair(base: Row, row: Row, group: str) -> str:
    return " -> ".join("unknown" if (n := _psnr(r, group)) is None else f"{n:.1f}" for r in (base, row))
