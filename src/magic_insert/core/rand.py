"""Named random numbers: every draw is a function of a seed and the names of what it is drawn for.

`fold_in(seed, "noise", pair_id, step)` gives the same number in a batch, alone, after a resume and on any rank.
"""

import hashlib

import torch
from torch import Tensor
from torch.nn import functional


def fold_in(seed: int, *names: object) -> int:
    """A 63-bit seed derived from `seed` and `names`; different names give independent streams.

    Names are compared by their text, so `fold_in(0, 1)` equals `fold_in(0, "1")`.
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *names: object) -> torch.Generator:
    """A torch generator seeded with `fold_in(seed, *names)`, on the CPU."""
    return torch.Generator().manual_seed(fold_in(seed, *names))


class Dice:
    """Uniform numbers of one generator on one device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.device = generator.device

    def uniform(self, rows: int, low: float, high: float, channels: int = 1) -> Tensor:
        """B C 1 1 numbers."""
        drawn = torch.rand(rows, channels, 1, 1, generator=self.generator, device=self.device)
        return low + (high - low) * drawn

    def chance(self, rows: int, share: float) -> Tensor:
        """B 1 1 1, 1.0 in about `share` of the rows."""
        return (self.uniform(rows, 0.0, 1.0) < share).float()

    def number(self, low: float, high: float) -> float:
        return float(self.uniform(1, low, high))

    def noise(self, rows: int, size: tuple[int, int], roughness: float, channels: int = 1) -> Tensor:
        """B C H W noise of many octaves in about [-1, 1]; `roughness` is the gain from one octave to the next finer."""
        total = torch.zeros(rows, channels, *size, device=self.device)
        weight, cells = 1.0, 3
        while cells <= size[0]:
            shape = (rows, channels, cells, max(2, round(cells * size[1] / size[0])))
            grid = torch.rand(shape, generator=self.generator, device=self.device) * 2 - 1
            total += weight * functional.interpolate(grid, size, mode="bilinear", align_corners=False)
            weight, cells = weight * roughness, cells * 2
        return total / total.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-3)
