"""Things of the house: chair, lamp, teapot, cupcake, gift. Some have faces, as toys do."""

from magic_insert.toybox.records import Paint, Shape
from magic_insert.toybox.solids import ball, block, limb, rod
from magic_insert.toybox.templates.figure import METAL, Figure, Look, cheeks, face

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
    if look.proportions[0] > 0.45:
        for x in (-1, 1):
            shapes.append(
                limb(
                    (x * wide, leg + 0.42, -0.8 * wide),
                    (x * wide, leg + 0.40, 0.6 * wide),
                    0.06,
                    0.07,
                    look.deep,
                )
            )
            shapes.append(
                rod(
                    (x * wide, leg + 0.05, 0.5 * wide),
                    (x * wide, leg + 0.40, 0.5 * wide),
                    0.04,
                    0.04,
                    look.deep,
                )
            )
    top = leg + 0.24 + 2 * back
    return Figure(
        tuple(shapes),
        hand=(0.8 * wide, top - 0.2, -1.02 * wide),
        crown=((0, top - 0.03, -1.12 * wide), 0.15),
        rigid=True,
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
    return Figure(
        tuple(shapes), crown=((0, y + tall, 0), 0.40 * shade), neck=((0, y - 0.10, 0), 0.10), rigid=True
    )


def teapot(look: Look) -> Figure:
    """A round pot with spout, handle, lid and a face."""
    r, squash = look.mix(1, 0.38, 0.46), look.mix(2, 0.82, 0.98)
    y = 0.07 + squash * r
    beads, eyes = face((0, y, 0), (r, squash * r, r), look.mix(4, 0.045, 0.062), spread=0.32, lift=0.12)
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
        *beads,
        *cheeks(eyes, 0.09, 0.06),
    ]
    return Figure(
        tuple(shapes), crown=((0, top + 0.13, 0), 0.5 * r), eyes=eyes, hand=(-r - 0.2, y, 0.0), rigid=True
    )


def cupcake(look: Look) -> Figure:
    """A paper case, swirls of icing in the colour, a cherry and a face."""
    r, case = look.mix(1, 0.34, 0.42), look.mix(2, 0.36, 0.46)
    swirl = look.mix(3, 0.15, 0.20)
    beads, eyes = face(
        (0, 0.55 * case, 0), (0.86 * r, case, 0.87 * r), look.mix(4, 0.045, 0.06), spread=0.30, lift=0.05
    )
    shapes: list[Shape] = [
        rod((0, 0, 0), (0, case, 0), 0.72 * r, r, CASE),
        ball((0, case + 0.05, 0), (1.16 * r, swirl, 1.16 * r), look.main),
        ball((0, case + 0.05 + 1.05 * swirl, 0), (0.86 * r, swirl, 0.86 * r), look.main),
        ball((0, case + 0.03 + 2.1 * swirl, 0), (0.54 * r, 0.95 * swirl, 0.54 * r), look.main),
        rod((0, case + 2.6 * swirl, 0), (0, case + 3.5 * swirl, 0), 0.26 * r, 0.02, look.plain),
        ball((0, case + 3.75 * swirl, 0), look.mix(0, 0.08, 0.11), CHERRY),
        *beads,
        *cheeks(eyes, 0.09, 0.07),
    ]
    return Figure(
        tuple(shapes),
        crown=((0, case + 3.1 * swirl, 0), 0.36 * r),
        eyes=eyes,
        hand=(0.5 * r, case + 1.0 * swirl, 0.4 * r),
        rigid=True,
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
    return Figure(
        tuple(shapes), hand=(0.8 * wide, top - 0.1, 0.5 * wide), crown=((0, top + 0.11, 0), 0.22), rigid=True
    )
