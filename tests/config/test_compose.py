"""Every configuration composes; a wrong key, type or range is refused by name before anything starts."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from magic_insert.cli.jobs import JOBS
from magic_insert.config.compose import JOB_SCHEMAS, compose_job, frozen_from
from magic_insert.config.freeze import freeze, overridden, thaw, to_yaml
from magic_insert.config.schema.shared import InserterConfig
from magic_insert.core.errors import UserError
from magic_insert.paths import conf_dir

REQUIRED = {
    "report": ["rows=r.jsonl"],
    "insert": ["subject=s.png", "background=b.png", "out=o.png"],
    "personalize": ["subject=s.png", "out=o"],
    "dashboard": ["run=r"],
    "export": ["run=r", "out=o"],
    "review": ["run=r"],
    "insertion": ["out=o"],
    "remove": ["image=i.png", "mask=m.png", "out=o.png"],
    # What a job's own entry adds to the words of the command line, or asks for by itself.
    "evaluate": ["+stylizer@stylizers.own=personalized", "+inserter@inserters.none=copy_paste"],
    "subjectplop": ["root=r"],
    "study": ["rows=r.jsonl", "ours=a", "against=[b]"],
    "demo": JOBS["demo"].prepare([]),
}

# What a choice cannot do without, because only its user knows it.
NEEDED = {
    ("inserter", "bootstrapped"): ["inserter.run=r"],
    ("data", "rord"): ["data.path=d"],
    ("pool", "sdxl"): ["pool.dir=d"],
}
# A model for one purpose: other jobs have no settings for it, and say so. The demo sets keys of its benchmark.
SERVES_ONLY = {("model", "sdxl_inpaint"): ["insertion"], ("benchmark", "toyplop"): ["evaluate"]}
CONF = conf_dir()
FOLDERS_OF_PARTS = ("debug", "job_debug", "experiment", "variant")
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in FOLDERS_OF_PARTS)
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


@cache
def groups_of(job: str) -> list[str]:
    """The groups that a job's table of contents names."""
    entries = yaml.safe_load((CONF / f"{job}.yaml").read_text())["defaults"]
    return [group for entry in entries if isinstance(entry, dict) for group in entry]


def jobs_with(group: str) -> list[str]:
    """The jobs that have `group`, that with the fewest others first: it composes soonest."""
    return sorted(
        (job for job in JOB_SCHEMAS if group in groups_of(job)), key=lambda job: len(groups_of(job))
    )


@cache
def base(job: str) -> DictConfig:
    """A job as it composes without anything special; not to be changed."""
    return compose_job(job, REQUIRED.get(job, []))


def frozen(job: str, *overrides: str) -> Any:
    return freeze(compose_job(job, [*REQUIRED.get(job, []), *overrides]))


@pytest.mark.parametrize("job", JOB_SCHEMAS)
def test_every_job_composes_and_freezes_into_its_own_class(job: str) -> None:
    assert type(freeze(base(job))) is JOB_SCHEMAS[job]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_of_every_group_serves_a_job_and_freezes(group: str, choice: str) -> None:
    jobs = SERVES_ONLY.get((group, choice), jobs_with(group))
    assert jobs, f"no job uses the group {group}"
    job = jobs[0]
    text = (CONF / group / f"{choice}.yaml").read_text()
    written = {
        key: value for key, value in (yaml.safe_load(text) or {}).items() if key not in ("hydra", "defaults")
    }
    values = thaw(frozen(job, f"{group}={choice}", *NEEDED.get((group, choice), [])))
    for key, value in written.items():
        arrived = values[key] if "@package _global_" in text else values[group][key]
        if isinstance(value, dict):
            assert value.items() <= arrived.items()
        elif not (isinstance(value, str) and value.startswith("${")):
            assert arrived == value


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_both_ends_of_an_experiment_that_ships_freeze_as_the_job_it_names(path: Path) -> None:
    text = path.read_text()
    named = re.search(rf"magic-insert (\w+) experiment={path.stem}\b", text)
    assert named
    written = yaml.safe_load(text)
    swept = {key: values.split(",") for key, values in written["hydra"]["sweeper"]["params"].items()}
    for corner in (0, -1):
        words = [f"{key}={values[corner]}" for key, values in swept.items()]
        values = thaw(frozen(named[1], f"experiment={path.stem}", *words))
        for key in written.keys() - {"hydra"}:
            assert written[key].items() <= values[key].items()


@pytest.mark.parametrize("job", jobs_with("debug"))
def test_debug_fast_shortens_every_job_that_offers_it(job: str) -> None:
    slow, fast = thaw(freeze(base(job))), thaw(frozen(job, "debug=fast"))
    steps = [key for key in slow if isinstance(slow[key], dict) and "steps" in slow[key]]
    assert steps
    assert all(fast[key]["steps"] <= 2 <= slow[key]["steps"] for key in steps)


