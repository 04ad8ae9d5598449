"""From a `Look` to a `Figure` (shapes, and places for accessories): what every template uses, and the people.

A figure stands about the origin of its own space, faces +z, is one to two units tall; `subjects` scales it.
Proportions are numbers in [0, 1]: 0 head size, 1 width, 2 leg length, 3 feature length, 4 eye size, 5 limb thickness.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from magic_insert.toybox.records import Paint, Shape, Vec3
from magic_insert.toybox.solids import SIDES, ball, block, limb, rod

PROPORTIONS = 6
INK = Paint((0.06, 0.05, 0.07), gloss=0.35)
CREAM: Vec3 = (0.98, 0.94, 0.86)
WOOD = Paint((0.62, 0.42, 0.26))
METAL = Paint((0.66, 0.68, 0.72), gloss=0.25)
TYRE = Paint((0.13, 0.13, 0.15))
GLASS = Paint((0.62, 0.84, 0.95), gloss=0.4)
BLUSH = Paint((0.98, 0.66, 0.62))
Eyes = tuple[Vec3, Vec3, float]  # left and right centre, and a radius


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

    shapes: Sequence[Shape]
    crown: tuple[Vec3, float] | None = None  # top of the head, and a radius there
    eyes: Eyes | None = None  # left, right centre, radius
    neck: tuple[Vec3, float] | None = None
    back: tuple[Vec3, float] | None = None  # middle of the back, half width of a fitting backpack
    hand: Vec3 | None = None  # where a flag stick is held or mounted
    waist: float = 0.0  # height about which the upper part leans


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
) -> tuple[tuple[Shape, ...], Eyes]:
    """Two bead eyes on an ellipsoid head. Returns the shapes and the (left, right, radius) anchor."""
    depth = max(0.1, 1.0 - spread**2 - lift**2) ** 0.5
    z = centre[2] + radii[2] * depth * 0.97
    y = centre[1] + lift * radii[1]
    left, right = (centre[0] - spread * radii[0], y, z), (centre[0] + spread * radii[0], y, z)
    beads = tuple(ball(place, (size, 1.25 * size, 0.7 * size), INK) for place in (left, right))
    return beads, (left, right, size)


def cheeks(anchor: Eyes, drop: float, out: float) -> tuple[Shape, ...]:
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


def toy_face(
    look: Look,
    centre: Vec3,
    radii: Vec3,
    eye: tuple[float, float],
    cheek: tuple[float, float],
    spread: float,
    lift: float,
) -> tuple[tuple[Shape, ...], Eyes]:
    """The face of a toy thing: eyes whose size is drawn from the range `eye`, cheeks `cheek` below and outside them."""
    beads, eyes = face(centre, radii, look.mix(4, *eye), spread=spread, lift=lift)
    return (*beads, *cheeks(eyes, *cheek)), eyes


@dataclass(frozen=True)
class Plush:
    """A two-legged soft-toy body with a bare head: what most animals start from."""

    shapes: tuple[Shape, ...]  # torso, belly, head, two legs, two arms
    head: Vec3
    radius: float
    torso: Vec3
    width: float
    hand: Vec3  # of the arm at +x


def plush(look: Look, *, head_wide: float = 1.0) -> Plush:
    """Stand, wave, lean: legs down; sit: legs forward. The arm at +x goes up in a wave."""
    width = look.mix(1, 0.24, 0.34)
    thick = look.mix(5, 0.075, 0.105)
    radius = look.mix(0, 0.29, 0.37)
    leg = look.mix(2, 0.16, 0.32)
    sitting = look.pose == "sit"
    torso = (0.0, 0.30 if sitting else leg + 0.25, 0.0)
    head = (0.0, torso[1] + 0.24 + 0.78 * radius, 0.03)
    skin = look.plain
    shapes = [
        ball(torso, (width, 0.31, 0.88 * width), look.main),
        ball((0.0, torso[1] - 0.02, 0.30 * width), (0.72 * width, 0.23, 0.64 * width), look.pale),
        ball(head, (head_wide * radius, 0.92 * radius, 0.9 * radius), look.main),
    ]
    foot = 1.25 * thick
    for sign in SIDES:
        hip, sole = (sign * 0.50 * width, leg + 0.10, 0.0), (sign * 0.58 * width, foot, 0.05)
        if sitting:
            hip = (sign * 0.55 * width, 0.13, 0.08)
            sole = (sign * (0.75 * width + 0.05), foot, 0.08 + leg + 0.16)
        shapes.append(limb(hip, sole, 1.1 * thick, foot, skin))
    hand = (0.0, 0.0, 0.0)
    for sign in SIDES:
        shoulder = (sign * 0.78 * width, torso[1] + 0.15, 0.02)
        if sign == 1 and look.pose == "wave":
            hand = (max(width + 0.24, radius * head_wide + 0.17), torso[1] + 0.46, 0.08)
        elif sitting:
            hand = (sign * (width + 0.06), torso[1] - 0.10, 0.24)
        else:
            hand = (sign * (width + 0.15), torso[1] - 0.10, 0.09)
        shapes.append(limb(shoulder, hand, 0.85 * thick, 1.05 * thick, skin))
    return Plush(tuple(shapes), head, radius, torso, width, hand)


def plush_figure(body: Plush, extra: Sequence[Shape], eyes: Eyes, crown_y: float) -> Figure:
    """A figure from a plush body: `crown_y` is the top of the head above its centre, in head radii."""
    head, radius = body.head, body.radius
    return Figure(
        (*body.shapes, *extra),
        crown=((head[0], head[1] + crown_y * radius, head[2]), 0.62 * radius),
        eyes=eyes,
        neck=((0.0, body.torso[1] + 0.215, 0.03), 0.20 + 0.25 * body.width),
        back=((0.0, body.torso[1] + 0.05, -0.88 * body.width), 0.62 * body.width),
        hand=body.hand,
        waist=body.torso[1] - 0.1,
    )


SNOW = Paint((0.96, 0.97, 0.99))
TWIG = Paint((0.36, 0.24, 0.16))
CARROT = Paint((0.96, 0.50, 0.12))
SKINS: tuple[Vec3, ...] = ((0.99, 0.85, 0.72), (0.93, 0.74, 0.58), (0.76, 0.54, 0.38), (0.50, 0.33, 0.23))
HAIRS: tuple[Vec3, ...] = ((0.16, 0.11, 0.09), (0.42, 0.25, 0.14), (0.90, 0.72, 0.36), (0.72, 0.32, 0.14))


def _arms(
    look: Look, x: float, y: float, reach: float, thick: float, paint: Paint, top: float
) -> tuple[list[Shape], Vec3]:
    """Two arms from shoulders at (±x, y); in a wave the one at +x goes up past `top`."""
    shapes, hand = [], (0.0, 0.0, 0.0)
    for sign in SIDES:
        if sign == 1 and look.pose == "wave":
            hand = (x + 0.30, top, 0.06)
        elif look.pose == "sit":
            hand = (sign * (x + 0.08), y - 0.8 * reach, 0.24)
        else:
            hand = (sign * (x + 0.13), y - reach, 0.06)
        shapes.append(limb((sign * x, y, 0.0), hand, thick, 0.95 * thick, paint))
    return shapes, hand


def person(look: Look) -> Figure:
    """A child with hair, a coloured coat and dark shoes; proportions 3 and 5 also choose hair and skin."""
    skin = Paint(SKINS[min(3, int(4 * look.proportions[5]))])
    hair = Paint(HAIRS[min(3, int(4 * look.proportions[3]))])
    r, wide = look.mix(0, 0.27, 0.33), look.mix(1, 0.22, 0.29)
    leg = look.mix(2, 0.26, 0.42)
    sitting = look.pose == "sit"
    low = 0.10 if sitting else leg
    head: Vec3 = (0.0, low + 0.52 + 0.82 * r, 0.02)
    beads, eyes = face(head, (r, r, r), look.mix(4, 0.12, 0.16) * r, spread=0.34, lift=0.02)
    shapes = [
        rod((0.0, low - 0.06, 0.0), (0.0, low + 0.50, 0.0), 1.12 * wide, 0.58 * wide, look.main),
        ball((0.0, low + 0.46, 0.0), (0.72 * wide, 0.14, 0.6 * wide), look.main),
        ball(head, r, skin),
        ball((0.0, head[1] + 0.13 * r, -0.10 * r), (1.07 * r, 1.02 * r, 1.0 * r), hair, (-14.0, 0.0, 0.0)),
        ball(
            (0.0, head[1] - 0.18 * r, head[2] + 0.97 * r),
            (0.09 * r, 0.08 * r, 0.09 * r),
            Paint(blend(skin.colour, (0.9, 0.3, 0.25), 0.25)),
        ),
        *beads,
        *cheeks(eyes, 0.30 * r, 0.16 * r),
    ]
    trousers = Paint((0.24, 0.27, 0.42))
    for sign in SIDES:
        if sitting:
            shapes.append(
                limb((sign * 0.12, 0.11, 0.05), (sign * 0.16, 0.10, leg + 0.12), 0.09, 0.09, trousers)
            )
            shapes.append(ball((sign * 0.16, 0.12, leg + 0.20), (0.09, 0.12, 0.07), look.deep))
        else:
            shapes.append(limb((sign * 0.12, low, 0.0), (sign * 0.13, 0.12, 0.0), 0.085, 0.08, trousers))
            shapes.append(ball((sign * 0.135, 0.07, 0.05), (0.09, 0.07, 0.14), look.deep))
    arms, hand = _arms(look, 0.72 * wide, low + 0.44, 0.28, 0.07, look.plain, head[1] + 0.12)
    return Figure(
        (*shapes, *arms),
        crown=((0.0, head[1] + 1.02 * r, -0.02), 0.66 * r),
        eyes=eyes,
        neck=((0.0, low + 0.53, 0.0), 0.72 * wide + 0.05),
        back=((0.0, low + 0.26, -0.8 * wide), 0.16),
        hand=hand,
        waist=low + 0.05,
    )


def robot(look: Look) -> Figure:
    """Boxes, a glass face, an antenna."""
    wide, tall = look.mix(1, 0.25, 0.33), look.mix(5, 0.24, 0.30)
    leg = 0.05 if look.pose == "sit" else look.mix(2, 0.20, 0.34)
    mid = leg + tall
    half = look.mix(0, 0.22, 0.29)
    head: Vec3 = (0.0, mid + tall + 0.05 + 0.8 * half, 0.0)
    size = look.mix(4, 0.055, 0.08)
    z = head[2] + 0.8 * half
    left, right = ((s * 0.42 * half, head[1] + 0.08 * half, z + 0.03) for s in SIDES)
    glow = Paint((0.55, 0.95, 0.98))
    antenna = head[1] + 0.8 * half + look.mix(3, 0.12, 0.24)
    shapes = [
        block((0.0, mid, 0.0), (wide, tall, 0.78 * wide), look.main, 0.06),
        block((0.0, mid + 0.02, 0.78 * wide), (0.55 * wide, 0.45 * tall, 0.03), look.pale, 0.02),
        block(head, (1.15 * half, 0.8 * half, 0.8 * half), look.main, 0.08),
        block(
            (0.0, head[1], z), (0.92 * half, 0.52 * half, 0.025), Paint((0.12, 0.15, 0.22), gloss=0.3), 0.02
        ),
        *(ball(c, (size, 1.15 * size, 0.03), glow) for c in (left, right)),
        rod((0.0, head[1] + 0.7 * half, 0.0), (0.0, antenna, 0.0), 0.025, 0.02, METAL),
        ball((0.0, antenna, 0.0), 0.065, look.trim),
    ]
    for sign in SIDES:
        side = sign * wide
        if look.pose == "sit":
            shapes.append(limb((0.55 * side, 0.10, 0.1), (0.65 * side, 0.10, 0.52), 0.10, 0.10, METAL))
        else:
            shapes.append(rod((0.52 * side, 0.10, 0.0), (0.5 * side, leg + 0.05, 0.0), 0.10, 0.09, METAL))
            shapes.append(block((0.54 * side, 0.065, 0.05), (0.13, 0.065, 0.18), look.deep, 0.04))
    arms, hand = _arms(look, wide + 0.03, mid + 0.6 * tall, 0.34, 0.075, METAL, head[1] + 0.2)
    return Figure(
        (*shapes, *arms),
        crown=((0.0, head[1] + 0.76 * half, 0.0), 0.72 * half),
        eyes=(left, right, size),
        neck=((0.0, mid + tall + 0.02, 0.0), 0.85 * wide),
        back=((0.0, mid + 0.05, -0.78 * wide), 0.7 * wide),
        hand=hand,
        waist=leg + 0.1,
    )


def snowman(look: Look) -> Figure:
    """Snowballs tinted by the colour, a carrot, twig arms, coal buttons."""
    big, r = look.mix(1, 0.34, 0.42), look.mix(0, 0.22, 0.27)
    middle = look.mix(2, 0.27, 0.33)
    squash = 0.72 if look.pose == "sit" else 0.95
    y1 = squash * big
    y2 = y1 + 0.62 * big + 0.55 * middle * squash
    head: Vec3 = (0.0, y2 + 0.72 * middle + 0.70 * r, 0.02)
    nose = (0.03, head[1] - 0.14 * r, look.mix(3, 1.7, 2.3) * r)
    beads, eyes = face(head, (r, r, r), look.mix(4, 0.15, 0.2) * r, spread=0.36, lift=0.22)
    shapes = [
        ball((0.0, y1, 0.0), (big, squash * big, big), look.main),
        ball((0.0, y2, 0.0), (middle, 0.92 * middle, middle), look.main),
        ball(head, r, Paint(blend(SNOW.colour, look.main.colour, 0.25))),
        rod((0.0, head[1] - 0.08 * r, 0.92 * r), nose, 0.19 * r, 0.02, CARROT),
        *beads,
        ball((0.0, y2 + 0.30 * middle, 0.93 * middle), 0.04, INK),
        ball((0.0, y2 - 0.08 * middle, 1.0 * middle), 0.04, INK),
        ball((0.0, y1 + 0.40 * big * squash, 0.94 * big), 0.04, INK),
    ]
    hand: Vec3 = (0.0, 0.0, 0.0)
    for sign in SIDES:
        up = 0.42 if look.pose == "wave" and sign == 1 else (-0.16 if look.pose == "sit" else 0.10)
        hand = (sign * (middle + 0.34), y2 + up, 0.08)
        shapes.append(limb((sign * 0.85 * middle, y2 + 0.02, 0.0), hand, 0.03, 0.022, TWIG))
        finger = (sign * (middle + 0.22), y2 + 0.65 * up, 0.05), (sign * (middle + 0.30), y2 + up + 0.14, 0.1)
        shapes.append(limb(*finger, 0.02, 0.015, TWIG))
    return Figure(
        tuple(shapes),
        crown=((0.0, head[1] + 0.93 * r, 0.02), 0.72 * r),
        eyes=eyes,
        neck=((0.0, head[1] - 0.78 * r, 0.0), 0.92 * r),
        back=((0.0, y2, -0.95 * middle), 0.5 * middle),
        hand=hand,
        waist=y1 + 0.5 * big,
    )
