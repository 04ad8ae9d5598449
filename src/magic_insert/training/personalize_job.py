"""The job: pictures to run folders, one subject after the other, or one subject per process of a group.

Pictures are judged before a model library is imported.
"""

import logging
from pathlib import Path

from magic_insert.config.schema import ModelConfig, PersonalizeConfig
from magic_insert.core import ranks
from magic_insert.data.subject_files import check_run_folder, request_of, subjects_of
from magic_insert.data.subject_images import load_subjects

log = logging.getLogger(__name__)


def run_personalize(cfg: PersonalizeConfig) -> list[Path]:
    """Trains every subject that `cfg.subject` names and that is this process's share; their run folders.

    Raises:
        UserError: see `subjects_of`, `load_subjects`, `load_pipeline` and `personalize`.
    """
    jobs = subjects_of(cfg)
    requests = [request_of(cfg, job) for job in jobs]
    for job, request in zip(jobs, requests, strict=True):
        check_run_folder(job.out, request)
        load_subjects(job.pictures)
    mine = ranks.shard(list(zip(jobs, requests, strict=True)))
    if not mine:
        return []
    # Only now what takes seconds to import: bad pictures are answered without it.
    from magic_insert.models.zoo import load_pipeline
    from magic_insert.training.personalize import personalize

    pipe = load_pipeline(cfg.model, device=own_device(cfg.model))
    for number, (job, request) in enumerate(mine, start=1):
        if len(mine) > 1:
            log.warning("magic-insert: subject %d of %d: %s", number, len(mine), job.out.name)
        personalize(
            pipe,
            load_subjects(job.pictures),
            cfg.personalization,
            seed=cfg.seed,
            out=job.out,
            progress=ranks.rank() == 0,
            logger=cfg.logger,
            request=request,
            class_root=Path(cfg.out),
        )
    return [job.out for job, _ in mine]


def own_device(model: ModelConfig) -> str | None:
    """The GPU of this process in a group; None leaves the choice to the configuration."""
    if ranks.world_size() == 1 or model.device == "cpu":
        return None
    import torch

    return f"cuda:{ranks.local_rank()}" if torch.cuda.is_available() else None
