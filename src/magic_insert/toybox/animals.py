"""Animals: soft toys on two legs (bunny, cat, bear, elephant, frog), birds and a dinosaur with plans of their own."""

from magic_insert.toybox.figures import CREAM, INK, Figure, Look, face, plush, plush_figure
from magic_insert.toybox.records import Paint, Shape, Vec3
from magic_insert.toybox.solids import ball, limb, rod

PINK = Paint((0.96, 0.62, 0.68))


def bunny(look: Look) -> Figure:
    """Long ears, a pink nose, a round tail."""
    body = plush(look)
    (x, y, z), r = body.head, body.radius
    ear = look.mix(3, 0.34, 0.56)
    beads, eyes = face(body.head, (r, 0.92 * r, 0.9 * r), look.mix(4, 0.15, 0.21) * r)
    extra = [*beads]
    for sign in (-1, 1):
        root, tip = (
            (x + sign * 0.42 * r, y + 0.7 * r, z - 0.05),
            (x + sign * 0.62 * r, y + 0.8 * r + ear, z - 0.10),
        )
        extra.append(limb(root, tip, 0.20 * r, 0.25 * r, look.plain))
        extra.append(
            limb(
                (root[0], root[1] + 0.1, root[2] + 0.09 * r),
                (tip[0], tip[1], tip[2] + 0.11 * r),
                0.12 * r,
                0.16 * r,
                PINK,
            )
        )
    extra.append(ball((x, y - 0.30 * r, z + 0.72 * r), (0.36 * r, 0.27 * r, 0.28 * r), look.pale))
    extra.append(ball((x, y - 0.16 * r, z + 0.99 * r), (0.12 * r, 0.09 * r, 0.08 * r), PINK))
    extra.append(ball((0.0, body.torso[1] - 0.16, -0.95 * body.width), 0.12, look.pale))
    return plush_figure(body, tuple(extra), eyes, 0.80)


def cat(look: Look) -> Figure:
    """Pointed ears, whisker pads, a long tail."""
    body = plush(look, head_wide=1.08)
    (x, y, z), r = body.head, body.radius
    beads, eyes = face(body.head, (1.08 * r, 0.92 * r, 0.9 * r), look.mix(4, 0.16, 0.22) * r, spread=0.40)
    extra = [*beads]
    up = look.mix(3, 0.42, 0.62)
    for sign in (-1, 1):
        root, tip = (x + sign * 0.62 * r, y + 0.5 * r, z - 0.02), (x + sign * 0.86 * r, y + (0.7 + up) * r, z)
        extra.append(rod(root, tip, 0.40 * r, 0.03 * r, look.plain))
        extra.append(
            rod(
                (root[0], root[1], z + 0.18 * r),
                (tip[0], tip[1] - 0.12 * r, z + 0.09 * r),
                0.27 * r,
                0.02 * r,
                PINK,
            )
        )
    extra.append(ball((x, y - 0.28 * r, z + 0.74 * r), (0.38 * r, 0.23 * r, 0.24 * r), look.pale))
    extra.append(ball((x, y - 0.16 * r, z + 0.97 * r), (0.11 * r, 0.08 * r, 0.07 * r), INK))
    low, side = body.torso[1] - 0.19, -body.width - 0.27
    bend, tip = (side, low + 0.03, -0.40), (side - 0.07, low + 0.40, -0.44)
    extra.append(limb((0.0, low, -0.8 * body.width), bend, 0.06, 0.055, look.plain))
    extra.append(limb(bend, tip, 0.055, 0.05, look.plain))
    return plush_figure(body, tuple(extra), eyes, 0.88)


def bear(look: Look) -> Figure:
    """Round ears and a big muzzle."""
    body = plush(look, head_wide=1.04)
    (x, y, z), r = body.head, body.radius
    beads, eyes = face(
        body.head, (1.04 * r, 0.92 * r, 0.9 * r), look.mix(4, 0.12, 0.17) * r, spread=0.34, lift=0.2
    )
    extra = [*beads]
    ear = look.mix(3, 0.30, 0.42) * r
    for sign in (-1, 1):
        place = (x + sign * 0.76 * r, y + 0.70 * r, z - 0.03)
        extra.append(ball(place, (ear, ear, 0.6 * ear), look.plain))
        extra.append(ball((place[0], place[1], z + 0.35 * ear), (0.6 * ear, 0.6 * ear, 0.4 * ear), look.pale))
    extra.append(ball((x, y - 0.22 * r, z + 0.74 * r), (0.46 * r, 0.36 * r, 0.36 * r), look.pale))
    extra.append(ball((x, y - 0.06 * r, z + 1.08 * r), (0.17 * r, 0.12 * r, 0.10 * r), INK))
    return plush_figure(body, tuple(extra), eyes, 0.88)


