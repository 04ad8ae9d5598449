"""How fast pictures are scored on this machine: `python tools/bench_scoring.py`.

Full-size ViT-S/16 and ViT-B/32 with random weights on PNG files, in the proportions of SubjectPlop (every subject with
every background, references once), against one pair at a time, against decoding alone and against encoding alone.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.masks import blur
from magic_insert.core.rand import generator
from magic_insert.evaluation.scores import (
    CHUNK,
    WORKERS,
    FeatureStore,
    Picture,
    embed_groups,
    embeddings,
    keys_of,
)
from magic_insert.models.encoders.base import MetricEncoder
from magic_insert.models.encoders.paper import CLIP_B, DINO, Located

SUBJECTS, BACKGROUNDS = 35, 20
ENCODERS = {"DINO ViT-S/16": DINO, "CLIP ViT-B/32": CLIP_B}


def write_pictures(folder: Path, count: int, size: int) -> list[Path]:
    """Smooth noise with grain, which compresses about as well as a painting does."""
    paths = []
    for i in range(count):
        rng = generator(0, "bench picture", i)
        image = blur(torch.rand(3, size, size, generator=rng), 8)
        image = (image - image.amin()) / (image.amax() - image.amin())
        image = image + 0.02 * torch.rand(3, size, size, generator=rng)
        paths.append(folder / f"{i:04d}.png")
        save_png(paths[-1], image)
    return paths


class Took(NamedTuple):
    """Seconds of a call: by the clock, and of all cores together, which other work on the machine lengthens less."""

    wall: float
    cpu: float

    def __add__(self, other: tuple[float, ...]) -> "Took":  # type: ignore[override]
        return Took(self.wall + other[0], self.cpu + other[1])


def seconds(work: Callable[[], object]) -> Took:
    """Of one call."""
    began = time.perf_counter(), time.process_time()
    work()
    return Took(time.perf_counter() - began[0], time.process_time() - began[1])


def measure(
    encoders: dict[str, MetricEncoder], pairs: int, size: int, folder: Path
) -> tuple[int, dict[str, Took]]:
    """The number of files, and what `pairs` pairs took: `loop`, `pipeline`, `decode`, `encode` and `encode NAME`.

    `decode` has all threads to itself, so does `encode`; the pipeline has to share the cores between them.
    """
    subjects, backgrounds = max(1, round(pairs / BACKGROUNDS)), max(1, round(pairs / SUBJECTS))
    paths = write_pictures(folder, pairs + subjects + backgrounds, size)
    stylised, references = paths[:pairs], paths[pairs:]

    def loop() -> None:
        for i, path in enumerate(stylised):
            of_pair = (path, references[i % subjects], references[subjects + i % backgrounds])
            for encoder in encoders.values():
                for one in of_pair:
                    encoder.embed_images(load_rgb(one)[None])

    def pipeline() -> None:
        pictures = [Picture(path) for path in paths]
        store = FeatureStore(folder / "features")
        embed_groups([pictures], keys_of(pictures), embeddings(encoders), store, lambda done: None)

    def decode() -> None:
        with ThreadPoolExecutor(WORKERS) as pool:
            for start in range(0, len(paths), CHUNK):
                list(pool.map(load_rgb, paths[start : start + CHUNK]))

    def encode(encoder: MetricEncoder) -> None:
        pixels = torch.zeros(CHUNK, 3, encoder.card.crop, encoder.card.crop)
        for start in range(0, len(paths), CHUNK):
            encoder.embed_pixels(pixels[: len(paths) - start])

    for encoder in encoders.values():
        encoder.embed_pixels(torch.zeros(2, 3, encoder.card.crop, encoder.card.crop))  # first calls are slow
    times = {f"encode {name}": seconds(partial(encode, encoder)) for name, encoder in encoders.items()}
    times["encode"] = sum(times.values(), start=Took(0, 0))
    times["decode"] = seconds(decode)
    times["pipeline"] = seconds(pipeline)
    times["loop"] = seconds(loop)
    return len(paths), times


def show(files: int, times: dict[str, Took], pairs: int, size: int) -> Table:
    """The rates, and what the pipeline is worth."""
    title = f"scoring pairs of {size} x {size} PNG files"
    table = Table("what", "images/s", "700 pairs", "CPU, all cores", title=title)
    scale = SUBJECTS * BACKGROUNDS / pairs
    for name, took in times.items():
        # The loop reads and encodes three pictures a pair.
        read = 3 * pairs if name == "loop" else files
        table.add_row(
            name, f"{read / took.wall:.1f}", f"{took.wall * scale:.0f} s", f"{took.cpu * scale:.0f} s"
        )
    loop, pipeline = times["loop"], times["pipeline"]
    bound = max(times["decode"].wall, times["encode"].wall)
    table.caption = (
        f"pipeline: {loop.wall / pipeline.wall:.1f} times as fast as the loop, a pair at a time, for "
        f"{pipeline.cpu / loop.cpu:.2f} of its CPU time; {pipeline.wall / bound:.2f} of the slower of decode and encode"
    )
    return table


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python tools/bench_scoring.py", description=__doc__)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    source = Located(Path("random"), "", "random weights")
    encoders = {
        name: judge.wrap(judge.network(), source).to(options.device) for name, judge in ENCODERS.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        files, times = measure(encoders, options.pairs, options.size, Path(folder))
    Console().print(show(files, times, options.pairs, options.size))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
