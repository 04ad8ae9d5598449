"""How close a picture is to the truth, inside a region."""

import math

from jaxtyping import Float
from torch import Tensor


def region_psnr(
    images: Float[Tensor, "B 3 H W"], truth: Float[Tensor, "B 3 H W"], region: Float[Tensor, "B 1 H W"]
) -> float | None:
    """Peak signal-to-noise ratio in dB inside `region`, squared errors pooled over the batch; None where it is empty.

    Pictures in [0, 1]. Capped at 100 dB, so that equal pictures give a number.
    """
    weight = float(region.double().sum()) * 3
    if weight == 0:
        return None
    error = float(((images.double() - truth.double()).square() * region).sum()) / weight
    return 100.0 if error <= 1e-10 else -10 * math.log10(error)
