"""Metrics on embeddings and pixels, never on networks. Every state is a sum, so ranks and shards merge exactly.

Shapes: B items, D embedding dimensions, H W pixels. Images and masks are in [0, 1]. A metric that has seen nothing is
NaN: an empty table cell must not look like a bad method.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics import Metric

from magic_insert.core.errors import UserError


class MeanCosine(Metric):
    """Mean cosine of pairs, `sum_i <a_i, b_i> / (|a_i| |b_i|) / N`: CLIP-I, CLIP-T, DINO, CSD (paper, section 5).

    In [-1, 1], not times 100 and not clipped at 0.
    """

    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, first: Float[Tensor, "B D"], second: Float[Tensor, "B D"]) -> None:
        """Row i of `first` is compared with row i of `second`."""
        self.total += (normalize(first.double(), dim=1) * normalize(second.double(), dim=1)).sum()
        self.count += len(first)

    def compute(self) -> Float[Tensor, ""]:
        return _mean(self.total, self.count)


class RetrievalTop1(Metric):
    """Share of pictures whose own text is the nearest of the texts: `sum_i [argmax_j <v_i, t_j> = y_i] / N`.

    With the texts of other pictures as candidates it is caption retrieval; with one text per template ("a bunny") it
    is zero-shot template recognition. Chance is 1 / (number of texts).
    """

    higher_is_better = True
    full_state_update = False
    right: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(
        self, images: Float[Tensor, "B D"], texts: Float[Tensor, "T D"], targets: Int[Tensor, " B"]
    ) -> None:
        """`targets[i]` is the row of `texts` that belongs to picture i; equal rows of `texts` must be merged before.

        Raises:
            UserError: a target is not a row of `texts`.
        """
        if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < len(texts):
            raise UserError(f"expected targets in [0, {len(texts)}), got {targets.tolist()}")
        nearest = (normalize(images, dim=1) @ normalize(texts, dim=1).T).argmax(dim=1)
        self.right += (nearest == targets).sum()
        self.count += len(targets)

    def compute(self) -> Float[Tensor, ""]:
        return _mean(self.right, self.count)


class RegionPSNR(Metric):
    """Peak signal-to-noise ratio inside a soft region: `-10 log10(sum w (a - b)^2 / (3 sum w))` in decibel, peak 1.

    The squared error is pooled over all pictures before the logarithm, so a picture counts by the size of its region
    and a perfect one does not make the mean infinite. Region = effect mask: how true shadow and reflection are;
    region = subject box: how true the subject is.
    """

    higher_is_better = True
    full_state_update = False
    error: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("error", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        images: Float[Tensor, "B 3 H W"],
        truth: Float[Tensor, "B 3 H W"],
        region: Float[Tensor, "B 1 H W"],
    ) -> None:
        """`region` weights the pixels, 0 outside and 1 inside."""
        squared = (images.double() - truth.double()).square().sum(dim=1, keepdim=True)
        self.error += (region * squared).sum()
        self.weight += 3 * region.double().sum()

    def compute(self) -> Float[Tensor, ""]:
        return -10 * torch.log10(_mean(self.error, self.weight))


class ShadowIoU(Metric):
    """Agreement of two effect masks: mean over pictures of `|P and T| / |P or T|`, masks cut at 0.5.

    A picture without any effect in truth and prediction counts 1.
    """

    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predicted: Float[Tensor, "B 1 H W"], truth: Float[Tensor, "B 1 H W"]) -> None:
        """Masks in [0, 1], for example `toybox.world`'s effect mask and one measured in the same way."""
        ours, theirs = predicted > 0.5, truth > 0.5
        both = (ours & theirs).sum(dim=(1, 2, 3)).double()
        either = (ours | theirs).sum(dim=(1, 2, 3)).double()
        self.total += torch.where(either > 0, both / either.clamp(min=1), 1.0).sum()
        self.count += len(predicted)

    def compute(self) -> Float[Tensor, ""]:
        return _mean(self.total, self.count)


def _mean(total: Tensor, count: Tensor) -> Tensor:
    return torch.where(count > 0, total.double() / count.double(), torch.nan)
