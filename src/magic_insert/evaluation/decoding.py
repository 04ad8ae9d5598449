"""Picture files to embeddings: threads decode and resize ahead while the networks work on the batch before.

Decoding releases the interpreter, so threads suffice; nothing is pickled. Every file is decoded once for all encoders,
at most `ahead` files are held at a time, and results come in the order of the paths. B files of a batch, D dimensions.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb
from magic_insert.models.encoders.base import MetricEncoder

Item = TypeVar("Item")
Result = TypeVar("Result")
BATCH_SIZE = 32


def default_workers() -> int:
    """Threads that decode: one per core this process may use, at most 16."""
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Iterator[Result]:
    """`map(function, items)` with `workers` threads, in order, never more than `ahead` results begun and not taken.

    What `function` raises is raised when its turn comes, after all earlier results have been handed out.
    """
    assert min(workers, ahead) > 0
    waiting: deque[Future[Result]] = deque()
    source = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for item in source:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def embed_files(
    paths: Sequence[Path],
    encoders: Mapping[str, MetricEncoder],
    *,
    load: Callable[[Path], Float[Tensor, "3 H W"]] = load_rgb,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
) -> Iterator[tuple[list[int], dict[str, Float[Tensor, "B D"]]]]:
    """Embeddings of every file by every encoder, batch by batch: (indices into `paths`, embeddings by name on the CPU).

    Files may differ in size. Encoders that prepare pictures alike share the preparation, and one that stands under two
    names runs once. Memory is that of two batches of prepared pictures, whatever the number of files.

    Args:
        load: a file's picture in [0, 1], called in threads.
    Raises:
        UserError: a file cannot be read; the batch of those before it is handed out first.
    """
    workers = workers or default_workers()
    representative = {name: _preparation(encoder) for name, encoder in encoders.items()}
    first = {key: encoders[name] for name, key in reversed(representative.items())}

    def prepared(path: Path) -> dict[tuple[object, ...], Tensor] | UserError:
        try:
            image = load(path)
        except UserError as error:
            # Handed on as a value, so that the files before this one are not lost.
            return error
        return {key: encoder.prepare(image) for key, encoder in first.items()}

    def embed(batch: list[dict[tuple[object, ...], Tensor]]) -> dict[str, Tensor]:
        done: dict[int, Tensor] = {}
        for name, encoder in encoders.items():
            if id(encoder) not in done:
                pixels = torch.stack([row[representative[name]] for row in batch])
                done[id(encoder)] = encoder.embed_pixels(pixels).cpu()
        return {name: done[id(encoder)] for name, encoder in encoders.items()}

    batch: list[dict[tuple[object, ...], Tensor]] = []
    for index, item in enumerate(in_threads(prepared, paths, workers=workers, ahead=batch_size + workers)):
        if isinstance(item, UserError):
            if batch:
                yield list(range(index - len(batch), index)), embed(batch)
            raise item
        batch.append(item)
        if len(batch) == batch_size or index == len(paths) - 1:
            yield list(range(index + 1 - len(batch), index + 1)), embed(batch)
            batch = []


def _preparation(encoder: MetricEncoder) -> tuple[object, ...]:
    """What decides the prepared pixels; equal for two encoders that see the same."""
    card = encoder.card
    return card.resize, card.crop, card.interpolation, card.mean, card.std
