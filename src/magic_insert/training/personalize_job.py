"""The job: pictures to run folders, one subject after the other, or one subject per process of a group.

Pictures are judged before a model library is imported.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from magic_insert.config.schema.jobs import PersonalizeConfig
from magic_insert.config.schema.shared import ModelConfig
from magic_insert.core import ranks
from magic_insert.data.subject_files import CARD_FILE, SubjectFiles, check_run_folder, request_of, subjects_of
from magic_insert.data.subject_images import load_subjects

Work = tuple[SubjectFiles, dict[str, Any]]
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
    mine = share(list(zip(jobs, requests, strict=True)))
    if not mine:
        return []
    # Only now what takes seconds to import: bad pictures are answered without it.
    from magic_insert.models.pipeline import load_pipeline
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


def share(work: Sequence[Work]) -> list[Work]:
    """This process's part of the subjects: of those still to learn, and of those that only have to be looked at.

    A folder that is half done is shared out anew, so that no process is left with nothing but finished subjects.
    """
    todo = [item for item in work if not (item[0].out / CARD_FILE).is_file()]
    done = [item for item in work if item not in todo]
    if ranks.world_size() > 1:
        from torch import distributed

        if distributed.is_initialized():
            distributed.barrier()  # nobody may finish a subject that another has not counted yet
    return ranks.shard(todo) + ranks.shard(done)


def own_device(model: ModelConfig) -> str | None:
    """The GPU of this process in a group; None leaves the choice to the configuration."""
    if ranks.world_size() == 1 or model.device == "cpu":
        return None
    import torch

    return f"cuda:{ranks.local_rank()}" if torch.cuda.is_available() else None
