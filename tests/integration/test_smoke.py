"""Small runs of jobs, one after the other as a person would; the Makefile names the tests of the other jobs."""

from pathlib import Path

import pytest

from magic_insert.cli.jobs import JOBS
from magic_insert.cli.main import main

pytestmark = pytest.mark.usefixtures("one_model")
SMALL = "benchmark.size=64 benchmark.num_subjects=1 benchmark.num_scenes=1 personalization.views=1"
PAIR = "ours=personalized+effect against=[personalized+copy_paste]"
FAST = "debug=fast model.source={model} model.image_size=64 model.device=cpu"
QUICK = f"{FAST} personalization.views=1 personalization.batch_size=1 personalization.validation.every=0"
CHAINS = {
    "pictures": [
        "toybox what=subjects num_subjects=1 styles=[photo] size=64 out=toy",
        "toybox what=pairs num_subjects=1 num_scenes=1 size=64 out=pairs",
        f"personalize subject=toy/subjects/000000.png out=cat {QUICK}",
        "export run=cat out=exported",
        f"insert run=cat subject=toy/subjects/000000.png background=pairs/without/000000.png out=o.png {FAST}",
        "remove image=pairs/with/000000.png mask=pairs/mask/000000.png out=clean.png model.source={model} steps=1",
        f"insertion task=insert out=edit data.num_pairs=2 data.held_out=1 data.workers=0 {FAST}",
        "status root=.",
        "dashboard run=cat out=page.html",
    ],
    "evaluation": [
        f"evaluate out=rows inserter=[copy_paste,effect] stylizer=personalized {SMALL} {FAST}",
        "report rows=rows/rows.jsonl out=report",
        f"study rows=rows/rows.jsonl {PAIR} protocol.tasks=1 out=study",
    ],
}


@pytest.mark.parametrize("chain", CHAINS)
def test_every_job_runs(
    chain: str, tiny_micro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in CHAINS[chain]:
        main(line.replace("{model}", str(tiny_micro)).split())


def test_no_job_is_left_out() -> None:
    run = {line.split()[0] for lines in CHAINS.values() for line in lines}
    elsewhere = {"demo", "bootstrap", "review", "foundation", "card", "page", "plan", "subjectplop"}
    assert (
        set(JOBS) == run | elsewhere
    )  # of those, CHECKED in the Makefile names a test each; the last four take more
