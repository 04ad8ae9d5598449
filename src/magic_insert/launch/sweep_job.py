"""One job of a sweep in a process of its own: `python -m magic_insert.launch.sweep_job PAYLOAD RESULT`.

PAYLOAD holds the job's name, target and frozen configuration, composed by the parent. RESULT is written when the job is
done: the number it returned, if it returned one, and its seconds.
"""

import math
import signal
import sys
import time
from pathlib import Path

from magic_insert.config.compose import frozen_from
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.launch.executor import StageFailed
from magic_insert.launch.launcher import run_frozen
from magic_insert.launch.signals import die_with_parent, stop_on_sigterm


def run_payload(payload: Path, result: Path) -> None:
    """Runs the job of `payload` and writes `result`; an error of the user or of a stage is one line."""
    plan = read_json(payload)
    began = time.monotonic()
    try:
        returned = run_frozen(plan["job"], plan["target"], frozen_from(plan["config"], plan["job"]))
    except UserError as error:
        print("magic-insert: " + " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None
    except StageFailed as error:
        print(f"magic-insert: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    number = isinstance(returned, int | float) and math.isfinite(returned)
    content = {"config": plan["digest"], "value": float(returned) if number else None}
    write_json(result, {**content, "seconds": round(time.monotonic() - began, 1)})


if __name__ == "__main__":
    die_with_parent()
    signal.signal(signal.SIGTERM, stop_on_sigterm)
    run_payload(Path(sys.argv[1]), Path(sys.argv[2]))
