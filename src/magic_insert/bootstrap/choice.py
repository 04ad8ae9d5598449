"""Which round is kept: the one that gains most on seen styles among those that do not lose too much on photographs.

A row is a line of rounds.jsonl; rows[0] is the base. Numbers are the inserter's effect-region PSNR in decibel. Unseen
styles decide nothing. Torch-free.
"""

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


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
