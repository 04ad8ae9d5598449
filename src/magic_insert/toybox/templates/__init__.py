"""The kinds of subjects: name, builder, what each may wear, the side from which it is best known."""

from magic_insert.toybox.templates.animals import bear, bunny, cat, elephant, frog
from magic_insert.toybox.templates.birds_and_reptiles import dinosaur, duck, owl, penguin
from magic_insert.toybox.templates.figure import Figure, Look, Template
from magic_insert.toybox.templates.people import person, robot, snowman
from magic_insert.toybox.templates.plants import cactus, mushroom, plant
from magic_insert.toybox.templates.things import chair, cupcake, gift, lamp, teapot
from magic_insert.toybox.templates.vehicles import boat, car, rocket, truck

__all__ = ["REGISTRY", "Figure", "Look", "Template"]

_HATS = ("hat", "party hat", "crown")
_DRESSED = ("none", *_HATS, "scarf", "bow tie", "glasses", "backpack", "flag")
_NO_PACK = ("none", *_HATS, "scarf", "bow tie", "glasses", "flag")

_ALL = (
    Template("bunny", bunny, _DRESSED),
    Template("cat", cat, _DRESSED),
    Template("bear", bear, _DRESSED),
    Template("elephant", elephant, _DRESSED),
    Template("frog", frog, ("none", *_HATS, "scarf", "bow tie", "backpack", "flag")),
    Template("duck", duck, _NO_PACK),
    Template("penguin", penguin, _DRESSED),
    Template("owl", owl, ("none", *_HATS, "backpack", "flag")),
    Template("dinosaur", dinosaur, ("none", *_HATS, "scarf", "bow tie", "flag"), yaw=(5.0, 50.0)),
    Template("person", person, _DRESSED),
    Template("robot", robot, ("none", *_HATS, "scarf", "bow tie", "backpack", "flag")),
    Template("snowman", snowman, _DRESSED),
    Template("car", car, ("none", *_HATS, "flag"), "thing", (30.0, 65.0)),
    Template("truck", truck, ("none", *_HATS, "flag"), "thing", (30.0, 65.0)),
    Template("rocket", rocket, ("none", "scarf", "flag"), "thing"),
    Template("boat", boat, ("none", "flag"), "thing", (40.0, 65.0)),
    Template("chair", chair, ("none", "flag", "hat"), "thing", (10.0, 50.0)),
    Template("lamp", lamp, ("none", *_HATS, "bow tie"), "thing"),
    Template("teapot", teapot, ("none", *_HATS, "glasses"), "thing", (0.0, 30.0)),
    Template("cupcake", cupcake, ("none", *_HATS, "glasses", "flag"), "thing"),
    Template("gift", gift, ("none", *_HATS, "flag"), "thing", (15.0, 45.0)),
    Template("plant", plant, ("none", "scarf", "bow tie", "glasses", "flag"), "thing"),
    Template("cactus", cactus, _NO_PACK),
    Template("mushroom", mushroom, ("none", *_HATS, "scarf", "bow tie", "glasses", "flag"), "thing"),
)
REGISTRY: dict[str, Template] = {template.name: template for template in _ALL}