def elephant(look: Look) -> Figure:
    """Wide ears and a trunk."""
    body = plush(look)
    (x, y, z), r = body.head, body.radius
    beads, eyes = face(body.head, (r, 0.92 * r, 0.9 * r), look.mix(4, 0.12, 0.17) * r, spread=0.44, lift=0.22)
    extra = [*beads]
    for sign in (-1, 1):
        place = (x + sign * 1.22 * r, y + 0.12 * r, z - 0.12 * r)
        extra.append(ball(place, (0.60 * r, 0.72 * r, 0.14 * r), look.plain, (0.0, -sign * 18.0, 0.0)))
        inner = (place[0], place[1], place[2] + 0.09 * r)
        extra.append(ball(inner, (0.42 * r, 0.53 * r, 0.12 * r), look.pale, (0.0, -sign * 18.0, 0.0)))
    long = look.mix(3, 0.8, 1.25) * r
    bend = (x, y - 0.2 * r - 0.55 * long, z + 1.22 * r)
    extra.append(limb((x, y - 0.08 * r, z + 0.82 * r), bend, 0.27 * r, 0.19 * r, look.plain))
    extra.append(
        limb(bend, (x + 0.06, bend[1] - 0.15 * long, bend[2] + 0.32 * r), 0.19 * r, 0.16 * r, look.plain)
    )
    return plush_figure(body, tuple(extra), eyes, 0.88)


def frog(look: Look) -> Figure:
    """Eyes on top of a wide head, a wide mouth."""
    body = plush(look, head_wide=1.22)
    (x, y, z), r = body.head, body.radius
    bulb = look.mix(4, 0.27, 0.36) * r
    extra = []
    places = [(x + sign * 0.60 * r, y + 0.82 * r, z + 0.25 * r) for sign in (-1, 1)]
    for place in places:
        extra.append(ball(place, bulb, look.plain))
        extra.append(
            ball((place[0], place[1] + 0.02, place[2] + 0.42 * bulb), 0.72 * bulb, Paint((0.97, 0.97, 0.94)))
        )
    centres = [(px, py + 0.02, pz + 1.0 * bulb) for px, py, pz in places]
    extra += [ball(c, (0.40 * bulb, 0.5 * bulb, 0.25 * bulb), INK) for c in centres]
    extra.append(ball((x, y - 0.30 * r, z + 0.38 * r), (0.82 * r, 0.42 * r, 0.56 * r), look.pale))
    smile = look.mix(3, 0.36, 0.52) * r
    extra.append(ball((x, y - 0.24 * r, z + 0.86 * r), (smile, 0.014, 0.11), INK))
    return plush_figure(body, tuple(extra), (centres[0], centres[1], 0.42 * bulb), 0.84)


BEAK = Paint((0.97, 0.62, 0.13))
SNOW = Paint((0.97, 0.97, 0.95))


def _feet(look: Look, spread: float, y: float, z: float) -> tuple[Shape, ...]:
    """Flat feet and, where the body is above y = 0.12, thin legs; sitting shows the soles."""
    if look.pose == "sit":
        soles = ((s * 1.25 * spread, 0.14, z + 0.20) for s in (-1, 1))
        return tuple(ball(place, (0.11, 0.15, 0.05), BEAK, (0.0, 0.0, -90.0 * place[0])) for place in soles)
    feet = [ball((s * spread, 0.05, z), (0.12, 0.05, 0.17), BEAK, (0.0, s * 14.0, 0.0)) for s in (-1, 1)]
    if y > 0.12:
        feet += [limb((s * spread, 0.06, 0.0), (s * 0.8 * spread, y, 0.0), 0.04, 0.05, BEAK) for s in (-1, 1)]
    return tuple(feet)


def _wing(look: Look, sign: int, shoulder: Vec3, length: float, paint: Paint) -> tuple[Shape, Vec3]:
    raised = look.pose == "wave" and sign == 1
    x, y, z = shoulder
    middle = (
        x + sign * (0.30 if raised else 0.05) * length / 0.4,
        y + (0.62 if raised else -0.78) * length * 0.62,
        z,
    )
    turn = (0.0, 0.0, -sign * 52.0) if raised else (0.0, 0.0, sign * 14.0)
    tip = (x + sign * (0.95 if raised else 0.35) * length, y + (0.85 if raised else -0.9) * length, z + 0.05)
    return ball(middle, (0.085, length * 0.72, 0.17), paint, turn), tip


