"""The running mean of trained weights, which is often a better product than the last weights.

Its early steps forget faster (decay (1 + n) / (10 + n) at step n), so that the start does not linger.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class RunningMean:
    """An exponential mean of `parameters`, beside them on their device."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.means = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after update number `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for mean, parameter in zip(self.means, self.parameters, strict=True):
            mean.lerp_(parameter.detach(), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside this block the parameters hold the mean; afterwards their own values, bit for bit."""
        own = [p.detach().clone() for p in self.parameters]
        self._write(self.means)
        try:
            yield
        finally:
            self._write(own)

    def restart(self) -> None:
        """The mean becomes the present values of the parameters."""
        self.means = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def _write(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
