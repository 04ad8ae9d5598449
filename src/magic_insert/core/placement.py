"""The placement prior: where a subject stands in a scene and how tall it is, where nobody says."""

from magic_insert.core.records import Box, Scene

# Measured on the 160 official results (fractions of the picture): where subjects stand and how tall they are.
LEFT_CENTRE, RIGHT_CENTRE = 0.32, 0.73
SUBJECT_HEIGHT, BOTTOM_EDGE = 0.45, 0.95
WIDEST = 0.40  # keeps a car's area near the measured 0.07 instead of letting it span the picture


def default_box(scene: Scene) -> Box:
    """The placement prior of the official results, on the emptier side (left when both are equally empty).

    Centre at 0.32 or 0.73 of the width, bottom edge at 0.95 and height 0.45 of the height. Source: measured on the
    results released with Magic Insert (arXiv 2407.02489).
    """

    def busyness(box: Box) -> float:
        """Mean absolute luminance step between neighbouring pixels: how much stands there already."""
        luminance = scene.crop(box).mean(dim=0)
        return float(luminance.diff(dim=0).abs().mean() + luminance.diff(dim=1).abs().mean())

    sides = [side_box(*scene.size, left=left) for left in (True, False)]
    return min(sides, key=busyness) if min(scene.size) > 4 else sides[0]


def side_box(height: int, width: int, *, left: bool) -> Box:
    """The prior of `default_box` on one side of a picture of `height` x `width` pixels."""
    h = max(1, round(SUBJECT_HEIGHT * height))
    w = max(1, round(min(WIDEST, 2 * LEFT_CENTRE, 2 * (1 - RIGHT_CENTRE)) * width))
    y = max(0, round(BOTTOM_EDGE * height) - h)
    centre = LEFT_CENTRE if left else RIGHT_CENTRE
    return Box(max(0, round(centre * width - w / 2)), y, w, h)
