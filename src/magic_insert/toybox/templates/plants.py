"""Growing things: house plant, cactus, mushroom."""

import math

from magic_insert.toybox.records import Paint, Shape
from magic_insert.toybox.solids import ball, limb, rod
from magic_insert.toybox.templates.figure import CREAM, Figure, Look, cheeks, face

LEAF = Paint((0.30, 0.62, 0.30))
FRESH = Paint((0.44, 0.74, 0.34))
SOIL = Paint((0.32, 0.21, 0.15))
CLAY = Paint((0.80, 0.45, 0.30))


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
        shapes.append(
            ball(
                middle,
                (0.15, 0.62 * length, 0.055),
                (LEAF, FRESH)[index % 2],
                (tilt, math.degrees(angle), 0.0),
            )
        )
    return Figure(
        tuple(shapes),
        eyes=eyes,
        neck=((0, tall - 0.10, 0), 0.98 * r),
        hand=(0.6 * r, tall, 0.3 * r),
        rigid=True,
    )


def cactus(look: Look) -> Figure:
    """A column with two arms in a clay pot, a flower on top, a face."""
    r, tall = look.mix(1, 0.20, 0.27), look.mix(2, 0.42, 0.62)
    pot = look.mix(0, 0.26, 0.34)
    y = pot + 0.04
    top = y + 2 * tall
    beads, eyes = face(
        (0, y + 1.25 * tall, 0), (r, tall, r), look.mix(4, 0.04, 0.055), spread=0.36, lift=0.02
    )
    arm = look.mix(3, 0.20, 0.32)
    thick = look.mix(5, 0.075, 0.105)
    shapes: list[Shape] = [
        rod((0, 0, 0), (0, pot, 0), 0.98 * r, 1.35 * r, CLAY),
        rod((0, pot - 0.05, 0), (0, pot + 0.06, 0), 1.52 * r, 1.52 * r, CLAY),
        limb((0, y, 0), (0, top - r, 0), r, r, look.main),
        ball((0, top + 0.02, 0.04), (0.12, 0.07, 0.12), look.trim),
        ball((0, top + 0.07, 0.04), 0.05, Paint((1.0, 0.86, 0.35))),
        *beads,
        *cheeks(eyes, 0.085, 0.045),
    ]
    for sign, low in ((-1, 0.72), (1, 1.0)):
        elbow = (sign * (r + 0.20), y + low * tall, 0.0)
        shapes.append(limb((sign * 0.7 * r, elbow[1], 0.0), elbow, thick, thick, look.plain))
        rise = -0.85 if look.pose == "sit" else (1.7 if look.pose == "wave" and sign == 1 else 1.0)
        tip = (elbow[0] + (0.16 if rise > 1.5 else 0.0) * sign, elbow[1] + rise * arm, 0.0)
        shapes.append(limb(elbow, tip, thick, 0.95 * thick, look.plain))
    return Figure(
        tuple(shapes),
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
    beads, eyes = face(
        (0, 0.55 * tall, 0), (1.08 * r, tall, 1.08 * r), look.mix(4, 0.045, 0.06), spread=0.36, lift=0.02
    )
    shapes: list[Shape] = [
        rod((0, 0.0, 0), (0, tall + 0.06, 0), 1.25 * r, 0.95 * r, stem),
        ball((0, 0.06, 0), (1.35 * r, 0.09, 1.35 * r), stem),
        ball((0, tall + 0.06, 0), (cap, dome, cap), look.main),
        rod((0, tall - 0.05, 0), (0, tall + 0.10, 0), 0.62 * cap, 0.98 * cap, Paint((0.93, 0.86, 0.74))),
        *beads,
        *cheeks(eyes, 0.09, 0.06),
    ]
    if look.main.pattern == "plain":
        for azimuth, elevation, size in (
            (-28.0, 42.0, 0.10),
            (34.0, 30.0, 0.085),
            (10.0, 68.0, 0.09),
            (-75.0, 26.0, 0.085),
            (88.0, 40.0, 0.09),
        ):
            a, e = math.radians(azimuth), math.radians(elevation)
            place = (
                cap * math.cos(e) * math.sin(a),
                tall + 0.06 + dome * math.sin(e),
                cap * math.cos(e) * math.cos(a),
            )
            shapes.append(ball(place, (size, 0.7 * size, size), Paint(CREAM)))
    return Figure(
        tuple(shapes),
        crown=((0, tall + 0.03 + dome, 0), 0.42 * cap),
        eyes=eyes,
        neck=((0, 0.80 * tall, 0), 1.1 * r),
        hand=(1.2 * r, 0.35 * tall, 0.05),
        rigid=True,
    )
