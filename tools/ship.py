"""Makes a trained micro folder the shipped one: measured first, then put in place by a rename."""

import shutil
import sys
from pathlib import Path

from magic_insert.config.schema.jobs import CardConfig
from magic_insert.core.errors import UserError
from magic_insert.foundation.card import run_card
from magic_insert.paths import micro_dir

LIMIT_MB = 72


def ship(model: Path, target: Path) -> Path:
    """Measure `model`, write its card beside the weights and replace `target` by it.

    Raises:
        UserError: no model there, or it is larger than the package may carry.
    """
    if not (model / "model_index.json").is_file():
        raise UserError(
            f"expected a finished micro model in {model}, got none; run `magic-insert foundation` first"
        )
    size = sum(p.stat().st_size for p in model.rglob("*") if p.is_file()) / 1e6
    if size > LIMIT_MB:
        raise UserError(
            f"expected at most {LIMIT_MB} MB of weights, got {size:.1f} MB in {model}; narrow a part"
        )
    staged = target.with_name(target.name + ".new")
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(model, staged)
    run_card(CardConfig(source=str(staged), out=str(staged)))
    shutil.rmtree(target, ignore_errors=True)
    staged.rename(target)
    return target


if __name__ == "__main__":
    print(ship(Path(sys.argv[1]), micro_dir()))
