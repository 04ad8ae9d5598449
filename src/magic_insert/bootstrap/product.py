"""What a bootstrap hands over: inserter and remover in diffusers' layout, and a card that says how they came to be."""

import shutil
from pathlib import Path
from typing import Any

from magic_insert import __version__
from magic_insert.bootstrap.files import NETWORK_FILES, WEIGHTS
from magic_insert.bootstrap.plan import Source
from magic_insert.config.freeze import thaw
from magic_insert.config.schema import BootstrapConfig
from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import disk_trouble, write_json

CARD = "card.json"


def publish(
    cfg: BootstrapConfig, rows: list[dict[str, Any]], best: int, inserter: Source, remover: Source
) -> None:
    """Puts the networks of round `best` into `cfg.out`, each folder whole, and the card beside them.

    Raises:
        UserError: no room there, or it is read-only; the finished stages are in the store.
    """
    out = Path(cfg.out)
    try:
        for name, source in (("inserter", inserter), ("remover", remover)):
            _copy(source, out, name)
    except OSError as error:
        if (reason := disk_trouble(error, out)) is None:
            raise
        raise UserError(
            f"expected to write the networks to {out}, got {reason}; make room or set out=FOLDER, then run the same "
            f"command again: its stages are in the store {cfg.store}"
        ) from error
    settings = {
        key: value for key, value in thaw(cfg).items() if key not in ("out", "store", "logger", "exec")
    }
    write_json(
        out / CARD,
        {
            "model": "magic-insert bootstrapped inserter and remover",
            "version": __version__,
            "config_digest": digest(settings),
            "round": best,
            "rounds": len(rows) - 1,
            "chosen_by": "the inserter's effect-region PSNR on held-out scenes in seen styles, among rounds "
            f"whose photographs lose at most {cfg.bootstrap.max_photo_loss:g} dB",
            "trained_on": {key: rows[best][key] for key in ("harvested", "accepted", "acceptance", "stages")},
            "metrics": rows[best]["metrics"],
            "intervals": rows[best]["intervals"],
            "changes": rows[best]["changes"],
            "weights_sha256": {name: sha256_file(out / name / WEIGHTS) for name in ("inserter", "remover")},
        },
    )


def _copy(source: Source, out: Path, name: str) -> None:
    """One network into `out`/`name`, whole or as it was before."""
    staged = out / f".{name}.new"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    for file in NETWORK_FILES:
        shutil.copyfile(source.folder / file, staged / file)
    shutil.rmtree(out / name, ignore_errors=True)
    staged.rename(out / name)
