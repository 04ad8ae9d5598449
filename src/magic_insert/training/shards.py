"""A network shared out among ranks (FSDP2, Zhao et al. 2023, arXiv 2304.11277): each holds a slice of every tensor.

Weights, gradients, moments and the running mean are slices along the first dimension; a block's weights are put
together when it computes, and its gradients averaged into slices. What is elementwise works on slices as on the whole.
Checkpoints hold whole tensors, so a run goes on with any number of ranks.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def local(tensor: Tensor) -> Tensor:
    """What of `tensor` this rank holds, in the same memory; the caller needs no gradient."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of `tensor`; of a shared one every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def as_shared(part: Tensor, parameter: Tensor) -> Tensor:
    """The tensor of which this rank holds `part`, shared out as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return part
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(
        part, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
    )


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """The whole tensor `value`, known to every rank, shared out as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return value
    there = value.to(parameter.device)
    return distribute_tensor(there, parameter.device_mesh, parameter.placements, src_data_rank=None)


def gather(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """The whole `tensors` where they are to be kept, nothing elsewhere; one at a time, shared ones on the CPU."""
    kept = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if keep:
            kept[name] = full.cpu() if isinstance(tensor, DTensor) else full
    return kept


@torch.no_grad()
def take_over(module: nn.Module, shared: nn.Module) -> None:
    """Copies all that `shared` holds in slices into `module`, which has the same layers, on every rank."""
    own = module.state_dict()
    for name, value in shared.state_dict().items():
        own[name].copy_(whole(value))
