"""Animals: soft toys on two legs (bunny, cat, bear, elephant, frog), birds and a dinosaur with plans of their own."""

from magic_insert.toybox.figures import CREAM, INK, Eyes, Figure, Look, Plush, face, plush, plush_figure
from magic_insert.toybox.records import Paint, Shape, Vec3
from magic_insert.toybox.solids import SIDES, Frame, ball, limb, rod

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
    return plush_figure(body, tuple(extra), eyes, 0.80)


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
    return plush_figure(body, tuple(extra), eyes, 0.88)


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
    return plush_figure(body, tuple(extra), eyes, 0.88)


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
    return plush_figure(body, tuple(extra), eyes, 0.88)


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
    return plush_figure(body, tuple(extra), (centres[0], centres[1], 0.42 * bulb), 0.84)


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
        tuple(shapes),
        crown=((0.0, head[1] + 0.90 * r, head[2] + 0.05), 0.60 * r),
        eyes=eyes,
        neck=((0.0, torso[1] + 0.32, 0.02), 0.82 * width),
        back=None,
        hand=hand,
        waist=torso[1] - 0.12,
    )
