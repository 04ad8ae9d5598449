"""Things that go: car, truck, rocket, boat. They face +z, so a three-quarter yaw shows them best."""

import math

from magic_insert.toybox.records import Paint, Shape
from magic_insert.toybox.solids import ball, block, limb, rod
from magic_insert.toybox.templates.figure import GLASS, METAL, TYRE, WOOD, Figure, Look

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
    return Figure(
        tuple(shapes), crown=((0.0, top, -0.12), 0.24), hand=(0.55 * wide, y - 0.05, -0.95 * long), rigid=True
    )


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
    return Figure(
        tuple(shapes), crown=((0.0, top, -0.3), 0.26), hand=(0.6 * wide, top - 0.1, -0.30), rigid=True
    )


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
        side = (
            (0.9 * r + 0.4 * fin) * math.sin(math.radians(turn)),
            (0.9 * r + 0.4 * fin) * math.cos(math.radians(turn)),
        )
        shapes.append(
            block((side[0], low + 0.10, side[1]), (0.035, 0.22, fin), look.trim, 0.03, (38.0, turn, 0.0))
        )
    return Figure(
        tuple(shapes),
        hand=(0.9 * r, low + 0.6 * tall, 0.0),
        neck=((0.0, low + 1.32 * tall, 0.0), 0.95 * r),
        rigid=True,
    )


def boat(look: Look) -> Figure:
    """A round hull with a striped deck rail, a mast and a square sail in the pattern."""
    wide, long = look.mix(1, 0.28, 0.35), look.mix(2, 0.66, 0.80)
    sail, spread = look.mix(3, 0.30, 0.40), look.mix(0, 0.38, 0.50)
    mast = 0.62 + 2 * sail
    shapes: list[Shape] = [
        ball((0, 0.27, 0), (wide, 0.27, long), look.main),
        block((0, 0.34, 0), (0.94 * wide, 0.07, 0.84 * long), look.trim, 0.06),
        limb((0, 0.28, 0.80 * long), (0, 0.66, 1.10 * long), 0.12, 0.06, look.plain),
        ball((0, 0.70, 1.11 * long), look.mix(4, 0.08, 0.11), look.trim),
        limb((0, 0.28, -0.80 * long), (0, 0.58, -1.06 * long), 0.12, 0.06, look.plain),
        rod((0, 0.3, 0), (0, mast, 0), 0.04, 0.03, WOOD),
        block((0, 0.52 + sail, 0.07), (spread, sail, 0.045), look.main, 0.04, (-5.0, 0.0, 0.0)),
        limb(
            (-spread - 0.05, 0.54 + 2 * sail, 0.02), (spread + 0.05, 0.54 + 2 * sail, 0.02), 0.03, 0.03, WOOD
        ),
    ]
    return Figure(tuple(shapes), hand=(0, mast - 0.1, 0.0), rigid=True)
