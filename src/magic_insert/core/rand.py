"""Named random numbers: every draw is a function of a seed and the names of what it is drawn for.

`fold_in(seed, "noise", pair_id, step)` gives the same number in a batch, alone, after a resume and on any rank.
"""

import hashlib

import torch


def fold_in(seed: int, *names: object) -> int:
    """A 63-bit seed derived from `seed` and `names`; different names give independent streams.

    Names are compared by their text, so `fold_in(0, 1)` equals `fold_in(0, "1")`.
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded with `fold_in(seed, *names)` on `device`."""
    return torch.Generator(device=device).manual_seed(fold_in(seed, *names))
