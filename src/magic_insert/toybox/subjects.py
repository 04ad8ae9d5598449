"""Who is inserted: a subject's description, drawn from a seed, its template, what it wears, and its shapes.

An identity is everything but pose and yaw. Training and held-out subjects are kept apart twice: their identity
numbers have different parity, and their combinations (template, colour, pattern, accessory) fall on different sides
of a hash, so a held-out subject is always a new combination of words that training has seen.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from magic_insert.core.rand import fold_in
from magic_insert.toybox import figures, solids, toys
from magic_insert.toybox.records import SUBJECT_ID, Paint, Pattern, Shape, Vec3

LENS = Paint((0.93, 0.97, 1.0), gloss=0.25)


def accessory_shapes(name: str, figure: figures.Figure, colour: Vec3) -> tuple[Shape, ...]:
    """The shapes of accessory `name` in `colour`; "none" gives nothing. The figure must offer the place."""
    if name == "none":
        return ()
    build, place = _WORN[name]
    anchor = getattr(figure, place)
    assert anchor is not None, f"this figure has no place for {name!r}"
    return build(*(anchor if place != "hand" else (anchor,)), Paint(colour))


def _hat(top: Vec3, r: float, paint: Paint) -> tuple[Shape, ...]:
    f, band = solids.Frame(top, r), Paint(figures.blend(paint.colour, (0.08, 0.06, 0.08), 0.65))
    brim, head = f.post(-0.12, 0, 1.65, 1.55, paint), f.post(-0.05, 0.95, 0.98, 0.88, paint)
    return brim, head, f.post(0, 0.24, 1.02, 1.0, band)


def _party_hat(top: Vec3, r: float, paint: Paint) -> tuple[Shape, ...]:
    f, striped = solids.Frame(top, r), Paint(paint.colour, (1.0, 0.97, 0.88), "stripes", 9.0)
    return f.post(-0.22, 1.75, 0.95, 0.04, striped), f.ball((0, 1.8, 0), 0.27, Paint((1.0, 0.95, 0.75)))


def _crown(top: Vec3, r: float, paint: Paint) -> tuple[Shape, ...]:
    f, shine = solids.Frame(top, r), Paint(paint.colour, gloss=0.3)
    spikes = (
        f.rod((x * 0.92, 0.36, z * 0.92), (x * 1.08, 1.05, z * 1.08), 0.36, 0.03, shine)
        for x, z in ((-0.94, 0.2), (0.0, 1.0), (0.94, 0.2), (0.0, -0.95))
    )
    return (f.post(-0.20, 0.42, 0.95, 1.10, shine), *spikes)


def _scarf(neck: Vec3, r: float, paint: Paint) -> tuple[Shape, ...]:
    f, fringe = solids.Frame(neck, r), Paint(figures.blend(paint.colour, (1.0, 0.97, 0.9), 0.55))
    turn = (-10.0, 20.0, 8.0)
    return (
        f.ball((0, 0, 0), (1.12, 0.26, 1.12), paint),
        f.block((0.46, -0.42, 1.04), (0.20, 0.46, 0.09), paint, 0.03, turn),
        f.block((0.53, -0.84, 1.11), (0.21, 0.09, 0.10), fringe, 0.02, turn),
    )


def _bow_tie(neck: Vec3, r: float, paint: Paint) -> tuple[Shape, ...]:
    (x, y, z), knot = neck, Paint(figures.blend(paint.colour, (0.1, 0.06, 0.08), 0.35))
    y, front, wing = y - 0.05 * r, z + 1.08 * r, 0.42 * r
    wings = (
        solids.rod((x + s * 0.04, y, front), (x + s * 1.6 * wing, y, front), 0.12 * r, 0.36 * r, paint)
        for s in solids.SIDES
    )
    return (*wings, solids.ball((x, y, front + 0.05 * r), 0.17 * r, knot))


def _glasses(left: Vec3, right: Vec3, eye: float, paint: Paint) -> tuple[Shape, ...]:
    r = min(2.0 * eye, 0.47 * abs(right[0] - left[0]))
    shapes: list[Shape] = []
    for x, y, z in (left, right):  # the eye's bead stays in front of the lens
        shapes.append(solids.rod((x, y, z - 0.6 * eye), (x, y, z + 0.12 * eye), r, r, paint))
        shapes.append(solids.rod((x, y, z - 0.5 * eye), (x, y, z + 0.22 * eye), 0.76 * r, 0.76 * r, LENS))
    z, thick = left[2] + 0.1 * eye, 0.22 * eye
    bridge = solids.limb(
        (left[0] + 0.8 * r, left[1], z), (right[0] - 0.8 * r, right[1], z), thick, thick, paint
    )
    return (*shapes, bridge)


def _backpack(back: Vec3, half: float, paint: Paint) -> tuple[Shape, ...]:
    (x, y, z), f = back, solids.Frame(back, half)
    flap = Paint(figures.blend(paint.colour, (0.1, 0.06, 0.08), 0.3))
    high, low = y + 1.25 * half, y - 0.3 * half
    return (
        f.block((0, 0.1, -0.35), (1.7, 1.25, 0.55), paint, 0.1),
        f.block((0, 1.0, -0.38), (1.76, 0.42, 0.62), flap, 0.08),
        *(
            solids.limb(
                (x + s * 0.95 * half, high, z + 0.2), (x + s * 1.15 * half, low, z + 0.32), 0.045, 0.045, flap
            )
            for s in solids.SIDES
        ),
    )


def _flag(hand: Vec3, paint: Paint) -> tuple[Shape, ...]:
    x, y, z = hand
    top = y + 0.62
    return (
        solids.rod((x, y - 0.16, z), (x, top, z), 0.024, 0.022, figures.WOOD),
        solids.ball((x, top, z), 0.042, Paint((1.0, 0.86, 0.35))),
        solids.block((x + 0.20, top - 0.16, z), (0.19, 0.125, 0.014), paint, 0.01, (0.0, -8.0, 0.0)),
    )


# What is worn: how it is built, and on which place of a figure.
_WORN: dict[str, tuple[Callable[..., tuple[Shape, ...]], str]] = {
    "hat": (_hat, "crown"),
    "party hat": (_party_hat, "crown"),
    "crown": (_crown, "crown"),
    "scarf": (_scarf, "neck"),
    "bow tie": (_bow_tie, "neck"),
    "glasses": (_glasses, "eyes"),
    "backpack": (_backpack, "back"),
    "flag": (_flag, "hand"),
}
_HATS = ("hat", "party hat", "crown")
_DRESSED = ("none", *_HATS, "scarf", "bow tie", "glasses", "backpack", "flag")
_NO_PACK = ("none", *_HATS, "scarf", "bow tie", "glasses", "flag")

_ALL = (
    figures.Template("bunny", toys.bunny, _DRESSED),
    figures.Template("cat", toys.cat, _DRESSED),
    figures.Template("bear", toys.bear, _DRESSED),
    figures.Template("elephant", toys.elephant, _DRESSED),
    figures.Template("frog", toys.frog, ("none", *_HATS, "scarf", "bow tie", "backpack", "flag")),
    figures.Template("duck", toys.duck, _NO_PACK),
    figures.Template("penguin", toys.penguin, _DRESSED),
    figures.Template("owl", toys.owl, ("none", *_HATS, "backpack", "flag")),
    figures.Template(
        "dinosaur", toys.dinosaur, ("none", *_HATS, "scarf", "bow tie", "flag"), yaw=(5.0, 50.0)
    ),
    figures.Template("person", figures.person, _DRESSED),
    figures.Template("robot", figures.robot, ("none", *_HATS, "scarf", "bow tie", "backpack", "flag")),
    figures.Template("snowman", figures.snowman, _DRESSED),
    figures.Template("car", toys.car, ("none", *_HATS, "flag"), "thing", (30.0, 65.0)),
    figures.Template("truck", toys.truck, ("none", *_HATS, "flag"), "thing", (30.0, 65.0)),
    figures.Template("rocket", toys.rocket, ("none", "scarf", "flag"), "thing"),
    figures.Template("boat", toys.boat, ("none", "flag"), "thing", (40.0, 65.0)),
    figures.Template("chair", toys.chair, ("none", "flag", "hat"), "thing", (10.0, 50.0)),
    figures.Template("lamp", toys.lamp, ("none", *_HATS, "bow tie"), "thing"),
    figures.Template("teapot", toys.teapot, ("none", *_HATS, "glasses"), "thing", (0.0, 30.0)),
    figures.Template("cupcake", toys.cupcake, ("none", *_HATS, "glasses", "flag"), "thing"),
    figures.Template("gift", toys.gift, ("none", *_HATS, "flag"), "thing", (15.0, 45.0)),
    figures.Template("plant", toys.plant, ("none", "scarf", "bow tie", "glasses", "flag"), "thing"),
    figures.Template("cactus", toys.cactus, _NO_PACK),
    figures.Template(
        "mushroom", toys.mushroom, ("none", *_HATS, "scarf", "bow tie", "glasses", "flag"), "thing"
    ),
)
REGISTRY: dict[str, figures.Template] = {template.name: template for template in _ALL}


PALETTE: dict[str, Vec3] = {
    "red": (0.86, 0.20, 0.20),
    "orange": (0.96, 0.55, 0.16),
    "yellow": (0.98, 0.82, 0.24),
    "green": (0.38, 0.70, 0.32),
    "teal": (0.16, 0.66, 0.66),
    "blue": (0.25, 0.46, 0.86),
    "purple": (0.56, 0.36, 0.76),
    "pink": (0.96, 0.58, 0.72),
    "brown": (0.56, 0.36, 0.22),
    "white": (0.95, 0.94, 0.91),
}
TEMPLATES: tuple[str, ...] = tuple(REGISTRY)
COLOURS: tuple[str, ...] = tuple(PALETTE)
PATTERNS: tuple[Pattern, ...] = ("plain", "stripes", "dots", "patches")
ACCESSORIES: tuple[str, ...] = ("none", *_WORN)
POSES: tuple[str, ...] = ("stand", "sit", "wave", "lean")
WIDEST = 1.15  # a subject wider than this times its height is scaled by its width instead
_PERIODS = {"plain": 6.0, "stripes": 5.0, "dots": 6.0, "patches": 4.0}
_HELD_OUT_SHARE = 5  # one combination in this many is kept out of training


@dataclass(frozen=True)
class SubjectSpec:
    """One subject: all that its picture depends on, apart from place, light and drawing style."""

    identity: int  # even: training, odd: held out
    template: str
    proportions: tuple[float, ...]  # PROPORTIONS numbers in [0, 1]
    colour: str
    second_colour: str
    pattern: Pattern
    accessory: str
    accessory_colour: str
    pose: str = "stand"
    yaw_deg: float = 0.0  # positive turns the face towards +x

    @property
    def combination(self) -> tuple[str, str, str, str]:
        """What decides on which side of the split the subject falls."""
        return (self.template, self.colour, self.pattern, self.accessory)


def is_held_out(combination: tuple[str, str, str, str]) -> bool:
    """Whether training never sees this (template, colour, pattern, accessory)."""
    return fold_in(20240702, "combination", *combination) % _HELD_OUT_SHARE == 0


def sample_subject(seed: int, split: str = "train") -> SubjectSpec:
    """The subject of number `seed` in `split`: a pure function of both."""
    assert split in ("train", "heldout"), split
    held_out = split == "heldout"
    rng = Random(fold_in(seed, "subject", split))
    while True:
        template = REGISTRY[rng.choice(TEMPLATES)]
        wears = rng.random() < 0.6
        combination = (
            template.name,
            rng.choice(COLOURS),
            "plain" if rng.random() < 0.4 else rng.choice(PATTERNS[1:]),
            rng.choice(template.accessories[1:]) if wears else "none",
        )
        if is_held_out(combination) == held_out:
            break
    colour = combination[1]
    pose = "stand" if rng.random() < 0.52 else rng.choice(POSES[1:])
    return SubjectSpec(
        identity=(fold_in(seed, "identity", split) // 2) * 2 + int(held_out),
        template=template.name,
        proportions=tuple(round(rng.random(), 4) for _ in range(figures.PROPORTIONS)),
        colour=colour,
        second_colour=rng.choice([c for c in COLOURS if c != colour]),
        pattern=combination[2],
        accessory=combination[3],
        accessory_colour=rng.choice([c for c in COLOURS if c != colour]),
        pose=pose,
        yaw_deg=round(rng.choice((-1, 1)) * rng.uniform(*template.yaw), 2),
    )


def subject_shapes(
    spec: SubjectSpec, *, x: float = 0.0, z: float = 0.0, height: float = 1.0
) -> tuple[Shape, ...]:
    """The subject's shapes, standing on y = 0 with its footprint centred at (x, z).

    Its total height, accessory included, is `height`; one wider than WIDEST times that is scaled to that width.
    """
    figure = REGISTRY[spec.template].build(look_of(spec))
    worn = accessory_shapes(spec.accessory, figure, PALETTE[spec.accessory_colour])
    shapes = solids.rotate(_posed(spec, figure, worn), (0.0, spec.yaw_deg, 0.0))
    low, high = solids.bounds(shapes)
    tall, wide = high[1] - low[1], high[0] - low[0]
    factor = min(height / tall, WIDEST * height / wide)
    centre = (-0.5 * (low[0] + high[0]), -low[1], -0.5 * (low[2] + high[2]))
    placed = solids.scale_and_move(solids.scale_and_move(shapes, 1.0, centre), factor, (x, 0.0, z))
    return solids.with_id(_with_pattern_scale(placed, height), SUBJECT_ID)


def look_of(spec: SubjectSpec) -> figures.Look:
    """What a template needs to know of a spec."""
    main = PALETTE[spec.colour]
    second = PALETTE[spec.second_colour]
    if math.dist(main, second) < 0.35:  # two colours that would read as one
        second = figures.blend(second, (0.45, 0.26, 0.20) if sum(main) > 1.9 else figures.CREAM, 0.6)
    paint = Paint(main, second=second, pattern=spec.pattern)
    return figures.Look(spec.proportions, paint, second, spec.pose)


def _posed(spec: SubjectSpec, figure: figures.Figure, worn: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """A thing moves as a whole: it lies on its side (its top towards the camera), tips back or leans over."""
    shapes = (*figure.shapes, *worn)
    if REGISTRY[spec.template].family == "thing":
        turns: dict[str, Vec3] = {
            "stand": (0.0, 0.0, 0.0),
            "sit": (0.0, 0.0, math.copysign(88.0, spec.yaw_deg)),
            "wave": (-22.0, 0.0, 0.0),
            "lean": (0.0, 0.0, -17.0),
        }
        return solids.rotate(shapes, turns[spec.pose])
    if spec.pose != "lean":
        return shapes
    upper = tuple(s for s in shapes if s.centre[1] > figure.waist)
    lower = tuple(s for s in shapes if s.centre[1] <= figure.waist)
    return lower + solids.rotate(upper, (0.0, 0.0, -20.0), (0.0, figure.waist, 0.0))


def _with_pattern_scale(shapes: tuple[Shape, ...], height: float) -> tuple[Shape, ...]:
    """Patterns counted in periods per subject height, whatever size it stands at."""
    return tuple(
        replace(s, paint=replace(s.paint, scale=_PERIODS[s.paint.pattern] / height))
        if s.paint.pattern in _PERIODS
        else s
        for s in shapes
    )
