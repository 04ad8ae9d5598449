"""Words for what the Toybox shows: subjects, places, drawing styles, and the corpus a vocabulary is made from.

A caption names what can be seen and nothing else: colour, pattern, kind, what it wears, and the pose unless it stands.
"""

import itertools

from magic_insert.toybox.scenes import KINDS, SceneSpec
from magic_insert.toybox.styles import ALL_STYLES, style_phrase
from magic_insert.toybox.subjects import (
    ACCESSORIES,
    COLOURS,
    PATTERNS,
    POSES,
    REGISTRY,
    TEMPLATES,
    SubjectSpec,
)

PATTERN_WORDS = {"plain": "", "stripes": "striped", "dots": "dotted", "patches": "patched"}
POSE_WORDS = {
    "figure": {"stand": "", "sit": "sitting", "wave": "waving", "lean": "leaning"},
    "thing": {"stand": "", "sit": "lying on its side", "wave": "tipping back", "lean": "leaning"},
}
PLURAL = ("glasses",)  # worn without an article
PLACE_WORDS = {
    "room": "in a room",
    "street": "on a street",
    "forest": "in a forest",
    "beach": "on a beach",
    "desert": "in a desert",
    "stage": "on a stage",
    "cave": "in a cave",
    "snow field": "in a snow field",
    "kitchen": "in a kitchen",
    "garden": "in a garden",
    "rooftop": "on a rooftop",
    "temple": "in a temple",
    "library": "in a library",
    "moon": "on the moon",
    "playground": "in a playground",
}
# Words people add when they edit a prompt, beyond those the Toybox itself can show.
EDIT_PHRASES: tuple[str, ...] = (
    "standing up", "sitting down on the floor", "lying down", "walking", "running", "jumping", "dancing",
    "sleeping", "looking up", "looking left and right", "facing the camera", "turned away", "turned to the side",
    "holding a flag", "holding a book", "holding a flower", "wearing a crown", "wearing a red hat",
    "wearing a scarf and glasses", "wearing boots", "wearing a coat", "with long ears", "with short legs",
    "with big eyes", "with a small nose", "with a long tail", "with open arms", "with both hands up",
    "happy", "sad", "angry", "surprised", "smiling", "playing", "eating", "reading", "riding a bike",
    "waving at you", "leaning on a wall", "in the rain", "in the snow", "in the water", "under a tree",
    "near a house", "behind a rock", "in front of a window", "next to a box", "on the grass", "on the sand",
    "at night", "at sunset", "in the morning", "under the sky", "a toy", "an animal", "a character", "a subject",
    "a picture of", "a painting of", "a drawing of", "the same", "new", "old", "bright", "dark", "light",
    "soft", "shiny", "wooden", "black", "grey", "gold", "silver", "tall", "wide", "thin", "round", "cute",
    "with a shadow", "with a reflection", "plain background", "empty scene", "no people", "very", "many", "one",
    "two", "three", "from above", "from behind", "close up", "full body",
)  # fmt: skip


def caption(spec: SubjectSpec) -> str:
    """`a yellow striped bunny with a red hat, sitting`; standing is not said."""
    words = [spec.colour, PATTERN_WORDS[spec.pattern], spec.template]
    text = _with_article(" ".join(word for word in words if word))
    if spec.accessory != "none":
        thing = f"{spec.accessory_colour} {spec.accessory}"
        text += f" with {thing if spec.accessory in PLURAL else _with_article(thing)}"
    pose = pose_phrase(spec.template, spec.pose)
    return f"{text}, {pose}" if pose else text


def pose_phrase(template: str, pose: str) -> str:
    """What a pose looks like on this template: "waving" for a bunny, "tipping back" for a car, "" for standing."""
    return POSE_WORDS[REGISTRY[template].family][pose]


def scene_phrase(scene: SceneSpec) -> str:
    """Where it is: "in a forest"."""
    return PLACE_WORDS[scene.kind]


def corpus() -> list[str]:
    """Every phrase a vocabulary needs: each word of every caption appears, and so do common words for edits."""
    subjects = [
        _with_article(f"{colour} {PATTERN_WORDS[pattern]} {template}".replace("  ", " "))
        for template, (colour, pattern) in itertools.product(TEMPLATES, itertools.product(COLOURS, PATTERNS))
    ]
    worn = [
        f"with {thing if accessory in PLURAL else _with_article(thing)}"
        for accessory in ACCESSORIES
        if accessory != "none"
        for thing in (f"{colour} {accessory}" for colour in COLOURS)
    ]
    poses = [f"{template}, {pose_phrase(template, pose)}" for template in TEMPLATES for pose in POSES[1:]]
    places = [PLACE_WORDS[kind] for kind in KINDS]
    return [*subjects, *worn, *poses, *places, *map(style_phrase, ALL_STYLES), *EDIT_PHRASES]


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
