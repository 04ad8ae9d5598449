"""The plan of a job's memory against tensors that a real step allocates, on the smallest model of the hub's layout."""

import gc
import itertools
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from full_size import JOBS, run_job
from helpers import frozen
from hub_model import Hub
from safetensors.torch import load_file

from magic_insert.config.schema.jobs import PlanConfig
from magic_insert.config.schema.shared import InserterConfig
from magic_insert.core.errors import UserError
from magic_insert.models.edit_unet import edit_start, edit_unet_of, open_for_lora, save_unet
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.memory_plan import (
    Sizes,
    count_drawing,
    count_insertion,
    loaded,
    memory_options,
    nbytes,
    personalize_phases,
    run_plan,
)
from magic_insert.models.pipeline import PARTS, load_pipeline
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.paths import CHECKOUT
from magic_insert.training.insertion import EditFit, InsertionModule

BATCH, SIDE = 3, 8


def plan_of(hub: Hub, *words: str) -> PlanConfig:
    return frozen("plan", *hub.words(ip_adapter="null"), *words)


def allocated(module: InsertionModule) -> dict[str, int]:
    """What one step of `module` holds, counted in real tensors."""
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    shape = (BATCH, 4, SIDE, SIDE)
    batch = {name: torch.randn(shape) for name in ("latents", "condition", "noise")}
    batch |= {"mask": torch.rand(BATCH, 1, SIDE, SIDE), "timesteps": torch.zeros(BATCH, dtype=torch.long)}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = module.denoising_loss(batch)
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    loss.backward()
    optimizer = module.configure_optimizers()
    optimizer.step()
    trained = list(module.trained().values())
    moments = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    return {
        "weights": nbytes(module.unet.parameters()),
        "gradients": nbytes(p.grad for p in trained if p.grad is not None),
        "optimizer": nbytes(moments),
        "activations": sum(size for place, size in saved.items() if place not in own),
    }


@pytest.mark.parametrize("rank", [0, pytest.param(4, marks=pytest.mark.slow)])
def test_a_training_step_takes_what_was_planned(hub: Hub, rank: int) -> None:
    words = (f"train.lora_rank={rank}", f"train.batch_size={BATCH}", "train.precision=32-true")
    cfg = plan_of(hub, "train.gradient_checkpointing=false", "train.ema_decay=0", *words)
    pipe = load_pipeline(cfg.model)
    unet = edit_start(pipe.unet).train().requires_grad_(True)
    if rank:
        open_for_lora(unet, rank=rank, seed=0)
    settings = EditFit("insert", 1, BATCH, 1e-4, 0)
    real = allocated(InsertionModule.of(unet, pipe, settings))
    planned = count_insertion(cfg, device="cpu")
    for name, size in real.items():
        assert planned[name] == pytest.approx(size, rel=0.05), name
    assert planned["mean"] == 0
    assert count_insertion(cfg, device="cpu") == planned


@pytest.mark.slow
def test_checkpointing_keeps_little_and_a_mean_costs_what_is_trained(hub: Hub) -> None:
    whole = plan_of(hub, "train.gradient_checkpointing=false", f"train.batch_size={BATCH}")
    kept = count_insertion(whole)
    less = count_insertion(replace(whole, train=replace(whole.train, gradient_checkpointing=True)))
    assert less["activations"] < 0.5 * kept["activations"]
    unet = Sizes.of(whole.model).build_unet(in_channels=9)
    assert kept["mean"] == kept["gradients"] == nbytes(p.float() for p in unet.parameters())


