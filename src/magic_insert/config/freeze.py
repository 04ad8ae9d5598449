"""Between plain mappings, composed configurations and the frozen dataclasses that jobs receive."""

from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from magic_insert.config.fields import check
from magic_insert.config.registry import registry_of
from magic_insert.core.errors import UserError, require_known

Config = TypeVar("Config")


def freeze(cfg: DictConfig) -> Any:
    """The frozen dataclass of a composed job, with every range checked.

    Types are checked by OmegaConf while composing, ranges (config/fields.py) only here.

    Raises:
        UserError: a required key has no value, a value is out of range or refers to nothing; the message names the key.
    """
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(
            "expected a value for " + ", ".join(missing) + "; set " + " ".join(f"{k}=..." for k in missing)
        )
    _refuse_added_keys(cfg, "")
    try:
        frozen = OmegaConf.to_object(cfg)
    except (InterpolationResolutionError, MissingMandatoryValue) as error:
        raise UserError(
            f"expected {error.full_key} to have a value, got {str(error).splitlines()[0]}"
        ) from error
    assert is_dataclass(frozen), "a configuration has a schema"
    check(frozen)
    return frozen


def _refuse_added_keys(cfg: DictConfig, prefix: str) -> None:
    """Hydra's `+key=value` opens even typed nodes; such a key would reach nobody."""
    cls = OmegaConf.get_type(cfg)
    if cls is None or not is_dataclass(cls):
        return
    declared = {field.name for field in fields(cls)}
    for key in map(str, cfg):
        if key not in declared:
            raise UserError(f"expected a known key, got {prefix}{key}; leave it out")
        if isinstance(child := cfg._get_node(key), DictConfig) and not child._is_none():
            _refuse_added_keys(child, f"{prefix}{key}.")


def thaw(frozen: Any) -> dict[str, Any]:
    """A frozen configuration as plain dicts, lists and scalars: for YAML, JSON, digests and sidecars."""
    return asdict(frozen)


def to_yaml(frozen: Any) -> str:
    """A frozen configuration as YAML, every value resolved, in the order of declaration."""
    return OmegaConf.to_yaml(OmegaConf.create(thaw(frozen)))


def writable_schema(cls: type, values: Any = None) -> DictConfig:
    """The typed tree of a frozen dataclass and of the dataclasses in its fields, open for merging with `values`.

    OmegaConf marks the tree of a frozen dataclass read-only, which would forbid any YAML or override. Fields that are
    dataclasses are declared MISSING, so that making a schema runs no range check; here they become typed subtrees.
    """
    node = OmegaConf.structured(cls)
    OmegaConf.set_readonly(node, None)
    for field, hint in get_type_hints(cls).items():
        if is_dataclass(hint):
            own = (values or {}).get(field)
            node[field] = writable_schema(settings_class(cast(type, hint), own), own)
    return node


def settings_class(cls: type, values: Any) -> type:
    """`cls`, or where `values` name a component of another package its own settings."""
    registry = registry_of(cls)
    return registry.settings(values.get("name", ""), cls) if registry is not None and values else cls


def typed(cls: type[Config], values: Any, key: str) -> Config:
    """The frozen dataclass `cls` with `values`; keys, types and ranges are checked as when Hydra composes.

    Raises:
        UserError: names the key below `key` that does not fit.
    """
    try:
        merged = OmegaConf.merge(writable_schema(cls), OmegaConf.create(values or {}))
        made = cast(Config, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        where = f"{key}.{error.full_key}" if error.full_key else key
        raise UserError(f"expected a fitting {where}, got: {str(error).splitlines()[0]}") from error
    check(made, f"{key}.")
    return made


def overridden(part: Config, values: dict[str, Any], key: str) -> Config:
    """The frozen configuration `part` with some of its keys replaced; ranges are checked again.

    Values may come from a browser: nothing in them is resolved, since an interpolation could read the environment.

    Raises:
        UserError: `part` has no such key, the value does not fit, or it has an interpolation in it.
    """
    if not values:
        return part
    known = [entry.name for entry in fields(cast(Any, part))]
    require_known(f"a key of {key}", values, known)
    for name, value in values.items():
        if "${" in str(value):
            raise UserError(f"expected a plain value for {key}.{name}, got an interpolation; leave out the $")
    return typed(type(part), {**asdict(cast(Any, part)), **values}, key)
