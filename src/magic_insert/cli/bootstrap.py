"""`magic-insert bootstrap`: adapt the inserter from photographs to drawings."""

from collections.abc import Sequence
from pathlib import Path

from magic_insert.bootstrap.filters import build_filters
from magic_insert.bootstrap.stages import LPIPS_FILE, require_partners, require_room
from magic_insert.cli.app import require_folder, require_writable, run_app
from magic_insert.config.schema import BootstrapConfig
from magic_insert.core.errors import UserError


def check(cfg: BootstrapConfig) -> None:
    """Looks at filters, folders and places before anything heavy is loaded; raises `UserError`."""
    build_filters(cfg.filter.rules)
    for key, folder in (("pool.dir", cfg.pool.dir), ("fit.photos", cfg.fit.photos)):
        if folder is not None and not Path(folder).is_dir():
            raise UserError(f"expected {key} to be a folder, got none at {folder}; set {key}=DIR")
    if cfg.pool.name == "folder" and cfg.data.on_error == "refuse" and not cfg.pool.segment:
        pictures = Path(str(cfg.pool.dir))
        require_partners(pictures, Path(cfg.pool.masks) if cfg.pool.masks else pictures / "masks")
    require_folder("out", cfg.out)
    require_room(Path(cfg.out))
    lpips = cfg.evaluate.lpips
    if lpips is not None and not (Path(lpips) / LPIPS_FILE).is_file():
        raise UserError(
            f"expected evaluate.lpips to be a folder with {LPIPS_FILE}, got none in {lpips}; set "
            "evaluate.lpips=FOLDER, or null to leave LPIPS out"
        )
    require_writable("out", cfg.out)
    require_writable("store", cfg.store)


def main(arguments: Sequence[str]) -> None:
    """Runs the job from command-line words."""
    run_app("bootstrap", "magic_insert.bootstrap.job:run_bootstrap", arguments, check)