@pytest.mark.slow
def test_a_subject_is_planned_with_its_samples_and_less_where_encoders_wait(hub: Hub) -> None:
    words = hub.words(ip_adapter_weight="ip-adapter_sdxl.safetensors", controlnet="null")
    asked = ["job=personalize", "personalization.validation.every=1", "personalization.validation.seeds=16"]
    sampled = frozen("plan", *words, *asked)
    _, parts = loaded(Sizes.of(sampled.model), torch.float32)
    others = {name: nbytes(part.parameters()) for name, part in parts.items()}
    texts, judge = others["text_encoder"] + others["text_encoder_2"], others["image_encoder"]
    phases = personalize_phases(sampled)
    learn, sample = phases["learn"], phases["sample"]
    assert sample["weights"] == learn["weights"] + others["vae"] + judge
    assert sample["optimizer"] == learn["optimizer"] > 0
    less = personalize_phases(replace(sampled, model=replace(sampled.model, offload=True)))
    for name in ("encode", "sample"):
        assert less[name]["weights"] == phases[name]["weights"] - texts - judge
    unsampled = replace(sampled.personalization.validation, every=0)
    still = replace(sampled, personalization=replace(sampled.personalization, validation=unsampled))
    assert set(personalize_phases(still)) == {"encode", "learn"}


@pytest.mark.slow
def test_an_insertion_is_planned_with_the_edit_unet_beside_the_pipeline(hub: Hub, tmp_path: Path) -> None:
    half = hub.words(ip_adapter_weight="ip-adapter_sdxl.safetensors", controlnet="null", dtype="bfloat16")
    words = [*half, "job=insert", "inserter=diffusion"]
    cfg = frozen("plan", *words)
    start = edit_start(UNet2DConditionModel.from_config(Sizes.of(cfg.model).unet))
    save_unet(tmp_path, start)
    pipe = load_pipeline(cfg.model, device="meta")
    networks = [edit_unet_of(pipe, tmp_path), *(getattr(pipe, name) for name in PARTS)]
    real = nbytes(p for network in networks for p in network.parameters())
    assert count_drawing(cfg, device="cpu")["weights"] == pytest.approx(real, rel=1e-3)
    assert count_drawing(replace(cfg, inserter=InserterConfig()), device="cpu")["weights"] < 0.8 * real
    assert "inserter=effect" in [setting for setting, _ in memory_options(cfg)]


def test_sdxls_own_sizes_are_counted_without_a_file(hub: Hub) -> None:
    """2.57 billion parameters in the UNet, 0.82 in the text encoders."""
    cfg = frozen("plan", "model=sdxl")
    sizes = Sizes.of(cfg.model)
    count = sum(p.numel() for p in sizes.build_unet().parameters())
    assert count == 2_567_463_684
    others = sizes.build_others()
    texts = sum(p.numel() for name in ("text_encoder", "text_encoder_2") for p in others[name].parameters())
    assert texts == pytest.approx(0.818e9, rel=0.01)


def documented() -> dict[str, list[list[str]]]:
    """The rows of the table of docs/performance.md by their command."""
    found: dict[str, list[list[str]]] = {}
    for line in (CHECKOUT / "docs" / "performance.md").read_text().split("## Memory")[1].splitlines():
        command, *cells = [cell.strip(" `") for cell in line.strip("|").split("|")]
        if command.startswith("magic-insert plan"):
            found[command] = []
        if found and len(cells) == 6:
            found[next(reversed(found))].append(cells)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("command", documented())
