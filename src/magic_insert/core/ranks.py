"""Processes: which of those of a job this one is, and whether another one still lives.

torchrun and Slurm set the environment that says so; a process that was not launched with others is rank 0 of 1. Work
is shared by position, never by a sampler that pads: an item belongs to exactly one rank, so nothing is done or counted
twice.
"""

import os
import socket
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path
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


@cache
def host_tag() -> str:
    """8 hex digits that tell this machine from others."""
    return blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()


def is_alive(pid: int, ticks: int | None) -> bool:
    """Whether process `pid` runs on this machine and is the one that began at `ticks`; None where that is not known."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # alive, of another user
        pass
    # Numbers are given out again; in a restarted container every job may be process 1.
    return ticks is None or start_ticks(pid) in (None, ticks)


def start_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks after the machine did; None without such a process or without /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # Field 22 of proc_pid_stat(5). Field 2 is the command in parentheses, and may hold spaces and parentheses itself.
    return int(stat.rpartition(b")")[2].split()[22 - 3])
