"""Soft toys on two legs: bunny, cat, bear, elephant, frog."""

from magic_insert.toybox.records import Paint
from magic_insert.toybox.solids import ball, limb, rod
from magic_insert.toybox.templates.figure import (
    INK,
    Figure,
    Look,
    face,
    plush,
    plush_figure,
)

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
