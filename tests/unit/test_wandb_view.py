"""The saved W&B view asks for keys that a bootstrap logs, in the words that W&B understands. Nothing is sent."""

import re
from importlib.util import find_spec

import pytest

from magic_insert.bootstrap.job import flat
from magic_insert.config.compose import compose_job
from magic_insert.config.freeze import freeze
from magic_insert.launch.results import build_view

INSTALLED = find_spec("wandb_workspaces") is not None
needs_workspaces = pytest.mark.skipif(
    not INSTALLED, reason="wandb-workspaces is not installed: pip install 'magic-insert[workspaces]'"
)
ROW = {
    "harvested": 4,
    "accepted": 2,
    "rejected": 2,
    "metrics": {
        network: {group: {"effect_psnr": 20.0} for group in ("photo", "seen", "unseen")}
        for network in ("inserter", "remover")
    },
    "acceptance": {"ink": 0.5},
    "filter": None,
}


@needs_workspaces
def test_every_panel_draws_something_that_is_logged() -> None:
    view = build_view(freeze(compose_job("dashboard", ["run=runs/mine"])), "somebody")._to_model()
    stored = view.model_dump(by_alias=True, exclude_none=True)["spec"]["section"]
    (section,) = stored["panelBankConfig"]["sections"]
    logged = {f"bootstrap/{name}" for name in flat(ROW)} | {"fit-insert-1/loss"}
    for panel in (panel["config"] for panel in section["panels"]):
        if panel.get("useMetricRegex"):
            assert any(re.fullmatch(panel["metricRegex"], name) for name in logged), panel["chartTitle"]
        else:
            assert set(panel["metrics"]) <= logged
            assert len(panel["metrics"]) == 3
    assert [panel["config"]["chartTitle"] for panel in section["panels"]][2:] == ["acceptance", "loss"]
    (runs,) = stored["runSets"]
    (rule,) = runs["filters"]["filters"]
    assert (rule["key"]["name"], rule["value"]) == ("group", ["mine", "bootstrap mine"])
