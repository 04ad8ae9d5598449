"""Who is asked what: forms of a two-alternative study, drawn from a seed.

Within a form no pair occurs twice in one comparison, ours stands left in half of the tasks of each comparison (give or
take one), and over all forms every pair is asked equally often (give or take one). Attention checks, in which one side
is a scrambled picture, are mixed in, never as the first task.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from magic_insert.config.schema import ProtocolConfig
from magic_insert.core.errors import UserError
from magic_insert.core.rand import fold_in

SCRAMBLED = "scrambled"


@dataclass(frozen=True)
class Task:
    """One choice: `left` and `right` are method names, of which one is `SCRAMBLED` in an attention check."""

    pair_id: str
    left: str
    right: str

    @property
    def is_check(self) -> bool:
        """Whether there is a right answer."""
        return SCRAMBLED in (self.left, self.right)


def draw_forms(
    ours: str, pools: Mapping[str, Sequence[str]], protocol: ProtocolConfig, *, seed: int
) -> list[list[Task]]:
    """One form a rater. `pools` holds, for each baseline, the pairs that it shares with `ours`.

    Raises:
        UserError: a pool has fewer pairs than a rater is asked about.
    """
    for baseline, pool in pools.items():
        if len(pool) < protocol.tasks:
            raise UserError(
                f"expected at least {protocol.tasks} pairs shared by {ours} and {baseline}, got {len(pool)}; "
                "set protocol.tasks=..."
            )
    asked: dict[tuple[str, str], int] = {}
    return [_form(ours, pools, protocol, asked, _stream(seed, rater)) for rater in range(protocol.raters)]


def _stream(seed: int, rater: int) -> random.Random:
    return random.Random(fold_in(seed, "study form", rater))


def _form(
    ours: str,
    pools: Mapping[str, Sequence[str]],
    protocol: ProtocolConfig,
    asked: dict[tuple[str, str], int],
    stream: random.Random,
) -> list[Task]:
    """The form of one rater; `asked` counts how often each pair was asked so far and goes on counting."""
    tasks = []
    for baseline, pool in pools.items():
        # A stable sort of a shuffled pool: the least asked first, chance among equals.
        order = sorted(stream.sample(list(pool), len(pool)), key=lambda pair: asked.get((baseline, pair), 0))
        odd = stream.random() < 0.5
        sides = [(number + odd) % 2 == 0 for number in range(protocol.tasks)]
        stream.shuffle(sides)
        for pair, ours_left in zip(order, sides, strict=False):
            asked[baseline, pair] = asked.get((baseline, pair), 0) + 1
            tasks.append(Task(pair, ours, baseline) if ours_left else Task(pair, baseline, ours))
    stream.shuffle(tasks)
    everything = sorted({pair for pool in pools.values() for pair in pool})
    for _ in range(protocol.checks):
        sides_of_check = [ours, SCRAMBLED] if stream.random() < 0.5 else [SCRAMBLED, ours]
        tasks.insert(stream.randint(1, len(tasks)), Task(stream.choice(everything), *sides_of_check))
    return tasks