def duck(look: Look) -> Figure:
    """A round body, a broad beak, an upturned tail."""
    width, r = look.mix(1, 0.32, 0.42), look.mix(0, 0.25, 0.32)
    leg = 0.0 if look.pose == "sit" else look.mix(2, 0.10, 0.22)
    torso = (0.0, leg + 0.33, -0.05)
    head = (0.0, torso[1] + 0.28 + 0.8 * r, 0.16)
    beads, eyes = face(head, (r, r, r), look.mix(4, 0.15, 0.20) * r, spread=0.42, lift=0.24)
    shapes = [
        ball(torso, (width, 0.31, 1.2 * width), look.main),
        ball(head, r, look.main),
        rod((0, torso[1] + 0.08, -0.9 * width), (0, torso[1] + 0.34, -1.62 * width), 0.17, 0.03, look.plain),
        ball(
            (0.0, head[1] - 0.12 * r, head[2] + 1.02 * r),
            (0.50 * r, 0.13 * r, look.mix(3, 0.36, 0.56) * r),
            BEAK,
            (-8.0, 0, 0),
        ),
        ball(
            (0.0, head[1] - 0.24 * r, head[2] + 0.95 * r),
            (0.40 * r, 0.10 * r, 0.36 * r),
            Paint((0.88, 0.47, 0.1)),
            (12.0, 0, 0),
        ),
        *beads,
        *_feet(look, 0.17, leg + 0.08, 0.08),
    ]
    tip: Vec3 = (0.0, 0.0, 0.0)
    for sign in (-1, 1):
        wing, tip = _wing(look, sign, (sign * 0.92 * width, torso[1] + 0.12, -0.02), 0.34, look.deep)
        shapes.append(wing)
    return Figure(
        tuple(shapes),
        crown=((0.0, head[1] + 0.93 * r, head[2]), 0.62 * r),
        eyes=eyes,
        neck=((0.0, torso[1] + 0.27, 0.10), 0.78 * r),
        back=((0.0, torso[1] + 0.22, -1.0 * width), 0.5 * width),
        hand=tip,
        waist=torso[1] - 0.1,
    )


def penguin(look: Look) -> Figure:
    """An upright egg with a white front and flippers."""
    width, tall = look.mix(1, 0.30, 0.38), look.mix(2, 0.52, 0.66)
    base = 0.02 if look.pose == "sit" else 0.08
    middle = (0.0, base + tall, 0.0)
    head = (0.0, base + 1.72 * tall, 0.03)
    r = look.mix(0, 0.25, 0.31)
    beads, eyes = face(head, (r, r, r), look.mix(4, 0.14, 0.19) * r, spread=0.36, lift=0.22)
    shapes = [
        ball(middle, (width, tall, 0.9 * width), look.main),
        ball(head, r, look.main),
        ball((0.0, middle[1] - 0.10 * tall, 0.34 * width), (0.78 * width, 0.80 * tall, 0.66 * width), SNOW),
        ball((-0.34 * r, head[1] + 0.10 * r, head[2] + 0.58 * r), (0.38 * r, 0.46 * r, 0.36 * r), SNOW),
        ball((0.34 * r, head[1] + 0.10 * r, head[2] + 0.58 * r), (0.38 * r, 0.46 * r, 0.36 * r), SNOW),
        rod(
            (0.0, head[1] - 0.10 * r, head[2] + 0.80 * r),
            (0.0, head[1] - 0.18 * r, head[2] + look.mix(3, 1.3, 1.6) * r),
            0.22 * r,
            0.02,
            BEAK,
        ),
        *(
            ball((x, y, z + 0.03), s, INK)
            for (x, y, z), s in ((eyes[0], beads[0].size), (eyes[1], beads[1].size))
        ),
        *_feet(look, 0.16, 0.0, 0.22),
    ]
    tip: Vec3 = (0.0, 0.0, 0.0)
    for sign in (-1, 1):
        wing, tip = _wing(look, sign, (sign * 0.92 * width, middle[1] + 0.34 * tall, 0.0), 0.42, look.plain)
        shapes.append(wing)
    left, right, size = eyes
    return Figure(
        tuple(shapes),
        crown=((0.0, head[1] + 0.93 * r, head[2]), 0.62 * r),
        eyes=((left[0], left[1], left[2] + 0.03), (right[0], right[1], right[2] + 0.03), size),
        neck=((0.0, head[1] - 0.80 * r, 0.02), 0.98 * r),
        back=((0.0, middle[1] + 0.1, -0.86 * width), 0.62 * width),
        hand=tip,
        waist=0.55 * tall,
    )


