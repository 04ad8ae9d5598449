"""What the inserter's configuration means to those who use it."""

from magic_insert.config.schema import InserterConfig
from magic_insert.core.effect_layer import EffectConfig


def effect_config(cfg: InserterConfig) -> EffectConfig:
    """What the user calls an effect, as compositing calls it."""
    return EffectConfig(threshold=cfg.threshold, reach=cfg.reach)


def inserter_steps(cfg: InserterConfig) -> int:
    """How often an inserter reports: its own steps, and those of a sampled reference."""
    sampled_twice = cfg.reference == "unmasked" and cfg.name != "inpaint"
    return 0 if cfg.name == "copy_paste" else cfg.steps * (2 if sampled_twice else 1)


def redraw_segmenter(name: str) -> str:
    """How a model's own picture is cut: it is opaque, so where the file's alpha was wanted, GrabCut decides."""
    return "auto" if name == "alpha" else name
