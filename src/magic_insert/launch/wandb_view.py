"""The saved W&B view of the same curves as the dashboard's page, for those who are logged in."""

from pathlib import Path
from typing import Any

from magic_insert.config.schema import DashboardConfig
from magic_insert.core.errors import UserError
from magic_insert.launch.dashboard import GROUPS, NETWORKS


def save_view(cfg: DashboardConfig) -> str:
    """Builds the view of the group of runs that `cfg.run` or `cfg.sweep_dir` names, and returns its address.

    Raises:
        UserError: wandb-workspaces is not installed.
    """
    require_workspaces()
    import wandb

    return str(build_view(cfg, wandb.Api().default_entity).save().url)


def require_workspaces() -> None:
    """Raises `UserError` where wandb-workspaces is not installed."""
    try:
        import wandb_workspaces.workspaces  # noqa: F401
    except ImportError as error:
        raise UserError(
            "expected wandb-workspaces for a saved view, got none; pip install 'magic-insert[workspaces]', "
            "or set logger=jsonl for a page of your own"
        ) from error


def build_view(cfg: DashboardConfig, entity: str) -> Any:
    """The unsaved view: quality of both networks by round, acceptance by style, the losses of the fits."""
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces

    folder = Path(str(cfg.run or cfg.sweep_dir))
    panels = [
        reports.LinePlot(
            title=f"{network}: effect-region PSNR",
            x="bootstrap/step",
            y=[f"bootstrap/{network}/{group}/effect_psnr" for group in GROUPS],
        )
        for network in NETWORKS
    ]
    # The package turns `metric_regex` into W&B's pair metricRegex, useMetricRegex.
    panels.append(
        reports.LinePlot(title="acceptance", x="bootstrap/step", metric_regex="bootstrap/acceptance/.*")
    )
    panels.append(reports.LinePlot(title="loss", x="Step", metric_regex=".*/loss"))
    return workspaces.Workspace(
        entity=entity,
        project=cfg.logger.project,
        name=folder.name,
        sections=[workspaces.Section(name="magic-insert", panels=panels, is_open=True)],
        runset_settings=workspaces.RunsetSettings(
            filters=[workspaces.Metric("Group").isin([folder.name, f"bootstrap {folder.name}"])]
        ),
    )
