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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar, get_type_hints

from magic_insert.config.fields import OneOf, rules_of
from magic_insert.core.errors import UserError

Component = TypeVar("Component")


@dataclass(eq=False)
class Registry:
    """The components of one kind. `group`: of entry points. `own`: name -> "module:attribute" of this package."""

    kind: str
    group: str
    own: Mapping[str, str]
    registered: dict[str, Any] = field(default_factory=dict)

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
        if (point := self._installed().get(name)) is None:
            raise UserError(f"expected {self.kind} to be one of {', '.join(self.names())}, got {name!r}")
        try:
            return point.load()
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"expected {self.kind} {name} at {point.value} (installed with {_package(point)}), got: {error}"
            ) from error

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
        return {point.name: point for point in entry_points(group=self.group)}


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


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"


_STYLIZERS = "magic_insert.stylizers"
STYLIZERS = Registry(
    "stylizer",
    "magic_insert.stylizers",
    {
        "personalized": f"{_STYLIZERS}.personalized:PersonalizedStylizer",
        "instantstyle": f"{_STYLIZERS}.instantstyle:InstantStyleStylizer",
        "style_aligned": f"{_STYLIZERS}.style_aligned:StyleAlignedStylizer",
        "adain": f"{_STYLIZERS}.adain:AdainStylizer",
        "tone": f"{_STYLIZERS}.tone:ToneStylizer",
    },
)

_INSERTERS = "magic_insert.inserters"
INSERTERS = Registry(
    "inserter",
    "magic_insert.inserters",
    {
        "diffusion": f"{_INSERTERS}.edit:EditInserter",
        "bootstrapped": f"{_INSERTERS}.edit:EditInserter",
        "effect": f"{_INSERTERS}.effect:EffectInserter",
        "contact_shadow": f"{_INSERTERS}.contact_shadow:ContactShadow",
        "inpaint": f"{_INSERTERS}.inpaint:InpaintInserter",
        "copy_paste": f"{_INSERTERS}.copy_paste:CopyPaste",
    },
)

_FILTERS = "magic_insert.bootstrap.filters"
FILTERS = Registry(
    "filter",
    "magic_insert.filters",
    {
        "residue": f"{_FILTERS}:Residue",
        "drift": f"{_FILTERS}:Drift",
        "seam": f"{_FILTERS}:Seam",
        "hallucination": f"{_FILTERS}:Hallucination",
        "effect_area": f"{_FILTERS}:EffectArea",
        "mask_area": f"{_FILTERS}:MaskArea",
        "border": f"{_FILTERS}:Border",
        "cycle": f"{_FILTERS}:Cycle",
        "learned": f"{_FILTERS}:Learned",
        "people": f"{_FILTERS}:People",
    },
)

_METRICS = "magic_insert.evaluation.metrics"
METRICS = Registry(
    "metric",
    "magic_insert.metrics",
    {
        "subject": f"{_METRICS}:subject",
        "style": f"{_METRICS}:style",
        "image_reward": f"{_METRICS}:image_reward",
        "background": f"{_METRICS}:background",
        "inside": f"{_METRICS}:inside",
        "effect": f"{_METRICS}:effect",
        "truth": f"{_METRICS}:truth",
        "shadow": f"{_METRICS}:shadow",
    },
)

_PUBLISHED = "magic_insert.models.encoders.paper"
ENCODERS = Registry(
    "encoder",
    "magic_insert.encoders",
    {
        "dino_vits16": f"{_PUBLISHED}:DINO",
        "dinov2_vits14": f"{_PUBLISHED}:DINOV2",
        "clip_vitb32": f"{_PUBLISHED}:CLIP_B",
        "clip_vitl14": f"{_PUBLISHED}:CLIP_L",
        "csd_vitl14": f"{_PUBLISHED}:CSD",
    },
)

_SEGMENTERS = "magic_insert.models.segment"
SEGMENTERS = Registry(
    "segmenter",
    "magic_insert.segmenters",
    {name: f"{_SEGMENTERS}:segment_{name}" for name in ("auto", "alpha", "u2net", "grabcut", "rembg")},
)

# Training styles keep the order in which the shipped weights saw them; held-out ones stand beside their kind.
_STYLES = (
    ("printed", ("photo", "cartoon", "cel")),
    ("painted", ("watercolour", "oil", "pencil", "ink", "crayon", "charcoal")),
    ("printed", ("pixel", "halftone", "blueprint", "papercut", "vintage", "mosaic", "neon", "woodcut")),
)
STYLES = Registry(
    "style",
    "magic_insert.styles",
    {name: f"magic_insert.toybox.styles.{file}:{name}" for file, names in _STYLES for name in names},
)
