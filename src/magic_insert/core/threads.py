"""How many threads a training on a CPU uses: what this process may have, and what measurably helps. And a thread that
loads a model beside another that works.

Threads that share small tensors meet at a barrier thousands of times a step and spin while they wait; where a neighbour
holds one of the cores, a step can take thirty times as long as with one thread. So more than one thread has to earn its
place, in a probe of a few milliseconds and then in steps of the training itself, and loses it at the first step that
takes several times as long. OMP_NUM_THREADS=N decides instead of the measurement. The number changes the last bits of a
sum: where bits matter more than speed, set it.
"""

import builtins
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

CHOSEN = "OMP_NUM_THREADS"
TRIALS = 3  # measured steps each way; one step before them warms up
GAIN = 0.9  # all threads are used if a step then takes at most this share of the time with one
SLOW = 3.0  # a step this many times longer than the usual one: somebody else needs the cores
REMEMBERED = 20
CGROUPS = Path("/sys/fs/cgroup")


def chosen_threads() -> int | None:
    """What the environment sets, None where it leaves the choice."""
    text = os.environ.get(CHOSEN, "").partition(",")[0]
    return max(1, int(text)) if text.strip().isdigit() else None


def allowed_threads(cgroups: Path = CGROUPS) -> int:
    """The cores this process may run on at once: its affinity, less where a cgroup's quota is smaller."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _quota(cgroups)
    return max(1, cores if quota is None else min(cores, int(quota)))


def _quota(cgroups: Path) -> float | None:
    """The cores' worth of time that cgroup v2 or v1 grants, None for no limit."""
    try:
        if (both := cgroups / "cpu.max").is_file():
            quota, period = both.read_text().split()
        else:
            quota, period = (
                (cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
            )
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def parallel_pays(threads: int) -> bool:
    """Whether small parallel regions are faster with `threads` than with one now; at most some tenths of a second."""
    values = torch.zeros(16, 16384)
    spent = []
    for number in (1, threads):
        torch.set_num_threads(number)
        values.tanh_()
        began = time.perf_counter()
        for _ in range(20):
            values.tanh_()
        spent.append(time.perf_counter() - began)
    return spent[1] < spent[0]


class ThreadChoice:
    """The number of threads of each step: some steps with one, some with all where that may pay, then the faster.

    `most`: the largest number; 1 leaves nothing to choose. `settled`: what a run chose before it was resumed.
    """

    def __init__(self, most: int, settled: int | None = None) -> None:
        self.most = most
        self.settled = 1 if most == 1 else settled if settled is None else min(settled, most)
        self.spent: dict[int, list[float]] = {1: [], most: []}

    @classmethod
    def of_process(cls, settled: int | None = None) -> "ThreadChoice":
        """The choice of this process, made already where the environment made it."""
        chosen = chosen_threads()
        return cls(allowed_threads(), settled) if chosen is None else cls(chosen, chosen)

    def begin(self) -> int:
        """Sets the threads of the step that begins, and returns their number."""
        number = self.settled or (1 if len(self.spent[1]) <= TRIALS else self.most)
        if number > 1 and self.settled is None and not self.spent[self.most] and not parallel_pays(self.most):
            number = self.settled = 1
        torch.set_num_threads(number)
        return number

    def end(self, number: int, seconds: float) -> bool:
        """Takes in how long a step with `number` threads took; whether it stood out and the number fell to one."""
        before = self.spent[number][-REMEMBERED:]
        usual = statistics.median(before[1:] or before or [seconds])
        self.spent[number].append(seconds)
        if self.settled is None and number > 1:
            with_one = statistics.median(self.spent[1][1:])
            if seconds > with_one:
                self.settled = 1
            elif len(self.spent[number]) == TRIALS:
                self.settled = number if statistics.median(self.spent[number]) < GAIN * with_one else 1
            return False
        fell = number > 1 and chosen_threads() is None and len(before) >= TRIALS and seconds > SLOW * usual
        if fell:
            self.settled = 1
        return fell


@contextmanager
def beside_a_worker(wait: Callable[[], Any], alone: threading.RLock) -> Iterator[None]:
    """Has this thread load a model at a worker's side.

    Loading is for the most part two thousand imports, and while Python runs two threads, each has half of it: each
    import `wait`s first. A network is built by changes of torch that all threads see, another default dtype and
    parameters without values, which would get into what the worker computes: meanwhile this thread holds `alone`.
    """
    import accelerate  # not before a model is loaded

    thread, building, usual = threading.get_ident(), ExitStack(), torch.get_default_dtype()
    load, set_dtype, init_empty = builtins.__import__, torch.set_default_dtype, accelerate.init_empty_weights
    deep = 0

    @contextmanager
    def held() -> Iterator[None]:
        nonlocal deep
        with alone:
            deep += 1
            try:
                yield
            finally:
                deep -= 1

    def patient(*given: Any, **named: Any) -> Any:
        if threading.get_ident() == thread and not deep:
            wait()
        return load(*given, **named)

    def set_default_dtype(dtype: torch.dtype) -> None:
        if dtype != usual:
            building.enter_context(held())
        set_dtype(dtype)
        if dtype == usual:
            building.close()

    @contextmanager
    def init_empty_weights(*given: Any, **named: Any) -> Iterator[None]:
        with held(), init_empty(*given, **named):
            yield

    builtins.__import__ = patient
    torch.set_default_dtype, accelerate.init_empty_weights = set_default_dtype, init_empty_weights
    with building:
        try:
            yield
        finally:
            builtins.__import__ = load
            torch.set_default_dtype, accelerate.init_empty_weights = set_dtype, init_empty
            set_dtype(usual)  # where a network could not be built diffusers leaves its own
