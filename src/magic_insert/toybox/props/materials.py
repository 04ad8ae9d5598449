"""What props are made of: shared paints and what a prop maker is.

A prop maker takes a random stream, a place (x, z) and a size in world units (about the prop's height) and
returns shapes. Props keep to few primitives: a picture costs what its world holds.
"""

from collections.abc import Callable
from random import Random

from magic_insert.toybox.records import Paint, Shape, Vec3

Prop = Callable[[Random, float, float, float], tuple[Shape, ...]]

BARK = Paint((0.42, 0.29, 0.20))
WOOD = Paint((0.66, 0.46, 0.29), second=(0.52, 0.35, 0.21), pattern="planks", scale=3.0)
STEEL = Paint((0.62, 0.65, 0.70), gloss=0.2)
STONE = Paint((0.60, 0.58, 0.56), second=(0.50, 0.48, 0.47), pattern="noise", scale=5.0)
MARBLE = Paint((0.90, 0.87, 0.80))
BRICK = Paint((0.72, 0.38, 0.30), second=(0.62, 0.31, 0.25), pattern="checker", scale=4.0)
SNOW = Paint((0.95, 0.97, 1.0))
WHITE = Paint((0.95, 0.94, 0.92))
DARK = Paint((0.16, 0.16, 0.19))
GLOW = Paint((1.0, 0.93, 0.66))
WINDOW = Paint((0.70, 0.88, 0.98), gloss=0.3)
GREENS: tuple[Vec3, ...] = ((0.33, 0.58, 0.27), (0.42, 0.66, 0.30), (0.24, 0.50, 0.30))
CLOTHS: tuple[Vec3, ...] = (
    (0.80, 0.34, 0.32),
    (0.30, 0.52, 0.74),
    (0.94, 0.74, 0.34),
    (0.44, 0.62, 0.46),
    (0.70, 0.48, 0.66),
)


def pick(rng: Random, colours: tuple[Vec3, ...]) -> Paint:
    """A plain paint of one of the colours."""
    return Paint(rng.choice(colours))
