"""Training and publishing by several processes that were started from outside, by torchrun or Slurm.

Each rank holds the whole model and a contiguous slice of every global batch; gradients are averaged (DDP). Because the
slices are equal, the average over ranks of a mean loss is the mean over the global batch.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

from pytorch_lightning.plugins.environments import ClusterEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, distributed

from magic_insert.core.errors import UserError
from magic_insert.core.ranks import local_rank, rank, world_size

Batch = dict[str, Tensor]
Made = TypeVar("Made")


class StartedOutside(ClusterEnvironment):
    """Gives Lightning the ranks from torchrun's environment variables, whoever set these."""

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        return world_size() > 1

    def world_size(self) -> int:
        return world_size()

    def set_world_size(self, size: int) -> None:
        assert size == world_size()

    def global_rank(self) -> int:
        return rank()

    def set_global_rank(self, rank: int) -> None:
        """The environment decides; Lightning's own count is the same."""

    def local_rank(self) -> int:
        return local_rank()

    def node_rank(self) -> int:
        return rank() // ranks_per_node()


def ranks_per_node() -> int:
    """How many processes of the job share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def trainer_options(device: str, *, alone: bool = False) -> dict[str, Any]:
    """What a Lightning Trainer needs to train on `device` with all ranks of this job, or `alone`."""
    kind, _, index = device.partition(":")
    accelerator = "gpu" if kind == "cuda" else "cpu"
    if alone or world_size() == 1:
        return {"accelerator": accelerator, "devices": [int(index or 0)] if kind == "cuda" else 1}
    return {
        "accelerator": accelerator,
        "devices": ranks_per_node(),
        "num_nodes": world_size() // ranks_per_node(),
        # The text encoders' last layers are not used by the loss, so their parameters get no gradient.
        "strategy": DDPStrategy(cluster_environment=StartedOutside(), find_unused_parameters=True),
    }


def my_slice(batch: Batch) -> Batch:
    """This rank's rows of a global batch; tensors without rows (a step number) are everybody's.

    Raises:
        UserError: the rows cannot be shared evenly.
    """
    count, mine = world_size(), {}
    for name, value in batch.items():
        if value.ndim == 0 or count == 1:
            mine[name] = value
            continue
        if len(value) % count:
            raise UserError(
                f"expected a batch size that {count} processes can share, got {len(value)} ({name}); "
                "set a multiple as batch_size, or exec.devices to a divisor"
            )
        share = len(value) // count
        mine[name] = value[rank() * share : (rank() + 1) * share]
    return mine


def wait_for_all() -> None:
    """Returns when every rank has come here."""
    if world_size() > 1:
        distributed.barrier()


def first_rank_only(work: Callable[[], Any]) -> None:
    """Rank 0 does `work`, which writes files; the others go on when it is done.

    If `work` raises, rank 0 ends and the launcher ends the others.
    """
    if rank() == 0:
        work()
    wait_for_all()


def first_rank_first(work: Callable[[], Made]) -> Made:
    """`work` on every rank, on rank 0 before the others: what it keeps on disk, they find there."""
    if rank() != 0:
        wait_for_all()
        return work()
    made = work()
    wait_for_all()
    return made
