"""Training every part of the micro model from nothing: the pool of renders, then one short fit per part."""

from dataclasses import dataclass, fields

from omegaconf import MISSING

from magic_insert.config.checks import at_least, one_of, positive, within
from magic_insert.config.schema.launch import ExecConfig
from magic_insert.config.schema.parts import DEVICES, LoggerConfig

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
SIZES = ("micro", "tiny")


@dataclass(frozen=True)
class PoolConfig:
    """How many Toybox pictures are rendered; `drawings` are styles per picture, drawing 0 is always photo.

    `num_photo_scenes`: further scenes as photographs alone, for remover and inserter.
    """

    num_identities: int = MISSING
    poses_per_identity: int = MISSING
    drawings_per_subject: int = MISSING
    num_scenes: int = MISSING
    drawings_per_scene: int = MISSING
    num_photo_scenes: int = MISSING
    occlusion: float = MISSING
    workers: int = MISSING

    def __post_init__(self) -> None:
        for name in (
            "num_identities",
            "poses_per_identity",
            "drawings_per_subject",
            "num_scenes",
            "drawings_per_scene",
            "num_photo_scenes",
        ):
            at_least(f"pool.{name}", getattr(self, name), 1)
        within("pool.occlusion", self.occlusion, 0, 1)
        within("pool.workers", self.workers, 0, 256)


@dataclass(frozen=True)
class PartConfig:
    """One fit: optimizer steps, pictures per step, peak learning rate."""

    steps: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING

    def check(self, name: str) -> None:
        """Ranges of the part that the job calls `name`; a part alone could not tell which key to set."""
        at_least(f"{name}.steps", self.steps, 1)
        at_least(f"{name}.batch_size", self.batch_size, 2)
        positive(f"{name}.lr", self.lr)


@dataclass(frozen=True)
class TrainerConfig:
    """Where and how precisely the fits run."""

    device: str = "auto"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        one_of("trainer.device", self.device, DEVICES)
        one_of("trainer.precision", self.precision, PRECISIONS)


@dataclass(frozen=True)
class FoundationConfig:
    """All parts in the order they are trained; the same command goes on in `out` where an earlier run stopped.

    `save_every`: steps between checkpoints. `size`: widths of the networks, `tiny` only for tests.
    """

    out: str = "runs/foundation"
    seed: int = 0
    save_every: int = 200
    size: str = "micro"
    pool: PoolConfig = MISSING
    vae: PartConfig = MISSING
    clip: PartConfig = MISSING
    denoiser: PartConfig = MISSING
    adapter: PartConfig = MISSING
    styled: PartConfig = MISSING
    controlnet: PartConfig = MISSING
    remover: PartConfig = MISSING
    inserter: PartConfig = MISSING
    metric_clip: PartConfig = MISSING
    metric_identity: PartConfig = MISSING
    metric_style: PartConfig = MISSING
    trainer: TrainerConfig = MISSING
    logger: LoggerConfig = MISSING
    exec: ExecConfig = MISSING

    def __post_init__(self) -> None:
        one_of("size", self.size, SIZES)
        at_least("save_every", self.save_every, 1)
        for field in fields(self):
            if isinstance(part := getattr(self, field.name), PartConfig):
                part.check(field.name)
