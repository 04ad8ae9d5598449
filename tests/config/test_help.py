"""Help, completion and the key page are made from the fields, so they name every key and nothing else."""

import subprocess
from pathlib import Path
from runpy import run_path

import pytest

from magic_insert.cli.jobs import JOBS
from magic_insert.cli.main import completion, job_groups, job_help
from magic_insert.config.compose import JOB_SCHEMAS
from magic_insert.config.fields import keys_of
from magic_insert.core.errors import UserError
from magic_insert.paths import CHECKOUT


@pytest.mark.parametrize("job", JOB_SCHEMAS)
def test_every_key_of_a_job_is_described(job: str) -> None:
    assert [key.name for key in keys_of(JOB_SCHEMAS[job]) if not key.doc] == []


@pytest.mark.parametrize("job", ["insert", "status"])
def test_help_has_one_line_for_each_key_of_the_job_and_none_of_hydras(job: str) -> None:
    lines = job_help(job, "summary", []).splitlines()
    named = [line.split("=")[0].strip() for line in lines if line.startswith("  ") and "=" in line]
    wanted = {key.name for key in keys_of(JOB_SCHEMAS[job])}
    assert wanted - set(named) <= {f"{group}.name" for group in job_groups(job)}
    assert len(named) == len(set(named))
    assert not any("hydra" in line for line in lines)


def test_help_of_one_key_tells_its_type_its_limits_and_all_of_its_text() -> None:
    text = job_help("insert", "", [], "style.scale")
    assert text.startswith("style.scale=1.25\n  float, 0 to 2. Strength of the adapter")
    assert "segmenter=rembg: U2-Net" in job_help("insert", "", [], "segmenter")
    with pytest.raises(UserError, match=r"style\.scale"):
        job_help("insert", "", [], "style.scael")


def test_the_key_page_of_the_docs_is_what_the_fields_say() -> None:
    """After a change of a field: tools/keys."""
    assert (CHECKOUT / "docs" / "keys.md").read_text() == run_path(str(CHECKOUT / "tools" / "keys"))[
        "key_page"
    ]()


COMPLETE = """
. {script}
COMP_LINE="$*"; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
_magic_insert; printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "replies"),
    [
        (["pers"], ["personalize"]),
        (["insert", "model"], ["model=micro", "model=sdxl", "model=sdxl_inpaint", "model.name="]),
        (["insert", "model=sdxl_"], ["sdxl_inpaint"]),
        (["insert", "style.mode=p"], ["prompt"]),
        (["bootstrap", "filter=eff"], ["effect_area"]),
        (["status", "model="], []),
        (["completion", "z"], ["zsh"]),
    ],
    ids=" ".join,
)
def test_bash_completes_jobs_keys_and_choices(words: list[str], replies: list[str], tmp_path: Path) -> None:
    (tmp_path / "script").write_text(completion("bash", list(JOBS)))
    code = COMPLETE.format(script=tmp_path / "script")
    done = subprocess.run(
        ["bash", "-c", code, "bash", "magic-insert", *words],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = [line for line in done.stdout.splitlines() if line and line != "script"]
    assert found[: len(replies)] == replies if replies else not found
