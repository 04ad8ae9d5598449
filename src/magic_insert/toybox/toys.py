"""The subjects that a template draws: soft toys on two legs, birds, a dinosaur; plants, things of the house, vehicles.

Some things have faces, as toys do; what drives or sails faces +z.
"""

import math

from magic_insert.toybox.figures import (
    CREAM,
    GLASS,
    INK,
    METAL,
    TYRE,
    WOOD,
    Eyes,
    Figure,
    Look,
    Plush,
    face,
    plush,
    plush_figure,
    toy_face,
)
from magic_insert.toybox.records import Paint, Shape, Vec3
from magic_insert.toybox.solids import SIDES, Frame, ball, block, limb, rod

PINK = Paint((0.96, 0.62, 0.68))


def _head(
    look: Look, eye: tuple[float, float], wide: float = 1.0, *, spread: float = 0.36, lift: float = 0.12
) -> tuple[Plush, Frame, list[Shape], Eyes]:
    """A soft-toy body, the frame of its head, its bead eyes, and where they are; `eye`: range of their size."""
    body = plush(look, head_wide=wide)
    r = body.radius
    beads, eyes = face(
        body.head, (wide * r, 0.92 * r, 0.9 * r), look.mix(4, *eye) * r, spread=spread, lift=lift
    )
    return body, Frame(body.head, r), [*beads], eyes


def bunny(look: Look) -> Figure:
    """Long ears, a pink nose, a round tail."""
    body, head, extra, eyes = _head(look, (0.15, 0.21))
    r, ear = body.radius, look.mix(3, 0.34, 0.56)
    for s in SIDES:
        root, tip = head.at((s * 0.42, 0.7, 0)), head.at((s * 0.62, 0.8, 0))
        extra.append(limb(_by(root, 0, -0.05), _by(tip, ear, -0.10), 0.20 * r, 0.25 * r, look.plain))
        inner = _by(_by(root, 0, -0.05), 0.1, 0.09 * r), _by(_by(tip, ear, -0.10), 0, 0.11 * r)
        extra.append(limb(*inner, 0.12 * r, 0.16 * r, PINK))
    extra.append(head.ball((0, -0.30, 0.72), (0.36, 0.27, 0.28), look.pale))
    extra.append(head.ball((0, -0.16, 0.99), (0.12, 0.09, 0.08), PINK))
    extra.append(ball((0.0, body.torso[1] - 0.16, -0.95 * body.width), 0.12, look.pale))
    return plush_figure(body, extra, eyes, 0.80)


def cat(look: Look) -> Figure:
    """Pointed ears, whisker pads, a long tail."""
    body, head, extra, eyes = _head(look, (0.16, 0.22), 1.08, spread=0.40)
    r, up = body.radius, look.mix(3, 0.42, 0.62)
    for s in SIDES:
        root, tip = head.at((s * 0.62, 0.5, 0)), head.at((s * 0.86, 0.7 + up, 0))
        extra.append(rod(_by(root, 0, -0.02), tip, 0.40 * r, 0.03 * r, look.plain))
        extra.append(rod(_by(root, 0, 0.18 * r), _by(tip, -0.12 * r, 0.09 * r), 0.27 * r, 0.02 * r, PINK))
    extra.append(head.ball((0, -0.28, 0.74), (0.38, 0.23, 0.24), look.pale))
    extra.append(head.ball((0, -0.16, 0.97), (0.11, 0.08, 0.07), INK))
    low, side = body.torso[1] - 0.19, -body.width - 0.27
    bend, tip = (side, low + 0.03, -0.40), (side - 0.07, low + 0.40, -0.44)
    extra.append(limb((0.0, low, -0.8 * body.width), bend, 0.06, 0.055, look.plain))
    extra.append(limb(bend, tip, 0.055, 0.05, look.plain))
    return plush_figure(body, extra, eyes, 0.88)


def bear(look: Look) -> Figure:
    """Round ears and a big muzzle."""
    body, head, extra, eyes = _head(look, (0.12, 0.17), 1.04, spread=0.34, lift=0.2)
    ear = look.mix(3, 0.30, 0.42) * body.radius
    for s in SIDES:
        place = head.at((s * 0.76, 0.70, 0))
        extra.append(ball(_by(place, 0, -0.03), (ear, ear, 0.6 * ear), look.plain))
        extra.append(ball(_by(place, 0, 0.35 * ear), (0.6 * ear, 0.6 * ear, 0.4 * ear), look.pale))
    extra.append(head.ball((0, -0.22, 0.74), (0.46, 0.36, 0.36), look.pale))
    extra.append(head.ball((0, -0.06, 1.08), (0.17, 0.12, 0.10), INK))
    return plush_figure(body, extra, eyes, 0.88)


