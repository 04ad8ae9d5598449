"""Components by name: those of this package, those of installed packages, those a script registers itself.

    STYLIZERS.names()                          # without importing any of them
    STYLIZERS.get("style_aligned")             # imports this one

An entry is a frozen dataclass of the component's settings (config/fields.py); where the component itself needs torch,
the dataclass lies in a module without it and a `build` method imports the rest. Help, validation and construction all
come from this one class. An installed package adds its own through an entry point of the registry's group:

    [project.entry-points."magic_insert.stylizers"]
    negative = "my_package:Negative"

and a script or a notebook with a decorator:

    @STYLIZERS.register("negative")
    @dataclass(frozen=True)
    class Negative(StylizerConfig): ...

Importing this module imports no component and no torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

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
        others = sorted({*self._installed(), *self.registered} - set(self.own))
        return [*self.own, *others]

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


@dataclass(frozen=True)
class Registered:
    """A rule for fields: the name of a component in a registry."""

    registry: Registry

    def holds(self, value: Any) -> bool:
        return value in self.registry.names()

    @property
    def expected(self) -> str:
        return f"to be one of {', '.join(self.registry.names())}"

    @property
    def brief(self) -> str:
        return " | ".join(self.registry.names())


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"


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
        "subject": f"{_METRICS}:SUBJECT",
        "style": f"{_METRICS}:STYLE",
        "image_reward": f"{_METRICS}:REWARD",
        "background": f"{_METRICS}:BACKGROUND",
        "inside": f"{_METRICS}:INSIDE",
        "effect": f"{_METRICS}:EFFECT",
        "truth": f"{_METRICS}:TRUTH",
        "shadow": f"{_METRICS}:SHADOW",
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
