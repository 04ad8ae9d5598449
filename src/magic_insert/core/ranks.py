"""Which of the processes of a job this one is: read from the environment that torchrun and Slurm set.

A process that was not launched with others is rank 0 of 1. Work is shared by position, never by a sampler that pads:
an item belongs to exactly one rank, so nothing is done or counted twice.
"""

import os
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def rank() -> int:
    """Number of this process among those of its job, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes the job has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Number of this process among those on its machine: which GPU it takes."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def shard(items: Sequence[Item]) -> list[Item]:
    """Those of `items` that are this rank's: every `world_size`-th, from its own number on."""
    return list(items[rank() :: world_size()])