def elephant(look: Look) -> Figure:
    """Wide ears and a trunk."""
    body, head, extra, eyes = _head(look, (0.12, 0.17), spread=0.44, lift=0.22)
    (x, y, z), r = body.head, body.radius
    for s in SIDES:
        turn = (0.0, -s * 18.0, 0.0)
        extra.append(head.ball((s * 1.22, 0.12, -0.12), (0.60, 0.72, 0.14), look.plain, turn))
        inner = _by(head.at((s * 1.22, 0.12, -0.12)), 0, 0.09 * r)
        extra.append(ball(inner, head.scaled((0.42, 0.53, 0.12)), look.pale, turn))
    long = look.mix(3, 0.8, 1.25) * r
    bend = (x, y - 0.2 * r - 0.55 * long, z + 1.22 * r)
    tip = (x + 0.06, bend[1] - 0.15 * long, bend[2] + 0.32 * r)
    extra.append(limb(head.at((0, -0.08, 0.82)), bend, 0.27 * r, 0.19 * r, look.plain))
    extra.append(limb(bend, tip, 0.19 * r, 0.16 * r, look.plain))
    return plush_figure(body, extra, eyes, 0.88)


def frog(look: Look) -> Figure:
    """Eyes on top of a wide head, a wide mouth."""
    body = plush(look, head_wide=1.22)
    r, head = body.radius, Frame(body.head, body.radius)
    bulb, white = look.mix(4, 0.27, 0.36) * r, Paint((0.97, 0.97, 0.94))
    extra, centres = [], []
    for place in (head.at((s * 0.60, 0.82, 0.25)) for s in SIDES):
        extra.append(ball(place, bulb, look.plain))
        extra.append(ball(_by(place, 0.02, 0.42 * bulb), 0.72 * bulb, white))
        centres.append(_by(place, 0.02, bulb))
    extra += [ball(c, (0.40 * bulb, 0.5 * bulb, 0.25 * bulb), INK) for c in centres]
    extra.append(head.ball((0, -0.30, 0.38), (0.82, 0.42, 0.56), look.pale))
    extra.append(ball(head.at((0, -0.24, 0.86)), (look.mix(3, 0.36, 0.52) * r, 0.014, 0.11), INK))
    return plush_figure(body, extra, (centres[0], centres[1], 0.42 * bulb), 0.84)


def _by(place: Vec3, up: float, forward: float) -> Vec3:
    """A place moved by world units."""
    return (place[0], place[1] + up, place[2] + forward)


BEAK = Paint((0.97, 0.62, 0.13))
SNOW = Paint((0.97, 0.97, 0.95))


def _feet(look: Look, spread: float, y: float, z: float) -> tuple[Shape, ...]:
    """Flat feet and, where the body is above y = 0.12, thin legs; sitting shows the soles."""
    if look.pose == "sit":
        soles = ((s * 1.25 * spread, 0.14, z + 0.20) for s in SIDES)
        return tuple(ball(place, (0.11, 0.15, 0.05), BEAK, (0.0, 0.0, -90.0 * place[0])) for place in soles)
    feet = [ball((s * spread, 0.05, z), (0.12, 0.05, 0.17), BEAK, (0.0, s * 14.0, 0.0)) for s in SIDES]
    if y > 0.12:
        feet += [limb((s * spread, 0.06, 0.0), (s * 0.8 * spread, y, 0.0), 0.04, 0.05, BEAK) for s in SIDES]
    return tuple(feet)


def _wings(look: Look, shoulder: Vec3, length: float, paint: Paint) -> tuple[tuple[Shape, ...], Vec3]:
    """Both wings, from the shoulder at +x and its mirror, and the tip of the one at +x, which is raised in a wave."""
    shapes, tip = [], shoulder
    for s in SIDES:
        raised = look.pose == "wave" and s == 1
        x, y, z = s * shoulder[0], shoulder[1], shoulder[2]
        out, up = (0.30, 0.62) if raised else (0.05, -0.78)
        middle = (x + s * out * length / 0.4, y + up * length * 0.62, z)
        turn = (0.0, 0.0, -s * 52.0) if raised else (0.0, 0.0, s * 14.0)
        out, up = (0.95, 0.85) if raised else (0.35, -0.9)
        tip = (x + s * out * length, y + up * length, z + 0.05)
        shapes.append(ball(middle, (0.085, length * 0.72, 0.17), paint, turn))
    return tuple(shapes), tip


