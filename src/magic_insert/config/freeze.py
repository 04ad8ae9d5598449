"""Between the composed configuration and the frozen dataclass that jobs receive."""

from dataclasses import asdict, fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue

from magic_insert.config.fields import check
from magic_insert.core.errors import UserError


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
    if not is_dataclass(frozen):
        raise UserError(
            "expected a configuration with a schema, got plain keys; compose it from conf/<job>.yaml"
        )
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
