"""Between plain mappings and the frozen dataclasses of the schema: open a schema for merging, fill one, change one."""

from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from magic_insert.config.fields import check
from magic_insert.core.errors import UserError

Config = TypeVar("Config")


def writable_schema(cls: type) -> DictConfig:
    """The typed tree of a frozen dataclass and of the dataclasses in its fields, open for merging.

    OmegaConf marks the tree of a frozen dataclass read-only, which would forbid any YAML or override. Fields that are
    dataclasses are declared MISSING, so that making a schema runs no range check; here they become typed subtrees.
    """
    node = OmegaConf.structured(cls)
    OmegaConf.set_readonly(node, None)
    for field, hint in get_type_hints(cls).items():
        if is_dataclass(hint):
            node[field] = writable_schema(cast(type, hint))
    return node


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

    Raises:
        UserError: `part` has no such key, or the value does not fit.
    """
    if not values:
        return part
    known = [entry.name for entry in fields(cast(Any, part))]
    for name in values:
        if name not in known:
            raise UserError(f"expected a key out of {', '.join(known)} in {key}, got {name!r}")
    return typed(type(part), {**asdict(cast(Any, part)), **values}, key)