def test_the_figures_of_the_documents_are_the_plans(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_plan(frozen("plan", *shlex.split(command)[2:]))
    lines = capsys.readouterr().out.splitlines()[2:]
    rows = documented()[command]
    assert rows
    for (setting, weights, trained, activations, total, fits), line in zip(rows, lines, strict=False):
        numbers = [float(number) for number in line[58:136].split()]
        assert setting in ("each of eight", line[:58].strip())
        written = [float(number or 0) for number in (weights, trained, activations, total)]
        counted = [numbers[0], sum(numbers[1:4]), numbers[4], numbers[5]]
        assert written == pytest.approx(counted, abs=0.2)  # sums of rounded numbers
        assert fits == line[136:].strip()


@pytest.mark.slow
def test_the_plan_names_what_makes_a_job_fit(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("train.batch_size=4", "train.gradient_checkpointing=false", "train.lora_rank=4")
    cfg = plan_of(hub, "job=insertion", *words)
    whole, checkpointed = (
        sum(count_insertion(c).values()) / 1e9 for _, c in itertools.islice(memory_options(cfg), 2)
    )
    run_plan(replace(cfg, gpu=(whole + checkpointed) / 2 / 0.92))
    assert "fits with train.gradient_checkpointing=true" in capsys.readouterr().out


FILES = {
    "personalize": "subject=cat.png out=runs/cat",
    "insertion": "data=pairs data.path=pairs out=runs/edit",
    "bootstrap": "pool.dir=drawings fit.photos=pairs out=runs/bootstrap",
    "insert": "run=runs/cat subject=cat.png background=room.png out=out.png",
    "remove": "run=runs/edit image=room.png mask=chair.png out=out.png",
}


RANKS = ("exec=torchrun", "exec.devices=8", "train.strategy=fsdp2")


@pytest.mark.parametrize(
    ("job", "together"), [*((job, ()) for job in FILES), ("insertion", RANKS), ("bootstrap", RANKS[:2])]
)
def test_every_setting_that_the_plan_names_is_one_of_the_job(job: str, together: tuple[str, ...]) -> None:
    greedy = [f"{part}.gradient_checkpointing=false" for part in ("personalization", "train", "fit")]
    words = ["model=sdxl", "model.dtype=float32", "inserter=diffusion"]
    words += ["gpus=8", *together[2:]] if together else ["fit.lora_rank=128"]
    cfg = frozen("plan", f"job={job}", *words, *greedy)
    settings = " ".join(setting for setting, _ in itertools.islice(memory_options(cfg), 1, None)).split()
    assert len(settings) > 3
    frozen(job, "model=sdxl", *FILES[job].split(), *together, *settings)


@pytest.mark.parametrize(("job", "part"), [("insertion", "train"), ("bootstrap", "fit")])
def test_a_batch_that_processes_cannot_share_is_refused_before_anything_is_made(job: str, part: str) -> None:
    words = FILES[job].split()
    expected = rf"{part}\.batch_size to be a multiple of 6.* set {part}\.batch_size=12"
    with pytest.raises(UserError, match=expected):
        frozen(job, *words, "exec=slurm", "exec.devices=3", "exec.nodes=2")
    with pytest.raises(UserError, match=expected):
        frozen("plan", f"job={job}", "gpus=6")
    frozen(job, *words, "exec=torchrun", "exec.devices=0")  # as many as there are


def test_parts_of_the_foundation_that_share_a_batch_are_refused_one_that_they_cannot_share() -> None:
    three = ["exec=torchrun", "exec.devices=3", *(f"{part}.batch_size=6" for part in SHARED_PARTS)]
    frozen("foundation", *three, "clip.batch_size=8", "metric_style.batch_size=8")
    for part in SHARED_PARTS:
        uneven = [*three, f"{part}.batch_size=8"]
        expected = rf"{part}\.batch_size to be a multiple of 3.* set {part}\.batch_size=6"
        with pytest.raises(UserError, match=expected):
            frozen("foundation", *uneven)
        frozen("foundation", *uneven, f"{part}.steps=0", "start=folder")


SHARED_PARTS = ("vae", "generator", "controlnet", "remover", "inserter")
FREE_GIGABYTES = 18
SIZE = 256  # pixels; every weight takes part whatever the size


def free_gigabytes() -> float:
    gc.collect()  # the job before this one may lie in cycles
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) / 1e6


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_a_step_of_full_size_sdxl_takes_the_memory_that_the_plan_counts(tmp_path: Path, job: str) -> None:
    if free_gigabytes() < FREE_GIGABYTES:
        pytest.skip(f"needs {FREE_GIGABYTES} GB of free memory")
    made = run_job(job, SIZE, tmp_path)
    assert made.held_gb == pytest.approx(made.planned_gb, rel=0.1)
    if job == "personalize":
        learned = load_file(tmp_path / "run" / LORA_FILE)
        outputs = [tensor for name, tensor in learned.items() if "lora_B" in name]
        assert len(outputs) == len(learned) / 2
        assert all(tensor.any() for tensor in outputs)  # they start at zero
        rows = load_file(tmp_path / "run" / TOKENS_FILE)["clip_g"]
        assert rows.shape == (2, 1280)
