"""The records the Toybox floors exchange: shapes make a world, the tracer turns worlds into a G-buffer.

World axes: x right, y up, z towards the camera; the ground is y = 0; one unit is about a metre.
Shape letters: B images, H rows, W columns. All colours are linear-free plain RGB in [0, 1].
"""

from dataclasses import dataclass, field, fields
from typing import Literal

from torch import Tensor

Vec3 = tuple[float, float, float]
Kind = Literal["ellipsoid", "capsule", "box", "cone"]
Pattern = Literal["plain", "stripes", "dots", "patches", "checker", "planks", "noise"]

FAR = 60.0  # the distance of the sky
SKY_ID, GROUND_ID, WALL_ID, FIRST_PROP_ID, SUBJECT_ID = 0, 1, 2, 3, 100


@dataclass(frozen=True)
class Paint:
    """What a surface is painted with: two colours and the pattern that mixes them."""

    colour: Vec3
    second: Vec3 = (1.0, 1.0, 1.0)
    pattern: Pattern = "plain"
    scale: float = 6.0  # pattern periods per world unit
    gloss: float = 0.0  # mirror strength in [0, 1]


@dataclass(frozen=True)
class Shape:
    """One primitive. `rotation` is a row-major 3x3 matrix taking the shape's own axes to the world's.

    kind       size (all in world units)
    ellipsoid  the three half axes
    capsule    (radius, half length of the core segment along own y, radius at the upper end)
    box        the three half extents; `rounding` is the radius of its edges
    cone       (radius at the lower end, half height along own y, radius at the upper end); a cylinder if equal
    """

    kind: Kind
    centre: Vec3
    size: Vec3
    paint: Paint
    rotation: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    rounding: float = 0.0
    object_id: int = SUBJECT_ID


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: position, the point it looks at, vertical field of view in degrees."""

    position: Vec3 = (0.0, 1.1, 4.2)
    target: Vec3 = (0.0, 0.55, 0.0)
    fov_deg: float = 32.0


@dataclass(frozen=True)
class Light:
    """Sun direction (towards the sun, any length), colours in [0, ~1.5], angular radius of the sun in radians."""

    sun_direction: Vec3 = (0.5, 0.9, 0.6)
    sun_colour: Vec3 = (1.0, 0.96, 0.88)
    sky_colour: Vec3 = (0.42, 0.46, 0.55)
    sun_radius: float = 0.06


@dataclass(frozen=True)
class World:
    """Everything that is seen: shapes, the ground at y = 0, an optional back wall, sky gradient, camera, light.

    `wall_z`: a wall facing the camera at z = wall_z (negative, behind the drop place), None for open scenes.
    `zenith`/`horizon`: the sky's colours above and at the horizon.
    """

    shapes: tuple[Shape, ...]
    ground: Paint | None  # None: a studio picture, nothing but the subject before the sky gradient
    wall: Paint | None = None
    wall_z: float | None = None
    zenith: Vec3 = (0.45, 0.65, 0.95)
    horizon: Vec3 = (0.85, 0.90, 0.97)
    camera: Camera = field(default_factory=Camera)
    light: Light = field(default_factory=Light)


@dataclass(frozen=True)
class GBuffer:
    """What a drawing style may know of every pixel. Tensors are float32 unless said otherwise.

    Rows of the batch are independent: row i equals the one-image batch of world i.
    """

    albedo: Tensor  # B 3 H W, paint colour with its pattern; sky pixels carry the sky gradient
    normal: Tensor  # B 3 H W, unit, world axes; zero in the sky
    position: Tensor  # B 3 H W, world; the far point in the sky
    depth: Tensor  # B 1 H W, distance along the ray; FAR in the sky
    object_id: Tensor  # B 1 H W int64: SKY_ID, GROUND_ID, WALL_ID, props from FIRST_PROP_ID, SUBJECT_ID
    part_id: Tensor  # B 1 H W int64: which primitive (1-based, world order), 0 on sky, ground and wall
    coverage: Tensor  # B 1 H W in [0, 1]: antialiased share of the pixel covered by the subject
    sun: Tensor  # B 1 H W, max(0, normal . sun), before shadows
    visibility: Tensor  # B 1 H W in [0, 1], soft share of the sun that is seen
    hard_visibility: Tensor  # B 1 H W, 0 or 1: the centre of the sun is seen
    occlusion: Tensor  # B 1 H W in [0, 1], 1 = open sky (ambient occlusion and contact)
    gloss: Tensor  # B 1 H W in [0, 1], mirror strength of the surface (already times Fresnel)
    mirror: Tensor  # B 3 H W, lit colour seen in the mirror direction (sky gradient if nothing is hit)
    mirror_id: Tensor  # B 1 H W int64, object id seen in the mirror direction
    sun_direction: Tensor  # B 3, unit
    sun_colour: Tensor  # B 3
    sky_colour: Tensor  # B 3


def rows(g: GBuffer, start: int, stop: int) -> GBuffer:
    """Rows start..stop-1 of a G-buffer (views, no copies)."""
    return GBuffer(**{f.name: getattr(g, f.name)[start:stop] for f in fields(GBuffer)})