def duck(look: Look) -> Figure:
    """A round body, a broad beak, an upturned tail."""
    width, r = look.mix(1, 0.32, 0.42), look.mix(0, 0.25, 0.32)
    leg = 0.0 if look.pose == "sit" else look.mix(2, 0.10, 0.22)
    torso = (0.0, leg + 0.33, -0.05)
    head = (0.0, torso[1] + 0.28 + 0.8 * r, 0.16)
    f = Frame(head, r)
    beads, eyes = face(head, (r, r, r), look.mix(4, 0.15, 0.20) * r, spread=0.42, lift=0.24)
    shapes = [
        ball(torso, (width, 0.31, 1.2 * width), look.main),
        ball(head, r, look.main),
        rod((0, torso[1] + 0.08, -0.9 * width), (0, torso[1] + 0.34, -1.62 * width), 0.17, 0.03, look.plain),
        f.ball((0, -0.12, 1.02), (0.50, 0.13, look.mix(3, 0.36, 0.56)), BEAK, (-8.0, 0, 0)),
        f.ball((0, -0.24, 0.95), (0.40, 0.10, 0.36), Paint((0.88, 0.47, 0.1)), (12.0, 0, 0)),
        *beads,
        *_feet(look, 0.17, leg + 0.08, 0.08),
    ]
    wings, tip = _wings(look, (0.92 * width, torso[1] + 0.12, -0.02), 0.34, look.deep)
    return Figure(
        (*shapes, *wings),
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
    f = Frame(head, r)
    beads, eyes = face(head, (r, r, r), look.mix(4, 0.14, 0.19) * r, spread=0.36, lift=0.22)
    shapes = [
        ball(middle, (width, tall, 0.9 * width), look.main),
        ball(head, r, look.main),
        ball((0.0, middle[1] - 0.10 * tall, 0.34 * width), (0.78 * width, 0.80 * tall, 0.66 * width), SNOW),
        *(f.ball((s * 0.34, 0.10, 0.58), (0.38, 0.46, 0.36), SNOW) for s in SIDES),
        rod(f.at((0, -0.10, 0.80)), f.at((0, -0.18, look.mix(3, 1.3, 1.6))), 0.22 * r, 0.02, BEAK),
        *(ball(_by(bead.centre, 0, 0.03), bead.size, INK) for bead in beads),
        *_feet(look, 0.16, 0.0, 0.22),
    ]
    wings, tip = _wings(look, (0.92 * width, middle[1] + 0.34 * tall, 0.0), 0.42, look.plain)
    left, right, size = eyes
    return Figure(
        (*shapes, *wings),
        crown=((0.0, head[1] + 0.93 * r, head[2]), 0.62 * r),
        eyes=(_by(left, 0, 0.03), _by(right, 0, 0.03), size),
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
    tuft, peak = middle[1] + 0.72 * tall, middle[1] + look.mix(3, 1.05, 1.25) * tall
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
            rod((s * 0.52 * width, tuft, 0.0), (s * 0.80 * width, peak, 0.02), 0.13, 0.01, look.deep)
            for s in SIDES
        ),
        *_feet(look, 0.14, 0.0, 0.22),
    ]
    wings, tip = _wings(look, (0.96 * width, middle[1] + 0.22 * tall, 0.0), 0.38, look.deep)
    return Figure(
        (*shapes, *wings),
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
    red, green, blue = look.pale.colour
    belly = Paint((0.5 * CREAM[0] + 0.5 * red, 0.5 * CREAM[1] + 0.5 * green, blue))
    f = Frame(head, r)
    beads, eyes = face(head, (r, r, r), look.mix(4, 0.17, 0.23) * r, spread=0.56, lift=0.42)
    shapes = [
        ball(torso, (width, 0.38, width), look.main),
        ball((0.0, torso[1] - 0.02, 0.24 * width), (0.72 * width, 0.30, 0.82 * width), belly),
        ball(head, (r, 0.94 * r, r), look.main),
        f.ball((0, -0.24, 0.74), (0.80, 0.50, look.mix(3, 0.6, 0.85)), look.plain),
        limb((0.0, torso[1] - 0.12, -0.3), (-0.52, 0.10, -0.62), 0.21, 0.05, look.plain),
        *beads,
    ]
    for y, z, size in (
        (head[1] + 0.80 * r, head[2] - 0.62 * r, 0.13),
        (head[1] - 0.2 * r, head[2] - 1.22 * r, 0.15),
        (torso[1] + 0.12, torso[2] - 1.05 * width, 0.15),
    ):
        top = (0.0, y + 0.8 * size, z - 0.8 * size)
        shapes.append(rod((0.0, y - 0.04, z + 0.04), top, size, 0.01, look.trim))
    forward = 0.30 if look.pose == "sit" else 0.06
    for s in SIDES:
        hip, foot = (s * 0.78 * width, leg + 0.14, -0.05), (s * 0.86 * width, 0.11, forward)
        shapes.append(limb(hip, foot, 0.15, 0.11, look.plain))
    hand: Vec3 = (0.0, 0.0, 0.0)
    for s in SIDES:
        out, up, near = (0.24, 0.44, 0.20) if look.pose == "wave" and s == 1 else (0.06, 0.06, 0.30)
        hand = (s * (width + out), torso[1] + up, near)
        shapes.append(limb((s * 0.82 * width, torso[1] + 0.16, 0.06), hand, 0.075, 0.065, look.plain))
    return Figure(
        shapes,
        crown=((0.0, head[1] + 0.90 * r, head[2] + 0.05), 0.60 * r),
        eyes=eyes,
        neck=((0.0, torso[1] + 0.32, 0.02), 0.82 * width),
        back=None,
        hand=hand,
        waist=torso[1] - 0.12,
    )


LEAF = Paint((0.30, 0.62, 0.30))
FRESH = Paint((0.44, 0.74, 0.34))
SOIL = Paint((0.32, 0.21, 0.15))
CLAY = Paint((0.80, 0.45, 0.30))
# Of a mushroom's cap: azimuth and elevation in degrees, size.
SPOTS = (
    (-28.0, 42.0, 0.10),
    (34.0, 30.0, 0.085),
    (10.0, 68.0, 0.09),
    (-75.0, 26.0, 0.085),
    (88.0, 40.0, 0.09),
)


def plant(look: Look) -> Figure:
    """Broad leaves in a pot of the named colour."""
    r, tall = look.mix(1, 0.26, 0.34), look.mix(0, 0.36, 0.46)
    leaf = look.mix(3, 0.30, 0.42)
    beads, eyes = face(
        (0, 0.5 * tall, 0), (0.84 * r, tall, 0.86 * r), look.mix(4, 0.04, 0.055), spread=0.32, lift=0.05
    )
    shapes: list[Shape] = [
        rod((0, 0, 0), (0, tall, 0), 0.70 * r, r, look.main),
        rod((0, tall - 0.06, 0), (0, tall + 0.06, 0), 1.14 * r, 1.14 * r, look.deep),
        rod((0, tall, 0), (0, tall + 0.07, 0), 0.98 * r, 0.98 * r, SOIL),
        *beads,
    ]
    y = tall + 0.06
    for index in range(7):
        angle = math.radians(51.4 * index + 20.0)
        out = 0.0 if index == 6 else look.mix(2, 0.60, 0.85)
        length = leaf * (1.25 if index == 6 else 1.0 + 0.12 * (index % 2))
        tip_y = y + length * (1.6 - 0.75 * out)
        tip = (1.25 * length * out * math.sin(angle), tip_y, 1.25 * length * out * math.cos(angle))
        middle = (0.6 * tip[0], y + 0.62 * (tip_y - y), 0.6 * tip[2])
        tilt = math.degrees(math.atan2(1.25 * length * out, tip_y - y))
        turn = (tilt, math.degrees(angle), 0.0)
        shapes.append(ball(middle, (0.15, 0.62 * length, 0.055), (LEAF, FRESH)[index % 2], turn))
    return Figure(
        shapes,
        eyes=eyes,
        neck=((0, tall - 0.10, 0), 0.98 * r),
        hand=(0.6 * r, tall, 0.3 * r),
    )


def cactus(look: Look) -> Figure:
    """A column with two arms in a clay pot, a flower on top, a face."""
    r, tall = look.mix(1, 0.20, 0.27), look.mix(2, 0.42, 0.62)
    pot = look.mix(0, 0.26, 0.34)
    y = pot + 0.04
    top = y + 2 * tall
    top_face = (0, y + 1.25 * tall, 0)
    smile, eyes = toy_face(look, top_face, (r, tall, r), (0.04, 0.055), (0.085, 0.045), 0.36, 0.02)
    arm = look.mix(3, 0.20, 0.32)
    thick = look.mix(5, 0.075, 0.105)
    shapes: list[Shape] = [
        rod((0, 0, 0), (0, pot, 0), 0.98 * r, 1.35 * r, CLAY),
        rod((0, pot - 0.05, 0), (0, pot + 0.06, 0), 1.52 * r, 1.52 * r, CLAY),
        limb((0, y, 0), (0, top - r, 0), r, r, look.main),
        ball((0, top + 0.02, 0.04), (0.12, 0.07, 0.12), look.trim),
        ball((0, top + 0.07, 0.04), 0.05, Paint((1.0, 0.86, 0.35))),
        *smile,
    ]
    for sign, low in ((-1, 0.72), (1, 1.0)):
        elbow = (sign * (r + 0.20), y + low * tall, 0.0)
        shapes.append(limb((sign * 0.7 * r, elbow[1], 0.0), elbow, thick, thick, look.plain))
        rise = -0.85 if look.pose == "sit" else (1.7 if look.pose == "wave" and sign == 1 else 1.0)
        tip = (elbow[0] + (0.16 if rise > 1.5 else 0.0) * sign, elbow[1] + rise * arm, 0.0)
        shapes.append(limb(elbow, tip, thick, 0.95 * thick, look.plain))
    return Figure(
        shapes,
        crown=((0, top - 0.03, 0), 0.72 * r),
        eyes=eyes,
        neck=((0, y + 0.72 * tall, 0), 1.08 * r),
        hand=(r + 0.22, y + tall, 0.05),
        waist=y + 0.1,
    )


def mushroom(look: Look) -> Figure:
    """A spotted cap on a thick stem with a face."""
    r, tall = look.mix(1, 0.20, 0.27), look.mix(2, 0.62, 0.80)
    cap, dome = look.mix(0, 0.44, 0.54), look.mix(3, 0.28, 0.40)
    stem = Paint(CREAM)
    front = (0, 0.55 * tall, 0), (1.08 * r, tall, 1.08 * r)
    smile, eyes = toy_face(look, *front, (0.045, 0.06), (0.09, 0.06), 0.36, 0.02)
    shapes: list[Shape] = [
        rod((0, 0.0, 0), (0, tall + 0.06, 0), 1.25 * r, 0.95 * r, stem),
        ball((0, 0.06, 0), (1.35 * r, 0.09, 1.35 * r), stem),
        ball((0, tall + 0.06, 0), (cap, dome, cap), look.main),
        rod((0, tall - 0.05, 0), (0, tall + 0.10, 0), 0.62 * cap, 0.98 * cap, Paint((0.93, 0.86, 0.74))),
        *smile,
    ]
    if look.main.pattern == "plain":
        for azimuth, elevation, size in SPOTS:
            a, e = math.radians(azimuth), math.radians(elevation)
            x, z = cap * math.cos(e) * math.sin(a), cap * math.cos(e) * math.cos(a)
            place = (x, tall + 0.06 + dome * math.sin(e), z)
            shapes.append(ball(place, (size, 0.7 * size, size), Paint(CREAM)))
    return Figure(
        shapes,
        crown=((0, tall + 0.03 + dome, 0), 0.42 * cap),
        eyes=eyes,
        neck=((0, 0.80 * tall, 0), 1.1 * r),
        hand=(1.2 * r, 0.35 * tall, 0.05),
    )


CASE = Paint((0.86, 0.62, 0.40), second=(0.72, 0.48, 0.28), pattern="stripes", scale=9.0)
CHERRY = Paint((0.86, 0.08, 0.16), gloss=0.3)
BULB = Paint((1.0, 0.95, 0.75))


def chair(look: Look) -> Figure:
    """A cushioned chair with a high back."""
    wide, leg = look.mix(1, 0.30, 0.40), look.mix(2, 0.30, 0.42)
    back = look.mix(3, 0.34, 0.50)
    shapes: list[Shape] = [
        block((0, leg + 0.07, 0), (wide, 0.08, wide), look.deep, 0.04),
        block((0, leg + 0.18, 0.03), (0.92 * wide, 0.07, 0.9 * wide), look.main, 0.06),
        block((0, leg + 0.22 + back, -0.9 * wide), (0.94 * wide, back, 0.09), look.main, 0.08, (-7.0, 0, 0)),
    ]
    thick = look.mix(5, 0.045, 0.07)
    for x, z in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        foot, knee = (x * 0.95 * wide, 0.0, z * 0.92 * wide), (x * 0.8 * wide, leg, z * 0.8 * wide)
        shapes.append(rod(foot, knee, 0.8 * thick, thick, look.deep))
    for end in (-wide, wide) if look.proportions[0] > 0.45 else ():  # arms
        rest = (end, leg + 0.42, -0.8 * wide), (end, leg + 0.40, 0.6 * wide)
        shapes.append(limb(*rest, 0.06, 0.07, look.deep))
        shapes.append(
            rod((end, leg + 0.05, 0.5 * wide), (end, leg + 0.40, 0.5 * wide), 0.04, 0.04, look.deep)
        )
    top = leg + 0.24 + 2 * back
    return Figure(
        shapes,
        hand=(0.8 * wide, top - 0.2, -1.02 * wide),
        crown=((0, top - 0.03, -1.12 * wide), 0.15),
    )


def lamp(look: Look) -> Figure:
    """A table lamp: foot, stem, shade in the pattern."""
    stem, shade = look.mix(2, 0.45, 0.70), look.mix(1, 0.36, 0.46)
    tall = look.mix(3, 0.36, 0.50)
    foot = look.mix(0, 0.24, 0.32)
    y = 0.08 + stem
    shapes: list[Shape] = [
        rod((0, 0, 0), (0, 0.09, 0), foot, 0.86 * foot, look.deep),
        rod((0, 0.08, 0), (0, y + 0.1, 0), 0.045, 0.035, METAL),
        ball((0, 0.08 + 0.42 * stem, 0), (look.mix(5, 0.12, 0.20), 0.16, look.mix(5, 0.12, 0.20)), look.trim),
        rod((0, y, 0), (0, y + tall, 0), shade, 0.55 * shade, look.main),
        rod((0, y - 0.02, 0), (0, y + 0.03, 0), 1.03 * shade, 1.01 * shade, look.pale),
        ball((0, y + 0.02, 0), 0.13, BULB),
        ball((0, y + tall + 0.03, 0), 0.05, METAL),
    ]
    return Figure(shapes, crown=((0, y + tall, 0), 0.40 * shade), neck=((0, y - 0.10, 0), 0.10))


def teapot(look: Look) -> Figure:
    """A round pot with spout, handle, lid and a face."""
    r, squash = look.mix(1, 0.38, 0.46), look.mix(2, 0.82, 0.98)
    y = 0.07 + squash * r
    smile, eyes = toy_face(look, (0, y, 0), (r, squash * r, r), (0.045, 0.062), (0.09, 0.06), 0.32, 0.12)
    top = y + squash * r
    spout = look.mix(3, 0.22, 0.34)
    shapes: list[Shape] = [
        ball((0, y, 0), (r, squash * r, r), look.main),
        rod((0, 0, 0), (0, 0.12, 0), 0.55 * r, 0.62 * r, look.deep),
        ball((0, top - 0.07, 0), (0.56 * r, 0.13, 0.56 * r), look.trim),
        ball((0, top + 0.10, 0), 0.075, look.deep),
        limb((0.82 * r, y - 0.10, 0), (r + 0.6 * spout, y + 0.06, 0), 0.12, 0.08, look.plain),
        rod((r + 0.55 * spout, y + 0.02, 0), (r + 0.95 * spout, y + 0.34, 0), 0.075, 0.085, look.plain),
        limb((-0.85 * r, y + 0.20, 0), (-r - 0.20, y + 0.20, 0), 0.055, 0.055, look.deep),
        limb((-r - 0.20, y + 0.20, 0), (-r - 0.22, y - 0.10, 0), 0.055, 0.055, look.deep),
        limb((-r - 0.22, y - 0.10, 0), (-0.82 * r, y - 0.20, 0), 0.055, 0.055, look.deep),
        *smile,
    ]
    return Figure(shapes, crown=((0, top + 0.13, 0), 0.5 * r), eyes=eyes, hand=(-r - 0.2, y, 0.0))


def cupcake(look: Look) -> Figure:
    """A paper case, swirls of icing in the colour, a cherry and a face."""
    r, case = look.mix(1, 0.34, 0.42), look.mix(2, 0.36, 0.46)
    swirl = look.mix(3, 0.15, 0.20)
    front = (0, 0.55 * case, 0), (0.86 * r, case, 0.87 * r)
    smile, eyes = toy_face(look, *front, (0.045, 0.06), (0.09, 0.07), 0.30, 0.05)
    shapes: list[Shape] = [
        rod((0, 0, 0), (0, case, 0), 0.72 * r, r, CASE),
        ball((0, case + 0.05, 0), (1.16 * r, swirl, 1.16 * r), look.main),
        ball((0, case + 0.05 + 1.05 * swirl, 0), (0.86 * r, swirl, 0.86 * r), look.main),
        ball((0, case + 0.03 + 2.1 * swirl, 0), (0.54 * r, 0.95 * swirl, 0.54 * r), look.main),
        rod((0, case + 2.6 * swirl, 0), (0, case + 3.5 * swirl, 0), 0.26 * r, 0.02, look.plain),
        ball((0, case + 3.75 * swirl, 0), look.mix(0, 0.08, 0.11), CHERRY),
        *smile,
    ]
    return Figure(
        shapes,
        crown=((0, case + 3.1 * swirl, 0), 0.36 * r),
        eyes=eyes,
        hand=(0.5 * r, case + 1.0 * swirl, 0.4 * r),
    )


def gift(look: Look) -> Figure:
    """A wrapped box with a ribbon and a bow."""
    wide, tall = look.mix(1, 0.34, 0.44), look.mix(2, 0.28, 0.42)
    lid = look.mix(0, 0.05, 0.08)
    loop = look.mix(3, 0.14, 0.22)
    top = 2 * tall + 2 * lid
    band = look.mix(5, 0.05, 0.08)
    shapes: list[Shape] = [
        block((0, tall, 0), (wide, tall, wide), look.main, 0.02),
        block((0, 2 * tall + lid, 0), (1.08 * wide, lid, 1.08 * wide), look.main, 0.02),
        block((0, 0.5 * top, 0), (band, 0.5 * top + 0.012, 1.095 * wide), look.trim, 0.01),
        block((0, 0.5 * top, 0), (1.095 * wide, 0.5 * top + 0.012, band), look.trim, 0.01),
        ball((0, top + 0.06, 0), 0.085, look.trim),
        *(ball((s * loop, top + 0.11, 0), (loop, 0.11, 0.09), look.trim, (0, 0, s * 24.0)) for s in (-1, 1)),
    ]
    return Figure(shapes, hand=(0.8 * wide, top - 0.1, 0.5 * wide), crown=((0, top + 0.11, 0), 0.22))


LAMP = Paint((1.0, 0.93, 0.62), gloss=0.2)


def _wheel(x: float, z: float, radius: float, hub: Paint) -> tuple[Shape, Shape]:
    sign = 1.0 if x > 0 else -1.0
    tyre = rod((x - sign * 0.09, radius, z), (x + sign * 0.09, radius, z), radius, radius, TYRE)
    return tyre, rod(
        (x + sign * 0.05, radius, z), (x + sign * 0.11, radius, z), 0.5 * radius, 0.42 * radius, hub
    )


def car(look: Look) -> Figure:
    """A round little car with a glass cabin and lamps."""
    wide, long = look.mix(1, 0.34, 0.42), look.mix(2, 0.62, 0.80)
    wheel = look.mix(5, 0.16, 0.21)
    roof = look.mix(0, 0.22, 0.30)
    y = wheel + 0.16
    shapes: list[Shape] = [
        block((0.0, y, 0.0), (wide, 0.19, long), look.main, 0.15),
        block((0.0, y + 0.13 + 0.5 * roof, -0.12), (0.86 * wide, 0.8 * roof, 0.55 * long), GLASS, 0.14),
        block((0.0, y + 0.16 + 1.2 * roof, -0.12), (0.80 * wide, 0.07, 0.46 * long), look.main, 0.06),
        block((0.0, y - 0.12, long - 0.02), (0.8 * wide, 0.05, 0.06), METAL, 0.04),
    ]
    for x in (-wide, wide):
        for z in (-0.60 * long, 0.60 * long):
            shapes += _wheel(x, z, wheel, METAL)
    eye = look.mix(4, 0.075, 0.105)
    shapes += [ball((s * 0.62 * wide, y + 0.04, long - 0.01), (eye, eye, 0.05), LAMP) for s in (-1, 1)]
    top = y + 0.22 + 1.2 * roof
    return Figure(shapes, crown=((0.0, top, -0.12), 0.24), hand=(0.55 * wide, y - 0.05, -0.95 * long))


def truck(look: Look) -> Figure:
    """A cab in the colour and a cargo box in the pattern."""
    wide, long = look.mix(1, 0.34, 0.40), look.mix(2, 0.66, 0.80)
    wheel = look.mix(5, 0.16, 0.20)
    tall = look.mix(3, 0.34, 0.46)
    y = wheel + 0.08
    cab = look.mix(0, 0.28, 0.34)
    front = long - 0.26
    shapes: list[Shape] = [
        block((0.0, y, 0.0), (0.92 * wide, 0.07, long), METAL, 0.03),
        block((0.0, y + 0.05 + tall, -0.30), (wide, tall, long - 0.34), look.main, 0.04),
        block((0.0, y + 0.05 + cab, front), (0.96 * wide, cab, 0.25), look.deep, 0.09),
        block((0.0, y + 0.08 + 1.35 * cab, front + 0.235), (0.78 * wide, 0.42 * cab, 0.03), GLASS, 0.02),
    ]
    for z in (-0.62 * long, front):
        shapes += [part for x in (-wide, wide) for part in _wheel(x, z, wheel, look.trim)]
    eye = look.mix(4, 0.06, 0.085)
    shapes += [ball((s * 0.62 * wide, y + 0.12, front + 0.25), (eye, eye, 0.04), LAMP) for s in (-1, 1)]
    top = y + 0.03 + 2 * tall
    return Figure(shapes, crown=((0.0, top, -0.3), 0.26), hand=(0.6 * wide, top - 0.1, -0.30))


def rocket(look: Look) -> Figure:
    """A body with a nose cone, a port-hole and four fins."""
    r, tall = look.mix(1, 0.23, 0.31), look.mix(2, 0.46, 0.66)
    nose = look.mix(3, 0.32, 0.48)
    low = 0.24
    fin = look.mix(5, 0.20, 0.30)
    window = look.mix(4, 0.10, 0.14)
    shapes: list[Shape] = [
        rod((0, low, 0), (0, low + 0.35 * tall, 0), 0.78 * r, r, look.main),
        rod((0, low + 0.35 * tall, 0), (0, low + 1.4 * tall, 0), r, 0.86 * r, look.main),
        rod((0, low + 1.4 * tall, 0), (0, low + 1.4 * tall + nose, 0), 0.88 * r, 0.02, look.trim),
        ball((0, low + 1.4 * tall + nose, 0), 0.045, METAL),
        rod((0, low + tall, 0.75 * r), (0, low + tall, 1.03 * r), 1.3 * window, 1.3 * window, METAL),
        ball((0, low + tall, 1.03 * r), (window, window, 0.035), GLASS),
        rod((0, 0.12, 0), (0, low + 0.02, 0), 0.7 * r, 0.5 * r, METAL),
    ]
    for quarter in range(4):
        turn = 90.0 * quarter + 45.0
        out, angle = 0.9 * r + 0.4 * fin, math.radians(turn)
        place = (out * math.sin(angle), low + 0.10, out * math.cos(angle))
        shapes.append(block(place, (0.035, 0.22, fin), look.trim, 0.03, (38.0, turn, 0.0)))
    return Figure(
        shapes,
        hand=(0.9 * r, low + 0.6 * tall, 0.0),
        neck=((0.0, low + 1.32 * tall, 0.0), 0.95 * r),
    )


def boat(look: Look) -> Figure:
    """A round hull with a striped deck rail, a mast and a square sail in the pattern."""
    wide, long = look.mix(1, 0.28, 0.35), look.mix(2, 0.66, 0.80)
    sail, spread = look.mix(3, 0.30, 0.40), look.mix(0, 0.38, 0.50)
    mast, yard = 0.62 + 2 * sail, 0.54 + 2 * sail
    shapes: list[Shape] = [
        ball((0, 0.27, 0), (wide, 0.27, long), look.main),
        block((0, 0.34, 0), (0.94 * wide, 0.07, 0.84 * long), look.trim, 0.06),
        limb((0, 0.28, 0.80 * long), (0, 0.66, 1.10 * long), 0.12, 0.06, look.plain),
        ball((0, 0.70, 1.11 * long), look.mix(4, 0.08, 0.11), look.trim),
        limb((0, 0.28, -0.80 * long), (0, 0.58, -1.06 * long), 0.12, 0.06, look.plain),
        rod((0, 0.3, 0), (0, mast, 0), 0.04, 0.03, WOOD),
        block((0, 0.52 + sail, 0.07), (spread, sail, 0.045), look.main, 0.04, (-5.0, 0.0, 0.0)),
        limb((-spread - 0.05, yard, 0.02), (spread + 0.05, yard, 0.02), 0.03, 0.03, WOOD),
    ]
    return Figure(shapes, hand=(0, mast - 0.1, 0.0))
