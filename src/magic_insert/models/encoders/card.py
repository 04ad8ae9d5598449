"""What an encoder is and how it looks at a picture: everything that can change a metric, in one hashable record.

Two numbers of one metric may be compared only if their cards have the same digest. Reports print the card.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError

ROLES = ("clip", "identity", "style", "distance", "reward")
INTERPOLATIONS = ("bicubic", "bilinear")
# What `weights` say of a file that is not known to be the published one.
ACCEPTED, UNKNOWN = "accepted by the user", "digest not known beforehand"
CARD_FILE = "encoder_card.json"


@dataclass(frozen=True)
class EncoderCard:
    """One encoder, complete: weights, preprocessing and provenance.

    `role` is one of ROLES, `interpolation` one of INTERPOLATIONS. `resize` is the shorter side in pixels after an
    antialiased resize, `crop` the side of the centre crop fed to the network; both are 0 for a network that takes
    pictures as they are. `mean` and `std` are per RGB channel for values in [0, 1]. `text_template` has one `{}`; None
    for encoders without a text side. `weights_sha256` is that of the weights file as shipped.
    """

    name: str
    role: str
    weights: str
    weights_sha256: str
    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    text_template: str | None
    embedding_dim: int
    trained_on: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise UserError(f"expected an encoder role of {ROLES}, got {self.role!r}")
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(f"expected an interpolation of {INTERPOLATIONS}, got {self.interpolation!r}")
        if not (0 < self.crop <= self.resize or self.crop == self.resize == 0):
            raise UserError(f"expected 0 < crop <= resize, got crop={self.crop}, resize={self.resize}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UserError(f"expected 3 means and 3 positive stds, got {self.mean} and {self.std}")
        if self.text_template is not None and self.text_template.count("{}") != 1:
            raise UserError(f"expected a text template with one {{}}, got {self.text_template!r}")

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values, in the order of declaration."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any], source: Path | str = "encoder card") -> "EncoderCard":
        """The card written by `to_dict`; UserError naming `source` if a field is missing or unknown."""
        expected = {field.name for field in fields(cls)}
        if set(row) != expected:
            raise UserError(f"expected the fields {sorted(expected)} in {source}, got {sorted(row)}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
        return cls(**values)

    @property
    def verified(self) -> bool:
        """Whether the weights are those this project knows, and not taken on a user's word."""
        return not any(mark in self.weights for mark in (ACCEPTED, UNKNOWN))

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over every field: what result rows carry."""
        return digest(self.to_dict())
