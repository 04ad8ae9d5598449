"""A contact shadow: the silhouette squashed onto the ground, and darkness under the feet. Seven numbers, no weights."""

from jaxtyping import Float
from torch import Tensor

from magic_insert.core.silhouettes import contact, foot_frame, frame_coordinates

BROAD, TIGHT = 0.33, 0.34  # darkening by the squashed silhouette and by its lowest tenth


def contact_shade(mask: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 1 H W"]:
    """The factor in (0, 1] by which the ground is darkened."""
    frame = foot_frame(mask)
    broad, tight = contact(mask, frame, frame_coordinates(frame, *mask.shape[-2:]))
    return (1.0 - BROAD * broad) * (1.0 - TIGHT * tight)
