"""`magic-insert remove`: an object and its shadow out of a picture."""

import sys
from dataclasses import asdict
from pathlib import Path

from magic_insert.config.schema import RemoveConfig
from magic_insert.core.digest import sha256_file
from magic_insert.core.events import terminal_bars
from magic_insert.inputs import RemoveInputs, resolve_remove


def run_remove(cfg: RemoveConfig, found: RemoveInputs | None = None) -> Path:
    """Writes the picture without the object to `cfg.out` (PNG) and a JSON beside it; returns the PNG's path.

    Args:
        found: what `resolve_remove` found; it is asked where another process composed the configuration.

    Raises:
        UserError: pictures that do not fit, or no remover; raised before a model is imported and with nothing written.
    """
    found = found or resolve_remove(cfg)
    from magic_insert.inserters.edit import RemoverSettings
    from magic_insert.magic import Models, remove_object

    settings = RemoverSettings(cfg.run, cfg.steps, cfg.grow, cfg.threshold, cfg.reach)
    with terminal_bars() as bars:
        models = Models(cfg.model, found.model)
        drop = remove_object(models, cfg.image, cfg.mask, settings, cfg.seed, bars)
    files = {"image": cfg.image, "mask": cfg.mask}
    inputs = {name: {"path": path, "sha256": sha256_file(path)} for name, path in files.items()}
    drop.save(found.out, inputs=inputs, config=asdict(cfg))
    print(f"wrote {found.out} and {found.out.stem}.json", file=sys.stderr)
    return found.out
