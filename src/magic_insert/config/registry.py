"""Components by name: those of this package, those of installed packages, those a script registers itself.

    STYLIZERS.names()                          # without importing any of them
    STYLIZERS.get("style_aligned")             # imports this one

A stylizer or an inserter is a class that is given its settings first. Those of this package are in config/schema, which
needs no torch; another's may be a nested frozen dataclass `Settings`: a StylizerConfig or an InserterConfig with fields
of its own (config/fields.py). A filter is such a dataclass itself. Help, validation and construction all come from it.
An installed package adds its own through an entry point of the registry's group:

    [project.entry-points."magic_insert.stylizers"]
    negative = "my_package:Negative"

and a script or a notebook with a decorator:

    @STYLIZERS.register("negative")
    class Negative:
        @dataclass(frozen=True)
        class Settings(StylizerConfig):
            strength: Annotated[float, Range(0, 1)] = 1.0

Importing this module imports no component and no torch.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar, get_type_hints

from magic_insert.config.fields import OneOf, rules_of
from magic_insert.core.errors import UserError, expecting, require_known

Component = TypeVar("Component")


@dataclass(eq=False)
class Registry:
    """The components of one kind. `own`: name -> "module:attribute" of this package."""

    kind: str
    own: Mapping[str, str]
    registered: dict[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """The group of entry points by which installed packages add to it."""
        return f"magic_insert.{self.kind}s"

    def names(self) -> list[str]:
        """Every name: this package's in their order, then the others; nothing is imported."""
        return [*self.own, *self.installed_names()]

    def installed_names(self) -> list[str]:
        """The names that other packages and this process have registered."""
        return sorted({*self._installed(), *self.registered} - set(self.own))

    def get(self, name: str) -> Any:
        """The component `name`, imported here. A name of this package cannot be taken by another.

        Raises:
            UserError: there is none of that name, or its module cannot be imported.
        """
        if name in self.own:
            module, _, attribute = self.own[name].partition(":")
            return getattr(import_module(module), attribute)
        if name in self.registered:
            return self.registered[name]
        require_known(self.kind, name, self.names())
        point = self._installed()[name]
        package = point.dist.name if point.dist is not None else "an unknown package"
        where = f"{self.kind} {name} at {point.value} (installed with {package})"
        with expecting(where, ImportError, AttributeError):
            found = point.load()
        return found

    def settings(self, name: str, base: type) -> type:
        """The dataclass of the settings of `name`: `base` for this package's own, another's may have one in it."""
        if name in self.own or name not in self.names():
            return base
        return getattr(self.get(name), "Settings", base)

    def register(self, name: str) -> Callable[[Component], Component]:
        """Registers the decorated component in this process; raises `UserError` where the name is taken."""

        def add(component: Component) -> Component:
            if name in self.own or self.registered.get(name, component) is not component:
                raise UserError(f"expected a new name for a {self.kind}, got {name!r}, which is taken")
            self.registered[name] = component
            return component

        return add

    def _installed(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in _every_entry_point(tuple(sys.path)).select(group=self.group)}


@cache
def _every_entry_point(searched: tuple[str, ...]) -> Any:
    """Those of all packages on the path `searched`: reading them takes longer than composing a small job."""
    return entry_points()


class Registered(OneOf):
    """A rule for fields: the name of a component in a registry, or one of `also`; described as in `OneOf`."""

    def __init__(self, registry: Registry, *also: str, **described: str) -> None:
        super().__init__(*also, **described)
        self.registry, self.also = registry, also

    @property
    def choices(self) -> tuple[str, ...]:
        """The names that are registered now."""
        return (*self.registry.names(), *self.also)


def registry_of(cls: type) -> Registry | None:
    """The registry that the field `name` of a group's dataclass is out of; None where it is out of none."""
    rules = rules_of(cls, "name") if "name" in get_type_hints(cls) else ()
    return next((rule.registry for rule in rules if isinstance(rule, Registered)), None)


def _places(package: str, **places: str) -> dict[str, str]:
    return {name: f"magic_insert.{package}{place}" for name, place in places.items()}


STYLIZERS = Registry(
    "stylizer",
    _places(
        "stylizers.",
        personalized="personalized:PersonalizedStylizer",
        instantstyle="base:DiffusionStylizer",
        style_aligned="style_aligned:StyleAlignedStylizer",
        adain="adain:AdainStylizer",
        tone="tone:ToneStylizer",
    ),
)
INSERTERS = Registry(
    "inserter",
    _places(
        "inserters.",
        diffusion="edit:EditInserter",
        bootstrapped="edit:EditInserter",
        diffusers="edit:ForeignInserter",
        effect="effect:EffectInserter",
        contact_shadow="contact_shadow:ContactShadow",
        inpaint="inpaint:InpaintInserter",
        copy_paste="copy_paste:CopyPaste",
    ),
)
_FILTERS = (
    "residue", "drift", "seam", "hallucination", "effect_area", "mask_area", "border", "cycle", "learned", "people",
)  # fmt: skip
FILTERS = Registry(
    "filter",
    _places("bootstrap.filters:", **{name: name.title().replace("_", "") for name in _FILTERS}),
)
_METRICS = ("subject", "style", "image_reward", "background", "inside", "effect", "truth", "shadow")
METRICS = Registry(
    "metric",
    _places("evaluation.metrics:", **{name: name for name in _METRICS}),
)
ENCODERS = Registry(
    "encoder",
    _places(
        "models.encoders.paper:",
        dino_vits16="DINO",
        dinov2_vits14="DINOV2",
        clip_vitb32="CLIP_B",
        clip_vitl14="CLIP_L",
        csd_vitl14="CSD",
    ),
)
SEGMENTERS = Registry(
    "segmenter",
    _places(
        "models.segment:segment_", **{name: name for name in ("auto", "alpha", "u2net", "grabcut", "rembg")}
    ),
)
# Training styles keep the order in which the shipped weights saw them; held-out ones stand beside their kind.
_STYLES = (
    ("printed", ("photo", "cartoon", "cel")),
    ("painted", ("watercolour", "oil", "pencil", "ink", "crayon", "charcoal")),
    ("printed", ("pixel", "halftone", "blueprint", "papercut", "vintage", "mosaic", "neon", "woodcut")),
)
STYLES = Registry(
    "style",
    _places("toybox.styles.", **{name: f"{file}:{name}" for file, names in _STYLES for name in names}),
)
