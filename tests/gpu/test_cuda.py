"""What must hold on a GPU: the same pictures as on the CPU, training that moves, half precision that stays finite."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from full_size import JOBS, run_job
from safetensors.torch import load_file

from magic_insert.config.schema.shared import ModelConfig
from magic_insert.config.schema.training import PersonalizationConfig, ValidationConfig
from magic_insert.core.records import Subject
from magic_insert.foundation.parts import PatchCode, VaeModule
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.micro import TINY, build_vae
from magic_insert.models.pipeline import load_pipeline
from magic_insert.models.sampling import sample
from magic_insert.toybox.scenes import sample_scene, scene_world
from magic_insert.toybox.styles import ALL_STYLES, draw
from magic_insert.toybox.subjects import sample_subject, subject_shapes
from magic_insert.toybox.tracer import trace
from magic_insert.training.personalize import personalize
from magic_insert.training.trainer import TrainerOptions, fit

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_a_step_of_full_size_sdxl_takes_the_memory_that_the_plan_counts(tmp_path: Path, job: str) -> None:
    made = run_job(job, 1024, tmp_path, DEVICE)
    assert made.held_gb == pytest.approx(made.planned_gb, rel=0.1)


def drawings(device: str) -> torch.Tensor:
    """One scene with its subject per style, on the CPU."""
    count = len(ALL_STYLES)
    worlds = []
    for seed in range(count):
        scene = sample_scene(seed)
        shapes = subject_shapes(
            sample_subject(seed), x=scene.drop_x, z=scene.drop_z, height=scene.subject_height
        )
        worlds.append(scene_world(scene, shapes))
    g = trace(worlds, 64, device=device)
    return draw(g, ALL_STYLES, [0.5] * count, list(range(count))).cpu()


def test_every_style_of_a_traced_scene_is_drawn_as_on_the_cpu() -> None:
    """To float tolerance: a rounding error may move a silhouette or a threshold by single pixels."""
    change = (drawings(DEVICE) - drawings("cpu")).abs().amax(dim=1)
    for style, picture in zip(ALL_STYLES, change, strict=True):
        assert (picture > 2 / 255).float().mean() < 0.01, style
        assert picture.mean() < 2e-3, style


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_two_steps_of_training_move_the_weights(tmp_path: Path, precision: str) -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.manual_seed(0)
    module = VaeModule(build_vae(TINY), PatchCode(images, TINY.latent_channels), lr=1e-3, steps=2)
    before = {name: value.detach().cpu().clone() for name, value in module.named_parameters()}

    def batch_at(step: int) -> dict[str, torch.Tensor]:
        return {
            "image": images,
            "noise": torch.zeros(2, TINY.latent_channels, 2, 2),
            "step": torch.tensor(step),
        }

    options = TrainerOptions(steps=2, device=DEVICE, precision=precision)
    fit(module, batch_at, options, tmp_path / "fit")
    after = {name: value.detach().cpu() for name, value in module.named_parameters()}
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.fixture(scope="module")
def on_cpu(tiny_micro: Path) -> torch.Tensor:
    return picture(tiny_micro, "cpu", torch.float32)


def picture(folder: Path, device: str, dtype: torch.dtype) -> torch.Tensor:
    model = ModelConfig(name="tiny", source=str(folder), image_size=64)
    pipe = load_pipeline(model, device=device, dtype=dtype)
    assert pipe.device.type == device
    assert pipe.unet.dtype == dtype
    return sample(pipe, ["a red bunny"], [0], steps=3, guidance=3.0)[0].cpu()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 0.01), (torch.float16, 0.05), (torch.bfloat16, 0.1)], ids=str
)
def test_a_picture_is_sampled_in_every_precision_as_on_the_cpu(
    tiny_micro: Path, on_cpu: torch.Tensor, dtype: torch.dtype, tolerance: float
) -> None:
    drawn = picture(tiny_micro, DEVICE, dtype)
    assert drawn.dtype == torch.float32
    assert drawn.isfinite().all()
    assert (drawn - on_cpu).abs().mean() < tolerance


@pytest.mark.parametrize(
    ("precision", "optimizer", "offload"),
    [
        ("bf16-mixed", "adamw", False),
        ("bf16-mixed", "adamw", True),
        ("16-mixed", "adamw", False),
        ("bf16-mixed", "adamw8bit", False),
    ],
)
def test_a_personalisation_in_half_precision_trains_and_leaves_the_vae_where_it_was(
    tiny_micro: Path, tmp_path: Path, precision: str, optimizer: str, offload: bool
) -> None:
    if optimizer == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    where = {"device": DEVICE, "offload": offload}
    model = ModelConfig(name="tiny", source=str(tiny_micro), image_size=64, dtype="float16", **where)
    pipe = load_pipeline(model)
    cfg = PersonalizationConfig(
        steps=4, batch_size=2, rank=2, alpha=2.0, targets=["to_q", "to_v"], text_rank=2,
        lr_unet=1e-2, wd_unet=0.0, lr_tokens=1e-2, wd_tokens=0.0, precision=precision, optimizer=optimizer,
        gradient_checkpointing=True, ema_decay=0.9,
        validation=ValidationConfig(every=2, steps=2, seeds=1, scorer="model"),
    )  # fmt: skip
    picture = torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(0))
    subject = Subject(picture, torch.ones(1, 48, 48), "noise")
    run = personalize(pipe, subject, cfg, seed=0, out=tmp_path / "run")
    start = personalize(pipe, subject, replace(cfg, steps=0), seed=0, out=tmp_path / "start")
    before, after = (load_file(folder / LORA_FILE) for folder in (start, run))
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert pipe.vae.device.type == DEVICE
