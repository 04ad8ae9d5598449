"""Measures `magic-insert personalize` beside diffusers' own DreamBooth script: whole programs, one model, one picture.

Run as `python tools/bench_peers.py --peer train_dreambooth_lora_sdxl_advanced.py` with the script from diffusers'
examples/advanced_diffusion_training, which is not part of this project; `--peer-python` names the interpreter of an
environment whose diffusers and transformers it fits. Without `--peer` only ours is measured.

Both train a LoRA on the attention layers of the UNet and two tokens in each text encoder, with AdamW in float32, and
draw no samples: the script draws some only where a prompt for them is given. Each runs as a process of its own with a
short and a long training, by turns, so that a busy machine is unkind to both: a step is the difference of the two in
seconds of CPU time (wall time on a GPU) over the difference in steps; what is left of the short one is the start-up
with all that comes after the last step. The memory is the most the process held.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from magic_insert.core.images import save_png
from magic_insert.core.jsonl import write_json
from magic_insert.core.rand import generator
from magic_insert.paths import micro_dir

OURS, PEER = "magic-insert personalize", "diffusers' advanced script"
Command = Callable[[Path, int], list[str]]


@dataclass
class Cost:
    """What the runs of one program took, by their number of steps: seconds, and the most memory held in bytes."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    peak: int = 0

    def step(self, short: int, long: int) -> float:
        """Seconds of a step, by the quickest run of each length."""
        return (min(self.seconds[long]) - min(self.seconds[short])) / (long - short)

    def rest(self, short: int, long: int) -> float:
        """Seconds of all that is no step."""
        return min(self.seconds[short]) - short * self.step(short, long)


def ours(args: argparse.Namespace, picture: Path) -> Command:
    """The words of our command for an output folder and a number of steps."""
    recipe = {
        "batch_size": args.batch, "rank": args.rank, "alpha": args.rank, "num_tokens": 2, "views": 1,
        "targets": "[to_q,to_k,to_v,to_out.0]", "own_style": "none", "precision": "32-true",
        "validation.every": 0,
    }  # fmt: skip
    model = {"source": args.model, "image_size": args.resolution, "device": args.device}

    def words(out: Path, steps: int) -> list[str]:
        program = [
            sys.executable,
            "-c",
            "from magic_insert.cli.main import program; program()",
            "personalize",
        ]
        settings = [f"personalization.{key}={value}" for key, value in {**recipe, "steps": steps}.items()]
        return [
            *program, f"subject={picture}", f"out={out}", *(f"model.{k}={v}" for k, v in model.items()), *settings
        ]  # fmt: skip

    return words


def theirs(args: argparse.Namespace, picture: Path) -> Command:
    """The words of the script for an output folder and a number of steps."""

    def words(out: Path, steps: int) -> list[str]:
        options = {
            "pretrained_model_name_or_path": args.model, "instance_data_dir": picture.parent, "output_dir": out.name,
            "instance_prompt": "a TOK", "num_new_tokens_per_abstraction": 2, "train_text_encoder_ti_frac": 1.0,
            "resolution": args.resolution, "train_batch_size": args.batch, "repeats": args.batch, "rank": args.rank,
            "max_train_steps": steps, "learning_rate": 1e-4, "lr_scheduler": "constant", "lr_warmup_steps": 0,
            "mixed_precision": "no", "checkpointing_steps": 10**9, "seed": 0,
        }  # fmt: skip
        named = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        return [
            args.peer_python,
            str(args.peer.resolve()),
            *named,
            "--train_text_encoder_ti",
            "--cache_latents",
        ]

    return words


def with_vocabulary(model: Path, work: Path) -> Path:
    """The model folder, its tokenizers also in the two files that transformers 4 reads."""
    copy = work / "model"
    copy.mkdir()
    for part in model.iterdir():
        if not part.name.startswith("tokenizer") or (part / "vocab.json").is_file():
            (copy / part.name).symlink_to(part.resolve())
            continue
        shutil.copytree(part, copy / part.name)
        words = json.loads((part / "tokenizer.json").read_text())["model"]
        (copy / part.name / "vocab.json").write_text(json.dumps(words["vocab"]))
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in words["merges"]]
        (copy / part.name / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return copy


def measure(command: Sequence[str], *, wall: bool, threads: int, log: Path) -> tuple[float, int]:
    """Seconds that the program took, of wall or of CPU time, and the most memory it held, in bytes.

    Raises:
        SystemExit: it failed; says where its log is.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    with log.open("w") as stream:
        # The script takes an output folder in the current one only.
        process = subprocess.Popen(
            command, cwd=log.parent, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:2])} ended with {process.returncode}; its log: {log}")
    spent = time.perf_counter() - start if wall else used.ru_utime + used.ru_stime
    return spent, used.ru_maxrss * 1024


def save_picture(path: Path, side: int) -> None:
    """A coloured disc on white."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    disc = ((x**2 + y**2) < 0.5).float()[None]
    save_png(path, disc * torch.rand(3, 1, 1, generator=generator(0, "disc")) + (1 - disc))


def table(costs: dict[str, Cost], short: int, long: int) -> str:
    """The figures as Markdown."""
    lines = ["| | seconds a step | seconds beside the steps | peak memory, GB |", "|---|---:|---:|---:|"]
    for name, cost in costs.items():
        figures = cost.step(short, long), cost.rest(short, long), cost.peak / 1e9
        lines.append(f"| {name} | {figures[0]:.3f} | {figures[1]:.1f} | {figures[2]:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measures, prints the table, writes every figure to `--out`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, help="diffusers' train_dreambooth_lora_sdxl_advanced.py")
    parser.add_argument("--peer-python", default=sys.executable, help="the interpreter that runs it")
    parser.add_argument("--model", type=Path, default=micro_dir(), help="folder in SDXL's format")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--steps", type=int, nargs=2, default=(10, 40), metavar=("SHORT", "LONG"))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        picture = work / "pictures" / "disc.png"
        save_picture(picture, args.resolution)
        args.model = with_vocabulary(args.model, work)
        programs = {OURS: ours(args, picture)}
        if args.peer is not None:
            programs[PEER] = theirs(args, picture)
        costs = {program: Cost() for program in programs}
        for repeat in range(args.repeats):
            for steps in args.steps:
                for program, words in programs.items():
                    command = words(work / f"{len(program)}-{steps}-{repeat}", steps)
                    log = work / "log.txt"
                    try:
                        spent, peak = measure(
                            command, wall=args.device == "cuda", threads=args.threads, log=log
                        )
                    except SystemExit:
                        print(log.read_text()[-2000:], file=sys.stderr)
                        raise
                    costs[program].seconds.setdefault(steps, []).append(spent)
                    costs[program].peak = max(costs[program].peak, peak)
    print(table(costs, *args.steps))
    if args.out is not None:
        write_json(args.out, {program: vars(cost) for program, cost in costs.items()})


if __name__ == "__main__":
    main()
