"""Learning-rate schedules as functions of the step: nothing to store, nothing to resume."""

import math

from magic_insert.core.errors import UserError

SCHEDULES = ("constant", "linear", "cosine")


def lr_factor(step: int, steps: int, schedule: str, warmup: int = 0) -> float:
    """What the base rate is multiplied by at `step` of `steps`: a linear rise over `warmup` steps, then the schedule.

    `cosine` and `linear` fall to 0 at the end, `constant` stays at 1.

    Raises:
        UserError: `schedule` is none of SCHEDULES.
    """
    if schedule not in SCHEDULES:
        raise UserError(f"expected a schedule among {list(SCHEDULES)}, got {schedule!r}")
    rise = min(1.0, (step + 1) / (warmup + 1))
    passed = max(0.0, (step - warmup) / max(1, steps - warmup))
    if schedule == "cosine":
        return rise * 0.5 * (1 + math.cos(math.pi * passed))
    return rise * (1 - passed) if schedule == "linear" else rise
