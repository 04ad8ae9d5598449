"""From dataclasses and YAML to one composed configuration: the schemas are registered here, before Hydra composes.

A schema stands first in its job's defaults list (conf/<job>.yaml), so every YAML and every override is merged into
typed fields: an unknown key or a value of the wrong type fails while composing, with the key's name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from magic_insert.config import schema
from magic_insert.config.freeze import freeze, writable_schema
from magic_insert.config.schema import DashboardConfig, JobLauncherConfig
from magic_insert.paths import conf_dir

# Every job is composed with it, so that a YAML may set how its sweeps are run.
JOB_LAUNCHER = "hydra/launcher=jobs"
JOB_SCHEMAS: dict[str, type] = {
    "insert": schema.InsertConfig,
    "personalize": schema.PersonalizeConfig,
    "export": schema.ExportConfig,
    "foundation": schema.FoundationConfig,
    "toybox": schema.ToyboxConfig,
    "demo": schema.DemoConfig,
    "card": schema.CardConfig,
    "status": schema.StatusConfig,
    "dashboard": DashboardConfig,
    "insertion": schema.InsertionConfig,
    "remove": schema.RemoveConfig,
    "evaluate": schema.EvaluateConfig,
    "subjectplop": schema.SubjectPlopConfig,
    "report": schema.ReportConfig,
    "study": schema.StudyConfig,
    "bootstrap": schema.BootstrapConfig,
    "review": schema.ReviewConfig,
}


@cache
def register_schemas() -> None:
    """Makes `<job>_schema` of every job and the launcher of sweeps known to Hydra; calling it again does nothing."""
    node = writable_schema(JobLauncherConfig)
    ConfigStore.instance().store(group="hydra/launcher", name="jobs", node=node, provider="magic_insert")
    for job, cls in JOB_SCHEMAS.items():
        ConfigStore.instance().store(name=f"{job}_schema", node=writable_schema(cls), provider="magic_insert")


def compose_job(job: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration of `job` as the command line would compose it, for tests, notebooks and scripts.

    Raises:
        hydra.errors.HydraException, omegaconf.errors.OmegaConfBaseException: the overrides do not fit.
    """
    register_schemas()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3", job_name=job):
        return compose(config_name=job, overrides=[JOB_LAUNCHER, *overrides])


def read_frozen(path: Path, job: str) -> Any:
    """The frozen configuration of `job` that a run wrote to `path`; nothing is composed. Raises as `frozen_from`."""
    return frozen_from(cast(DictConfig, OmegaConf.load(path)), job)


def frozen_from(values: Mapping[str, Any] | DictConfig, job: str) -> Any:
    """The frozen configuration of `job` with all its values as they were thawed.

    Raises:
        UserError: a value is out of range.
        omegaconf.errors.OmegaConfBaseException: the values do not fit the job's schema.
    """
    return freeze(cast(DictConfig, OmegaConf.merge(writable_schema(JOB_SCHEMAS[job]), values)))


def known_keys(cls: type, prefix: str = "") -> list[str]:
    """Every dotted key of a schema, groups and leaves."""
    keys: list[str] = []
    for field, hint in get_type_hints(cls).items():
        keys.append(prefix + field)
        if is_dataclass(hint):
            keys.extend(known_keys(cast(type, hint), f"{prefix}{field}."))
    return keys