def owl(look: Look) -> Figure:
    """Huge ringed eyes, ear tufts, a small beak."""
    width, tall = look.mix(1, 0.36, 0.44), look.mix(2, 0.46, 0.56)
    middle = (0.0, tall + (0.0 if look.pose == "sit" else 0.07), 0.0)
    y, z = middle[1] + 0.46 * tall, 0.66 * width
    ring = look.mix(4, 0.15, 0.19)
    left, right = (-0.92 * ring, y, z + 0.09), (0.92 * ring, y, z + 0.09)
    shapes = [
        ball(middle, (width, tall, 0.85 * width), look.main),
        ball(
            (0.0, middle[1] - 0.24 * tall, 0.28 * width), (0.70 * width, 0.56 * tall, 0.64 * width), look.pale
        ),
        *(ball((c[0], y, z), (ring, ring, 0.10), SNOW) for c in (left, right)),
        *(ball(c, (0.46 * ring, 0.5 * ring, 0.05), INK) for c in (left, right)),
        rod((0.0, y - 0.55 * ring, z), (0.0, y - 1.25 * ring, z + 0.14), 0.07, 0.01, BEAK),
        *(
            rod(
                (s * 0.52 * width, middle[1] + 0.72 * tall, 0.0),
                (s * 0.80 * width, middle[1] + look.mix(3, 1.05, 1.25) * tall, 0.02),
                0.13,
                0.01,
                look.deep,
            )
            for s in (-1, 1)
        ),
        *_feet(look, 0.14, 0.0, 0.22),
    ]
    tip: Vec3 = (0.0, 0.0, 0.0)
    for sign in (-1, 1):
        wing, tip = _wing(look, sign, (sign * 0.96 * width, middle[1] + 0.22 * tall, 0.0), 0.38, look.deep)
        shapes.append(wing)
    return Figure(
        tuple(shapes),
        crown=((0.0, middle[1] + 0.93 * tall, 0.0), 0.48 * width),
        eyes=(left, right, 0.5 * ring),
        neck=((0.0, middle[1] + 0.02 * tall, 0.0), 0.98 * width),
        back=((0.0, middle[1] - 0.05, -0.82 * width), 0.5 * width),
        hand=tip,
        waist=0.6 * tall,
    )


def dinosaur(look: Look) -> Figure:
    """A long tail, a row of plates, small arms, a smiling snout."""
    width, r = look.mix(1, 0.27, 0.35), look.mix(0, 0.23, 0.29)
    leg = 0.05 if look.pose == "sit" else look.mix(2, 0.16, 0.30)
    torso = (0.0, leg + 0.32, -0.08)
    head = (0.0, torso[1] + 0.36 + r, 0.12)
    belly = Paint(
        (
            0.5 * CREAM[0] + 0.5 * look.pale.colour[0],
            0.5 * CREAM[1] + 0.5 * look.pale.colour[1],
            look.pale.colour[2],
        )
    )
    beads, eyes = face(head, (r, r, r), look.mix(4, 0.17, 0.23) * r, spread=0.56, lift=0.42)
    shapes = [
        ball(torso, (width, 0.38, width), look.main),
        ball((0.0, torso[1] - 0.02, 0.24 * width), (0.72 * width, 0.30, 0.82 * width), belly),
        ball(head, (r, 0.94 * r, r), look.main),
        ball(
            (0.0, head[1] - 0.24 * r, head[2] + 0.74 * r),
            (0.80 * r, 0.50 * r, look.mix(3, 0.6, 0.85) * r),
            look.plain,
        ),
        limb((0.0, torso[1] - 0.12, -0.3), (-0.52, 0.10, -0.62), 0.21, 0.05, look.plain),
        *beads,
    ]
    for y, z, size in (
        (head[1] + 0.80 * r, head[2] - 0.62 * r, 0.13),
        (head[1] - 0.2 * r, head[2] - 1.22 * r, 0.15),
        (torso[1] + 0.12, torso[2] - 1.05 * width, 0.15),
    ):
        shapes.append(
            rod((0.0, y - 0.04, z + 0.04), (0.0, y + 0.8 * size, z - 0.8 * size), size, 0.01, look.trim)
        )
    for sign in (-1, 1):
        forward = 0.30 if look.pose == "sit" else 0.06
        shapes.append(
            limb(
                (sign * 0.78 * width, leg + 0.14, -0.05),
                (sign * 0.86 * width, 0.11, forward),
                0.15,
                0.11,
                look.plain,
            )
        )
    hand: Vec3 = (0.0, 0.0, 0.0)
    for sign in (-1, 1):
        up = look.pose == "wave" and sign == 1
        hand = (
            sign * (width + (0.24 if up else 0.06)),
            torso[1] + (0.44 if up else 0.06),
            0.20 if up else 0.30,
        )
        shapes.append(limb((sign * 0.82 * width, torso[1] + 0.16, 0.06), hand, 0.075, 0.065, look.plain))
    return Figure(
        tuple(shapes),
        crown=((0.0, head[1] + 0.90 * r, head[2] + 0.05), 0.60 * r),
        eyes=eyes,
        neck=((0.0, torso[1] + 0.32, 0.02), 0.82 * width),
        back=None,
        hand=hand,
        waist=torso[1] - 0.12,
    )
