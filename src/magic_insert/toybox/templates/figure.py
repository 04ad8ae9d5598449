"""What a template gets and gives: a `Look` goes in, a `Figure` (shapes, and places for accessories) comes out.

A figure stands about the origin of its own space, faces +z, is one to two units tall; `subjects` scales it.
Proportions are numbers in [0, 1]: 0 head size, 1 width, 2 leg length, 3 feature length, 4 eye size, 5 limb
thickness.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from magic_insert.toybox.records import Paint, Shape, Vec3
from magic_insert.toybox.solids import ball, limb

PROPORTIONS = 6
INK = Paint((0.06, 0.05, 0.07), gloss=0.35)
CREAM: Vec3 = (0.98, 0.94, 0.86)
WOOD = Paint((0.62, 0.42, 0.26))
METAL = Paint((0.66, 0.68, 0.72), gloss=0.25)
TYRE = Paint((0.13, 0.13, 0.15))
GLASS = Paint((0.62, 0.84, 0.95), gloss=0.4)
BLUSH = Paint((0.98, 0.66, 0.62))


@dataclass(frozen=True)
class Look:
    """How one subject differs from others of its template."""

    proportions: tuple[float, ...]
    main: Paint  # the named colour with the pattern
    second: Vec3  # the other colour of the pattern
    pose: str

    def mix(self, index: int, low: float, high: float) -> float:
        """Proportion `index` mapped from [0, 1] to [low, high]."""
        return low + (high - low) * self.proportions[index]

    @property
    def plain(self) -> Paint:
        """The main colour without its pattern: for small parts, where a pattern would be noise."""
        return replace(self.main, pattern="plain")

    @property
    def pale(self) -> Paint:
        """A cream tint of the main colour: bellies, muzzles, inner ears."""
        return Paint(blend(self.main.colour, CREAM, 0.72))

    @property
    def deep(self) -> Paint:
        """A darker shade of the main colour: paws, soles, trims."""
        return Paint(blend(self.main.colour, (0.10, 0.07, 0.10), 0.38))

    @property
    def trim(self) -> Paint:
        """The second colour, plain."""
        return Paint(self.second)


@dataclass(frozen=True)
class Figure:
    """The shapes of one subject in its own space, and where accessories go (None: that kind does not fit)."""

    shapes: tuple[Shape, ...]
    crown: tuple[Vec3, float] | None = None  # top of the head, and a radius there
    eyes: tuple[Vec3, Vec3, float] | None = None  # left, right centre, radius
    neck: tuple[Vec3, float] | None = None
    back: tuple[Vec3, float] | None = None  # middle of the back, half width of a fitting backpack
    hand: Vec3 | None = None  # where a flag stick is held or mounted
    waist: float = 0.0  # height about which the upper part leans
    rigid: bool = False  # leans, tips and lies as a whole


Build = Callable[[Look], Figure]
Family = Literal["figure", "thing"]


@dataclass(frozen=True)
class Template:
    """A kind of subject: how it is built, what it may wear, from which side it is best known."""

    name: str
    build: Build
    accessories: tuple[str, ...]
    family: Family = "figure"
    yaw: tuple[float, float] = (0.0, 40.0)  # range of the absolute yaw in degrees; the sign is drawn


def blend(a: Vec3, b: Vec3, share: float) -> Vec3:
    """`a` mixed with the given share of `b`."""
    return tuple((1 - share) * x + share * y for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def face(
    centre: Vec3, radii: Vec3, size: float, *, spread: float = 0.36, lift: float = 0.12
) -> tuple[tuple[Shape, ...], tuple[Vec3, Vec3, float]]:
    """Two bead eyes on an ellipsoid head. Returns the shapes and the (left, right, radius) anchor."""
    depth = max(0.1, 1.0 - spread**2 - lift**2) ** 0.5
    z = centre[2] + radii[2] * depth * 0.97
    y = centre[1] + lift * radii[1]
    left, right = (centre[0] - spread * radii[0], y, z), (centre[0] + spread * radii[0], y, z)
    beads = tuple(ball(place, (size, 1.25 * size, 0.7 * size), INK) for place in (left, right))
    return beads, (left, right, size)


def cheeks(anchor: tuple[Vec3, Vec3, float], drop: float, out: float) -> tuple[Shape, ...]:
    """Two blushing cheeks under the eyes."""
    left, right, size = anchor
    return tuple(
        ball(
            (x + sign * out, y - drop, z - 0.35 * size - 0.2 * out),
            (0.95 * size, 0.6 * size, 0.45 * size),
            BLUSH,
        )
        for sign, (x, y, z) in ((-1, left), (1, right))
    )


@dataclass(frozen=True)
class Plush:
    """A two-legged soft-toy body with a bare head: what most animals start from."""

    shapes: tuple[Shape, ...]  # torso, belly, head, two legs, two arms
    head: Vec3
    radius: float
    torso: Vec3
    width: float
    hand: Vec3  # of the arm at +x


def plush(look: Look, *, belly: bool = True, head_wide: float = 1.0, arms: Paint | None = None) -> Plush:
    """Stand, wave, lean: legs down; sit: legs forward. The arm at +x goes up in a wave."""
    width = look.mix(1, 0.24, 0.34)
    thick = look.mix(5, 0.075, 0.105)
    radius = look.mix(0, 0.29, 0.37)
    leg = look.mix(2, 0.16, 0.32)
    sitting = look.pose == "sit"
    torso = (0.0, 0.30 if sitting else leg + 0.25, 0.0)
    head = (0.0, torso[1] + 0.24 + 0.78 * radius, 0.03)
    skin = arms or look.plain
    shapes = [ball(torso, (width, 0.31, 0.88 * width), look.main)]
    if belly:
        shapes.append(
            ball((0.0, torso[1] - 0.02, 0.30 * width), (0.72 * width, 0.23, 0.64 * width), look.pale)
        )
    shapes.append(ball(head, (head_wide * radius, 0.92 * radius, 0.9 * radius), look.main))
    foot = 1.25 * thick
    for sign in (-1, 1):
        if sitting:
            hip, sole = (
                (sign * 0.55 * width, 0.13, 0.08),
                (sign * (0.75 * width + 0.05), foot, 0.08 + leg + 0.16),
            )
        else:
            hip, sole = (sign * 0.50 * width, leg + 0.10, 0.0), (sign * 0.58 * width, foot, 0.05)
        shapes.append(limb(hip, sole, 1.1 * thick, foot, skin))
    hand = (0.0, 0.0, 0.0)
    for sign in (-1, 1):
        shoulder = (sign * 0.78 * width, torso[1] + 0.15, 0.02)
        if sign == 1 and look.pose == "wave":
            hand = (max(width + 0.24, radius * head_wide + 0.17), torso[1] + 0.46, 0.08)
        elif sitting:
            hand = (sign * (width + 0.06), torso[1] - 0.10, 0.24)
        else:
            hand = (sign * (width + 0.15), torso[1] - 0.10, 0.09)
        shapes.append(limb(shoulder, hand, 0.85 * thick, 1.05 * thick, skin))
    return Plush(tuple(shapes), head, radius, torso, width, hand)


def plush_figure(
    body: Plush, extra: tuple[Shape, ...], eyes: tuple[Vec3, Vec3, float], crown_y: float
) -> Figure:
    """A figure from a plush body: `crown_y` is the top of the head above its centre, in head radii."""
    head, radius = body.head, body.radius
    return Figure(
        body.shapes + extra,
        crown=((head[0], head[1] + crown_y * radius, head[2]), 0.62 * radius),
        eyes=eyes,
        neck=((0.0, body.torso[1] + 0.215, 0.03), 0.20 + 0.25 * body.width),
        back=((0.0, body.torso[1] + 0.05, -0.88 * body.width), 0.62 * body.width),
        hand=body.hand,
        waist=body.torso[1] - 0.1,
    )