@pytest.mark.parametrize("key", ["seedd", "model.imagesize"])
def test_an_unknown_key_is_refused_by_name_even_forced_in_with_a_plus(key: str) -> None:
    with pytest.raises(HydraException, match=key):
        frozen("insert", f"{key}=1")
    with pytest.raises(UserError, match=key):
        frozen("insert", f"+{key}=1")


def test_an_experiment_of_the_user_sets_values_and_the_command_line_wins(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 7\nstyle:\n  scale: 0.5\n")
    words = (f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine")
    cfg = frozen("insert", *words, "style.scale=0.25")
    assert (cfg.seed, cfg.style.scale) == (7, 0.25)
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nstyle:\n  scael: 0.5\n")
    with pytest.raises(HydraException, match="scael"):
        frozen("insert", *words)


@pytest.mark.parametrize(
    ("job", "override", "key"),
    [
        ("insert", "style.scale=.nan", "style.scale"),
        ("insert", "style.blocks=everything", "style.blocks"),
        ("insert", "style.blocks=[1]", "style.blocks"),
        ("insert", "model.image_size=100", "model.image_size"),
        ("insert", "inserter.name=bootstrapped", "inserter.run"),
        ("insert", "box=[1,2,3]", "box"),
        ("insert", "box=[-1,2,3,3]", "box"),
        ("insert", "background=[]", "background"),
        ("insert", "background=3", "background"),
        ("personalize", "personalization.token_pattern=v", "personalization.token_pattern"),
        ("personalize", "personalization.optimizer=prodigy", "personalization.optimizer"),
        ("personalize", "personalization.prior_images=3", "personalization.prior_images"),
        ("foundation", "metric_style.batch_size=1", "metric_style.batch_size"),
        ("bootstrap", "bootstrap.rounds=2", "bootstrap.rounds"),
        ("bootstrap", "fit.photo_share=0.001", "fit.photo_share"),
        ("study", "against=[]", "against"),
        ("status", "states=[asleep]", "states"),
        ("personalize", "exec.devices=2", "exec.devices"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name_and_in_one_line(job: str, override: str, key: str) -> None:
    cfg = OmegaConf.merge(base(job), OmegaConf.from_dotlist([override]))
    with pytest.raises(UserError) as caught:
        freeze(cfg)
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_missing_value_is_named() -> None:
    with pytest.raises(UserError) as caught:
        freeze(compose_job("remove"))
    for override in REQUIRED["remove"]:
        assert override.split("=")[0] + "=..." in str(caught.value)


@pytest.mark.parametrize("job", JOB_SCHEMAS)
def test_what_freezes_comes_back_from_its_yaml(job: str) -> None:
    """The resolved config.yaml of a run holds everything: merged into the bare schema it gives an equal object."""
    cfg = freeze(base(job))
    assert frozen_from(OmegaConf.create(to_yaml(cfg)), job) == cfg
    assert OmegaConf.to_container(OmegaConf.create(to_yaml(cfg))) == thaw(cfg)


def test_one_seed_reaches_every_part() -> None:
    cfg = frozen("insert", "seed=11")
    assert cfg.sampling.seed == cfg.personalization.seed == 11
    with pytest.raises(AttributeError):  # frozen is frozen
        cfg.model.dtype = "float16"


@pytest.mark.parametrize(
    ("job", "recipe"), [("personalize", "paper"), ("insert", "common"), ("evaluate", "paper")]
)
def test_gradients_through_float16_are_refused_and_the_line_says_what_to_set(job: str, recipe: str) -> None:
    words = ["model=sdxl", f"personalization={recipe}"]
    words += ["track=stylize", "+stylizer@stylizers.ours=personalized"] if job == "evaluate" else []
    with pytest.raises(UserError, match="float16") as refused:
        frozen(job, *words)
    assert "\n" not in str(refused.value)
    told = re.findall(r"personalization\.\S+=[\w-]+", str(refused.value).split("set ")[1])
    cfg = frozen(job, *words, *told)
    assert (cfg.personalization.precision, cfg.personalization.gradient_checkpointing) == ("bf16-mixed", True)
    assert frozen(job, *words, "model.dtype=bfloat16").personalization.precision == "32-true"


def test_a_value_from_outside_is_never_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "swordfish")
    for value in ("${oc.env:SECRET}", ["${oc.env:SECRET}"], "\\${oc.env:SECRET}"):
        with pytest.raises(UserError, match="a plain value") as told:
            overridden(InserterConfig(), {"sun": value}, "inserter")
        assert "swordfish" not in str(told.value)
