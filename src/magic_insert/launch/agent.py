"""The process between a job and its ranks: torch's elastic agent, as torchrun starts it.

`python -m magic_insert.launch.agent RANKS LOGS TARGET PAYLOAD`. Rank 0 speaks to the terminal, the others into LOGS.
When one rank ends badly the agent ends the others, and `agent.json` in LOGS holds the exit codes, negative for signals.
"""

import sys
import uuid
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from magic_insert.core.jsonl import write_json
from magic_insert.launch.executor import AGENT_RECORD

SHUTDOWN_S = 30


def run_ranks(ranks: int, logs: Path, target: str, payload: str) -> int:
    """Starts the ranks and waits for them; the exit code of this process."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        monitor_interval=0.1,
        shutdown_timeout=SHUTDOWN_S,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=dict.fromkeys(range(1, ranks), Std.ALL)),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "magic_insert.launch.worker", target, payload)
    except ChildFailedError as error:
        write_json(
            logs / AGENT_RECORD, {number: failure.exitcode for number, failure in error.failures.items()}
        )
        return 1
    except SignalException as stop:
        return 128 + stop.sigval
    return 0


if __name__ == "__main__":
    raise SystemExit(run_ranks(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
