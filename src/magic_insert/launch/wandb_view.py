"""The saved W&B view of the same curves as the dashboard's page, for those who are logged in."""

from pathlib import Path

from magic_insert.config.schema.launch import DashboardConfig
from magic_insert.core.errors import UserError
from magic_insert.launch.dashboard import GROUPS, NETWORKS


def save_view(cfg: DashboardConfig) -> str:
    """Builds the view of the group of runs that `cfg.run` or `cfg.sweep_dir` names, and returns its address.

    Raises:
        UserError: wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise UserError(
            "expected wandb-workspaces for a saved view, got none; pip install wandb-workspaces, "
            "or set logger=jsonl for a page of your own"
        ) from error
    import wandb

    folder = Path(str(cfg.run or cfg.sweep_dir))
    panels = [
        reports.LinePlot(
            title=f"{network}: effect-region PSNR",
            x="bootstrap/step",
            y=[f"bootstrap/{network}/{group}/effect_psnr" for group in GROUPS],
        )
        for network in NETWORKS
    ]
    panels.append(reports.LinePlot(title="acceptance", x="bootstrap/step", y_regex="bootstrap/acceptance/.*"))
    panels.append(reports.LinePlot(title="loss", x="Step", y_regex=".*/loss"))
    view = workspaces.Workspace(
        entity=wandb.Api().default_entity,
        project=cfg.logger.project,
        name=folder.name,
        sections=[workspaces.Section(name="magic-insert", panels=panels, is_open=True)],
        runset_settings=workspaces.RunsetSettings(
            filters=[workspaces.Metric("Group").isin([folder.name, f"bootstrap {folder.name}"])]
        ),
    )
    return str(view.save().url)
