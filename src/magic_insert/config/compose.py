"""From dataclasses and YAML to one composed configuration: the schemas are registered here, before Hydra composes.

A schema stands first in its job's defaults list (conf/<job>.yaml), so every YAML and every override is merged into
typed fields: an unknown key or a value of the wrong type fails while composing, with the key's name.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, cast, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from magic_insert.config.fields import OneOf, rules_of
from magic_insert.config.freeze import freeze, settings_class, writable_schema
from magic_insert.config.registry import FILTERS, registry_of
from magic_insert.config.schema import bootstrap, evaluation, jobs, shared, training
from magic_insert.core.errors import UserError
from magic_insert.paths import conf_dir

JOB_SCHEMAS: dict[str, type] = {
    "insert": jobs.InsertConfig,
    "page": jobs.PageConfig,
    "personalize": jobs.PersonalizeConfig,
    "export": jobs.ExportConfig,
    "foundation": jobs.FoundationConfig,
    "toybox": jobs.ToyboxConfig,
    "demo": jobs.EvaluateConfig,
    "card": jobs.CardConfig,
    "plan": jobs.PlanConfig,
    "status": jobs.StatusConfig,
    "dashboard": jobs.DashboardConfig,
    "insertion": jobs.InsertionConfig,
    "remove": jobs.RemoveConfig,
    "evaluate": jobs.EvaluateConfig,
    "subjectplop": jobs.SubjectPlopConfig,
    "report": jobs.ReportConfig,
    "study": jobs.StudyConfig,
    "bootstrap": jobs.BootstrapConfig,
    "review": jobs.ReviewConfig,
}
# Groups whose choices are the names of their dataclass; a YAML is only needed where a choice sets more than its name.
NAMED_GROUPS: dict[str, type] = {
    "benchmark": evaluation.BenchmarkConfig,
    "data": training.DataConfig,
    "exec": shared.ExecConfig,
    "inserter": shared.InserterConfig,
    "logger": shared.LoggerConfig,
    "pool": bootstrap.StyledPoolConfig,
    "pose": shared.PoseConfig,
    "segmenter": shared.SegmenterConfig,
    "stylizer": shared.StylizerConfig,
}


@cache
def _schema(job: str) -> DictConfig:
    return writable_schema(JOB_SCHEMAS[job])


def register_schema(job: str) -> None:
    """Makes `<job>_schema` known to Hydra and no other job's: it copies everything it knows each time it composes."""
    for other in JOB_SCHEMAS:
        ConfigStore.instance().repo.pop(f"{other}_schema.yaml", None)
    _store(f"{job}_schema", _schema(job))


@cache
def register_groups() -> None:
    """Makes the choices of every group and the launcher of sweeps known to Hydra; calling it again does nothing."""
    # Where Hydra keeps a launcher's settings, so that a YAML may set how its sweeps are run.
    _store("jobs", writable_schema(jobs.SweepConfig), "hydra/launcher")
    for group, cls in NAMED_GROUPS.items():
        for name in set(_choices(cls)) - set(_written(group)):
            _store(name, {"name": name}, group)
    for name in ("none", "fast"):
        _store(name, {}, "debug", package="_global_")


@cache
def register_filters() -> None:
    """Makes this package's filters known to Hydra, each as a choice with its own bounds; imports them."""
    for name in FILTERS.own:
        _store_filter(name)


def register_installed(words: Sequence[str]) -> None:
    """Makes the components of other packages known to Hydra; imported are only those that `words` mention."""
    for group, cls in NAMED_GROUPS.items():
        registry = registry_of(cls)
        for name in registry.installed_names() if registry is not None else ():
            mentioned = any(name in word for word in words)
            node: Any = writable_schema(settings_class(cls, {"name": name})) if mentioned else {}
            node["name"] = name
            _store(name, node, group)
    for name in FILTERS.installed_names():
        if any(name in word for word in words):
            _store_filter(name)


def _written(group: str) -> list[str]:
    return [path.stem for path in (conf_dir() / group).glob("*.yaml")]


def _store_filter(name: str) -> None:
    _store(name, {"rules": {name: asdict(FILTERS.get(name)())}}, "filter")


def _store(name: str, node: Any, group: str | None = None, package: str | None = None) -> None:
    ConfigStore.instance().store(name=name, node=node, group=group, package=package, provider="magic_insert")


def _choices(cls: type) -> list[str]:
    """What the field `name` of a group's dataclass may be."""
    return [choice for rule in rules_of(cls, "name") if isinstance(rule, OneOf) for choice in rule.choices]


def group_options(group: str) -> list[str]:
    """Every choice of a configuration group: its YAML files and what is registered."""
    register_groups()
    stored = ConfigStore.instance().repo.get(group, {})
    named = _choices(NAMED_GROUPS[group]) if group in NAMED_GROUPS else []
    filters = FILTERS.names() if group == "filter" else []
    return sorted({*_written(group), *(name.removesuffix(".yaml") for name in stored), *named, *filters})


def described_options(group: str) -> dict[str, str]:
    """Every choice of a group with a line about it: a YAML's first comment, what the dataclass or the filter says."""
    docs = dict.fromkeys(group_options(group), "")
    for rule in rules_of(NAMED_GROUPS[group], "name") if group in NAMED_GROUPS else ():
        docs |= dict(getattr(rule, "docs", ()))
    for name in FILTERS.own if group == "filter" else ():
        docs[name] = str(FILTERS.get(name).__doc__).split("\n")[0]
    for path in (conf_dir() / group).glob("*.yaml"):
        comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
        docs[path.stem] = next((line for line in comments if not line.startswith("@")), docs[path.stem])
    return {name: docs[name] for name in group_options(group)}


# Composes a job from overrides; True is with Hydra's own node `hydra`.
Compose = Callable[[Sequence[str], bool], DictConfig]


@contextmanager
def composer(job: str) -> Iterator[Compose]:
    """What composes `job` as the command line would, many times.

    Raises:
        hydra.errors.HydraException, omegaconf.errors.OmegaConfBaseException: the overrides do not fit.
    """
    register_groups()
    if "filter" in get_type_hints(JOB_SCHEMAS[job]):
        register_filters()

    def made(overrides: Sequence[str], whole: bool) -> DictConfig:
        register_schema(job)
        register_installed(overrides)
        words = ["hydra/launcher=jobs", *overrides]
        try:
            return compose(config_name=job, overrides=words, return_hydra_config=whole)
        except ValueError as error:
            if isinstance(error, OmegaConfBaseException):
                raise
            given = " ".join(word for word in overrides if word.endswith("=null")) or str(error)
            raise UserError(f"expected a choice for each group, got {given}; set GROUP=NAME") from error

    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3", job_name=job):
        yield made


def compose_job(job: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration of `job` as the command line would compose it, for tests, notebooks and scripts."""
    with composer(job) as made:
        return made(overrides, False)


def read_frozen(path: Path, job: str) -> Any:
    """The frozen configuration of `job` that a run wrote to `path`; nothing is composed. Raises as `frozen_from`."""
    return frozen_from(cast(DictConfig, OmegaConf.load(path)), job)


def frozen_from(values: Mapping[str, Any] | DictConfig, job: str) -> Any:
    """The frozen configuration of `job` with all its values as they were thawed.

    Raises:
        UserError: a value is out of range.
        omegaconf.errors.OmegaConfBaseException: the values do not fit the job's schema.
    """
    return freeze(cast(DictConfig, OmegaConf.merge(writable_schema(JOB_SCHEMAS[job], values), values)))
