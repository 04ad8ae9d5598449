"""Who is inserted: a subject's description, drawn from a seed, and its shapes.

An identity is everything but pose and yaw. Training and held-out subjects are kept apart twice: their identity
numbers have different parity, and their combinations (template, colour, pattern, accessory) fall on different sides
of a hash, so a held-out subject is always a new combination of words that training has seen.
"""

import math
from dataclasses import dataclass, replace
from random import Random

from magic_insert.core.errors import UserError
from magic_insert.core.rand import fold_in
from magic_insert.toybox.records import SUBJECT_ID, Paint, Pattern, Shape, Vec3
from magic_insert.toybox.solids import bounds, rotate, scale_and_move, with_id
from magic_insert.toybox.templates import REGISTRY, Figure, Look
from magic_insert.toybox.templates.accessories import accessory_shapes
from magic_insert.toybox.templates.figure import CREAM, PROPORTIONS, blend

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
ACCESSORIES: tuple[str, ...] = (
    "none", "hat", "party hat", "crown", "scarf", "bow tie", "glasses", "backpack", "flag",
)  # fmt: skip
POSES: tuple[str, ...] = ("stand", "sit", "wave", "lean")
MAX_SHAPES = 22
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
    if split not in ("train", "heldout"):
        raise UserError(f"expected split 'train' or 'heldout', got {split!r}")
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
        proportions=tuple(round(rng.random(), 4) for _ in range(PROPORTIONS)),
        colour=colour,
        second_colour=rng.choice([c for c in COLOURS if c != colour]),
        pattern=combination[2],
        accessory=combination[3],
        accessory_colour=rng.choice([c for c in COLOURS if c != colour]),
        pose=pose,
        yaw_deg=round(rng.choice((-1, 1)) * rng.uniform(*template.yaw), 2),
    )


def with_pose(spec: SubjectSpec, pose: str | None = None, yaw_deg: float | None = None) -> SubjectSpec:
    """The same identity in another pose or seen from another side; None keeps what the spec says."""
    if pose is not None and pose not in POSES:
        raise UserError(f"expected a pose out of {', '.join(POSES)}, got {pose!r}")
    return replace(
        spec,
        pose=spec.pose if pose is None else pose,
        yaw_deg=spec.yaw_deg if yaw_deg is None else yaw_deg,
    )


def subject_shapes(
    spec: SubjectSpec, *, x: float = 0.0, z: float = 0.0, height: float = 1.0
) -> tuple[Shape, ...]:
    """The subject's shapes, standing on y = 0 with its footprint centred at (x, z).

    Its total height, accessory included, is `height`; one wider than WIDEST times that is scaled to that width.
    """
    figure = REGISTRY[spec.template].build(look_of(spec))
    worn = accessory_shapes(spec.accessory, figure, PALETTE[spec.accessory_colour])
    shapes = rotate(_posed(spec, figure, worn), (0.0, spec.yaw_deg, 0.0))
    low, high = bounds(shapes)
    tall, wide = high[1] - low[1], high[0] - low[0]
    factor = min(height / tall, WIDEST * height / wide)
    centre = (-0.5 * (low[0] + high[0]), -low[1], -0.5 * (low[2] + high[2]))
    placed = scale_and_move(scale_and_move(shapes, 1.0, centre), factor, (x, 0.0, z))
    return with_id(_with_pattern_scale(placed, height), SUBJECT_ID)


def look_of(spec: SubjectSpec) -> Look:
    """What a template needs to know of a spec."""
    main = PALETTE[spec.colour]
    second = PALETTE[spec.second_colour]
    if math.dist(main, second) < 0.35:  # two colours that would read as one
        second = blend(second, (0.45, 0.26, 0.20) if sum(main) > 1.9 else CREAM, 0.6)
    paint = Paint(main, second=second, pattern=spec.pattern)
    return Look(spec.proportions, paint, second, spec.pose)


def _posed(spec: SubjectSpec, figure: Figure, worn: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """A thing moves as a whole: it lies on its side (its top towards the camera), tips back or leans over."""
    shapes = figure.shapes + worn
    if figure.rigid:
        turns: dict[str, Vec3] = {
            "stand": (0.0, 0.0, 0.0),
            "sit": (0.0, 0.0, math.copysign(88.0, spec.yaw_deg)),
            "wave": (-22.0, 0.0, 0.0),
            "lean": (0.0, 0.0, -17.0),
        }
        return rotate(shapes, turns[spec.pose])
    if spec.pose != "lean":
        return shapes
    upper = tuple(s for s in shapes if s.centre[1] > figure.waist)
    lower = tuple(s for s in shapes if s.centre[1] <= figure.waist)
    return lower + rotate(upper, (0.0, 0.0, -20.0), (0.0, figure.waist, 0.0))


def _with_pattern_scale(shapes: tuple[Shape, ...], height: float) -> tuple[Shape, ...]:
    """Patterns counted in periods per subject height, whatever size it stands at."""
    return tuple(
        replace(s, paint=replace(s.paint, scale=_PERIODS[s.paint.pattern] / height))
        if s.paint.pattern in _PERIODS
        else s
        for s in shapes
    )
