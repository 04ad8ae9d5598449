"""What a subject may wear or hold, built at the places its figure names. Two to five primitives each."""

from magic_insert.toybox.records import Paint, Shape, Vec3
from magic_insert.toybox.solids import ball, block, limb, rod
from magic_insert.toybox.templates.figure import WOOD, Figure, blend

LENS = Paint((0.93, 0.97, 1.0), gloss=0.25)


def accessory_shapes(name: str, figure: Figure, colour: Vec3) -> tuple[Shape, ...]:
    """The shapes of accessory `name` in `colour`; "none" gives nothing. The figure must offer the place."""
    paint = Paint(colour)
    if name == "none":
        return ()
    if name in ("hat", "party hat", "crown") and figure.crown is not None:
        return _HEADWEAR[name](*figure.crown, paint)
    if name == "scarf" and figure.neck is not None:
        return _scarf(*figure.neck, paint)
    if name == "bow tie" and figure.neck is not None:
        return _bow_tie(*figure.neck, paint)
    if name == "glasses" and figure.eyes is not None:
        return _glasses(*figure.eyes, paint)
    if name == "backpack" and figure.back is not None:
        return _backpack(*figure.back, paint)
    if name == "flag" and figure.hand is not None:
        return _flag(figure.hand, paint)
    raise AssertionError(f"this figure has no place for {name!r}")


def _hat(top: Vec3, r: float, paint: Paint) -> tuple[Shape, ...]:
    x, y, z = top
    band = Paint(blend(paint.colour, (0.08, 0.06, 0.08), 0.65))
    return (
        rod((x, y - 0.12 * r, z), (x, y, z), 1.65 * r, 1.55 * r, paint),
        rod((x, y - 0.05 * r, z), (x, y + 0.95 * r, z), 0.98 * r, 0.88 * r, paint),
        rod((x, y, z), (x, y + 0.24 * r, z), 1.02 * r, 1.0 * r, band),
    )


def _party_hat(top: Vec3, r: float, paint: Paint) -> tuple[Shape, ...]:
    x, y, z = top
    striped = Paint(paint.colour, second=(1.0, 0.97, 0.88), pattern="stripes", scale=9.0)
    return (
        rod((x, y - 0.22 * r, z), (x, y + 1.75 * r, z), 0.95 * r, 0.04 * r, striped),
        ball((x, y + 1.8 * r, z), 0.27 * r, Paint((1.0, 0.95, 0.75))),
    )


def _crown(top: Vec3, r: float, paint: Paint) -> tuple[Shape, ...]:
    x, y, z = top
    shine = Paint(paint.colour, gloss=0.3)
    shapes = [rod((x, y - 0.20 * r, z), (x, y + 0.42 * r, z), 0.95 * r, 1.10 * r, shine)]
    for side, front in ((-0.94, 0.2), (0.0, 1.0), (0.94, 0.2), (0.0, -0.95)):
        foot = (x + side * 0.92 * r, y + 0.36 * r, z + front * 0.92 * r)
        shapes.append(
            rod(foot, (x + side * 1.08 * r, y + 1.05 * r, z + front * 1.08 * r), 0.36 * r, 0.03 * r, shine)
        )
    return tuple(shapes)


def _scarf(neck: Vec3, r: float, paint: Paint) -> tuple[Shape, ...]:
    x, y, z = neck
    fringe = Paint(blend(paint.colour, (1.0, 0.97, 0.9), 0.55))
    return (
        ball((x, y, z), (1.12 * r, 0.26 * r, 1.12 * r), paint),
        block(
            (x + 0.46 * r, y - 0.42 * r, z + 1.04 * r),
            (0.20 * r, 0.46 * r, 0.09 * r),
            paint,
            0.03,
            (-10.0, 20.0, 8.0),
        ),
        block(
            (x + 0.53 * r, y - 0.84 * r, z + 1.11 * r),
            (0.21 * r, 0.09 * r, 0.10 * r),
            fringe,
            0.02,
            (-10.0, 20.0, 8.0),
        ),
    )


def _bow_tie(neck: Vec3, r: float, paint: Paint) -> tuple[Shape, ...]:
    x, y, z = neck
    front = z + 1.08 * r
    knot = Paint(blend(paint.colour, (0.1, 0.06, 0.08), 0.35))
    wing = 0.42 * r
    return (
        rod(
            (x - 0.04, y - 0.05 * r, front), (x - 1.6 * wing, y - 0.05 * r, front), 0.12 * r, 0.36 * r, paint
        ),
        rod(
            (x + 0.04, y - 0.05 * r, front), (x + 1.6 * wing, y - 0.05 * r, front), 0.12 * r, 0.36 * r, paint
        ),
        ball((x, y - 0.05 * r, front + 0.05 * r), 0.17 * r, knot),
    )


def _glasses(left: Vec3, right: Vec3, eye: float, paint: Paint) -> tuple[Shape, ...]:
    gap = abs(right[0] - left[0])
    r = min(2.0 * eye, 0.47 * gap)
    shapes: list[Shape] = []
    for x, y, z in (left, right):  # the eye's bead stays in front of the lens
        shapes.append(rod((x, y, z - 0.6 * eye), (x, y, z + 0.12 * eye), r, r, paint))
        shapes.append(rod((x, y, z - 0.5 * eye), (x, y, z + 0.22 * eye), 0.76 * r, 0.76 * r, LENS))
    z = left[2] + 0.1 * eye
    shapes.append(
        limb(
            (left[0] + 0.8 * r, left[1], z), (right[0] - 0.8 * r, right[1], z), 0.22 * eye, 0.22 * eye, paint
        )
    )
    return tuple(shapes)


def _backpack(back: Vec3, half: float, paint: Paint) -> tuple[Shape, ...]:
    x, y, z = back
    flap = Paint(blend(paint.colour, (0.1, 0.06, 0.08), 0.3))
    straps = tuple(
        limb(
            (x + s * 0.95 * half, y + 1.25 * half, z + 0.2),
            (x + s * 1.15 * half, y - 0.3 * half, z + 0.32),
            0.045,
            0.045,
            flap,
        )
        for s in (-1, 1)
    )
    return (
        block((x, y + 0.1 * half, z - 0.35 * half), (1.7 * half, 1.25 * half, 0.55 * half), paint, 0.1),
        block((x, y + 1.0 * half, z - 0.38 * half), (1.76 * half, 0.42 * half, 0.62 * half), flap, 0.08),
        *straps,
    )


def _flag(hand: Vec3, paint: Paint) -> tuple[Shape, ...]:
    x, y, z = hand
    top = y + 0.62
    return (
        rod((x, y - 0.16, z), (x, top, z), 0.024, 0.022, WOOD),
        ball((x, top, z), 0.042, Paint((1.0, 0.86, 0.35))),
        block((x + 0.20, top - 0.16, z), (0.19, 0.125, 0.014), paint, 0.01, (0.0, -8.0, 0.0)),
    )


_HEADWEAR = {"hat": _hat, "party hat": _party_hat, "crown": _crown}
