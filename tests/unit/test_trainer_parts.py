"""Parts of the trainer alone: the running mean, optimizers, schedules, the pick, the watch, kohya's names, stopping."""

import itertools
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from magic_insert.config.schema.training import PersonalizationConfig
from magic_insert.core.errors import UserError
from magic_insert.core.rand import generator
from magic_insert.core.threads import REMEMBERED, TRIALS, ThreadChoice, allowed_threads
from magic_insert.training.checkpoint import between_steps, read_last_checkpoint, save_checkpoint
from magic_insert.training.export import kohya_state, stability_name
from magic_insert.training.personalize import pick_best
from magic_insert.training.personalize_module import build_optimizer, rate_of
from magic_insert.training.trainer import RunningMean, Watch, lr_factor

CPU = torch.device("cpu")
CONFIG = PersonalizationConfig(
    steps=10, batch_size=1, rank=1, alpha=1.0, targets=["to_q"], lr_unet=0.1, wd_unet=0.0, lr_tokens=0.2, wd_tokens=0.0
)  # fmt: skip


def weights(count: int = 2) -> dict[str, list[nn.Parameter]]:
    made = [nn.Parameter(torch.randn(3, generator=generator(i, "weights"))) for i in range(count)]
    return {"unet": made[:1], "tokens": made[1:]}


def test_the_mean_lies_between_and_leaves_the_weights_as_they_were() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    mean = RunningMean([parameter], 0.5)
    parameter.data.fill_(1.0)
    mean.update(100)
    with mean.in_place():
        assert torch.equal(parameter.detach(), torch.full((2,), 0.5))
    assert torch.equal(parameter.detach(), torch.ones(2))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_falling_schedule_never_rises_and_ends_near_zero(schedule: str) -> None:
    rates = [lr_factor(step, 50, schedule) for step in range(50)]
    assert all(a >= b for a, b in itertools.pairwise(rates))
    assert rates[0] == 1.0
    assert rates[-1] < 0.05


def test_rates_follow_the_schedule_and_tokens_rest_after_their_share() -> None:
    cfg = replace(CONFIG, lr_schedule="linear", token_fraction=0.5)
    seen = [tuple(rate_of(cfg, step, part) for part in ("unet", "tokens")) for step in range(cfg.steps)]
    assert seen[0] == (1.0, 1.0)
    assert all(tokens > 0 for _, tokens in seen[:5])
    assert all(unet > 0 and tokens == 0 for unet, tokens in seen[5:])


def build(cfg: PersonalizationConfig, parts: dict[str, list[nn.Parameter]]) -> torch.optim.Optimizer:
    """With base rates, as the trainer notes them before its first step."""
    optimizer = build_optimizer(cfg, parts, CPU)
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer


def quadratic_steps(
    cfg: PersonalizationConfig,
    parts: dict[str, list[nn.Parameter]],
    optimizer: torch.optim.Optimizer,
    numbers: range,
) -> None:
    for step in numbers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate_of(cfg, step, group["name"])
        optimizer.zero_grad()
        sum((p - 3).square().sum() for part in parts.values() for p in part).backward()
        optimizer.step()


def assert_it_resumes_to_the_same_bits(
    folder: Path,
    cfg: PersonalizationConfig,
    start: Callable[[], dict[str, list[nn.Parameter]]],
) -> None:
    """Eight steps in one go, and four, a checkpoint and four with what was read from it."""
    whole, first = start(), start()
    quadratic_steps(cfg, whole, build(cfg, whole), range(8))
    optimizer = build(cfg, first)
    quadratic_steps(cfg, first, optimizer, range(4))
    values = {name: part[0].detach() for name, part in first.items()}
    save_checkpoint(folder, step=4, key="k", values=values, optimizer=optimizer)
    found = read_last_checkpoint(folder, "k")
    assert found is not None
    second = {
        name: [nn.Parameter(found.values[name].clone().to(part[0].device))] for name, part in first.items()
    }
    resumed = build(cfg, second)
    found.restore_optimizer(resumed)
    quadratic_steps(cfg, second, resumed, range(4, 8))
    assert all(torch.equal(whole[name][0], second[name][0]) for name in whole)


def test_prodigy_resumes_to_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("prodigyopt")
    cfg = replace(CONFIG, optimizer="prodigy", lr_unet=1.0, lr_tokens=1.0)
    assert_it_resumes_to_the_same_bits(tmp_path, cfg, weights)


def test_eight_bit_states_take_a_byte_each_and_resume_to_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", minversion="0.50")
    cfg = replace(CONFIG, optimizer="adamw8bit")

    def start() -> dict[str, list[nn.Parameter]]:
        """Large enough for 8 bits; of the tokens' few rows bitsandbytes keeps whole numbers."""
        large = torch.randn(64, 128, generator=generator(0, "weights"))
        return {"unet": [nn.Parameter(large)], "tokens": [nn.Parameter(large[0].clone())]}

    assert_it_resumes_to_the_same_bits(tmp_path, cfg, start)
    parts = start()
    quadratic_steps(cfg, parts, optimizer := build(cfg, parts), range(8))
    states = [[optimizer.state[part[0]][f"state{i}"] for i in (1, 2)] for part in parts.values()]
    assert [[state.dtype for state in pair] for pair in states] == [[torch.uint8] * 2, [torch.float32] * 2]
    whole = start()
    quadratic_steps(cfg, whole, build(CONFIG, whole), range(8))
    moved = (whole["unet"][0] - start()["unet"][0]).abs().mean()
    assert (whole["unet"][0] - parts["unet"][0]).abs().mean() < 0.02 * moved


ROWS = [
    {"step": 100, "identity": 0.5, "prompt": 0.30},
    {"step": 200, "identity": 0.7, "prompt": 0.29},
    {"step": 300, "identity": 0.9, "prompt": 0.20},
    {"step": 400, "identity": 0.2, "prompt": 0.40},  # the subject is gone
]


@pytest.mark.parametrize(("tolerance", "step"), [(0.0, 100), (0.05, 200), (1.0, 300)])
def test_the_most_alike_step_wins_among_those_that_still_obey(tolerance: float, step: int) -> None:
    assert pick_best(ROWS, tolerance) == step
    alike = [{**row, "identity": 0.5, "prompt": 0.1} for row in ROWS]
    assert pick_best(alike, tolerance) == 100  # the earlier


def test_a_step_that_takes_three_times_as_long_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch(CPU, ThreadChoice(1))
    for step in range(REMEMBERED):
        watch.judge(step, 1.0)
    watch.judge(REMEMBERED, 2.9)
    assert not caplog.records
    for step in (21, 22, 120, 121):
        watch.judge(step, 3.5)
    assert [record.getMessage().split(" took ")[0][-3:].strip() for record in caplog.records] == ["21", "121"]


@pytest.mark.parametrize(
    ("diffusers", "stability"),
    [
        ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
         "input_blocks.4.1.transformer_blocks.0.attn1.to_q"),
        ("down_blocks.0.resnets.1.conv1", "input_blocks.2.0.in_layers.2"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
        ("mid_block.attentions.0.proj_in", "middle_block.1.proj_in"),
        ("mid_block.resnets.1.conv_shortcut", "middle_block.2.skip_connection"),
        ("up_blocks.0.attentions.2.proj_out", "output_blocks.2.1.proj_out"),
        ("up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv"),
        ("conv_out", "out.2"),
    ],
)  # fmt: skip
def test_layers_have_the_names_of_stabilitys_code(diffusers: str, stability: str) -> None:
    assert stability_name(diffusers) == stability


def test_kohyas_file_holds_matrices_alpha_and_magnitudes_along_the_output() -> None:
    layer = "unet.down_blocks.0.resnets.0.conv1"
    state = {
        f"{layer}.lora_A.weight": torch.ones(2, 3, 3, 3),
        f"{layer}.lora_B.weight": torch.ones(5, 2, 1, 1),
        f"{layer}.lora_magnitude_vector": torch.ones(1, 5, 1, 1),
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_magnitude_vector": torch.ones(4),
    }
    renamed = kohya_state(state, {"unet": 8, "text_encoder": 2})
    assert {key: tuple(tensor.shape) for key, tensor in renamed.items()} == {
        "lora_unet_input_blocks_1_0_in_layers_2.lora_down.weight": (2, 3, 3, 3),
        "lora_unet_input_blocks_1_0_in_layers_2.lora_up.weight": (5, 2, 1, 1),
        "lora_unet_input_blocks_1_0_in_layers_2.alpha": (),
        "lora_unet_input_blocks_1_0_in_layers_2.dora_scale": (5, 1, 1, 1),
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.alpha": (),
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.dora_scale": (4, 1),
    }
    assert renamed["lora_unet_input_blocks_1_0_in_layers_2.alpha"] == 8
    with pytest.raises(UserError, match="layer of SDXL"):
        stability_name("transformer.0.to_q")


def test_sigterm_inside_the_block_waits_and_is_obeyed_after_it() -> None:
    seen = []

    def asked_in_the_middle() -> None:
        with between_steps() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            seen.append(stop.asked)

    with pytest.raises(SystemExit) as ended:
        asked_in_the_middle()
    assert seen == [signal.SIGTERM]
    assert ended.value.code == 143


def settle(choice: ThreadChoice, one: float, all_of_them: float) -> int:
    """Lets a choice see steps of these seconds with one thread and with all, until it is made."""
    threads = torch.get_num_threads()
    try:
        for _ in range(4 * TRIALS):
            number = choice.begin()
            choice.end(number, one if number == 1 else all_of_them)
    finally:
        torch.set_num_threads(threads)
    assert choice.settled is not None
    return choice.settled


@pytest.mark.parametrize(("all_of_them", "chosen"), [(0.5, 2), (0.95, 1), (30.0, 1)])
def test_more_threads_are_used_where_they_make_a_step_clearly_shorter(
    all_of_them: float, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magic_insert.core.threads.parallel_pays", lambda threads: True)
    choice = ThreadChoice(2)
    assert settle(choice, 1.0, all_of_them) == chosen
    assert len(choice.spent[2]) <= 3 * TRIALS
    if all_of_them > 1:
        assert len(choice.spent[2]) == 1  # no second step that long


def test_no_gain_or_the_environment_leaves_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magic_insert.core.threads.parallel_pays", lambda threads: False)
    choice = ThreadChoice(8)
    assert settle(choice, 1.0, 0.1) == 1
    assert not choice.spent[8]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    choice = ThreadChoice.of_process()
    assert (choice.most, choice.settled) == (3, 3)
    assert not any(choice.end(3, seconds) for seconds in (1.0, 1.0, 1.0, 1.0, 30.0))


def test_threads_fall_to_one_at_a_step_several_times_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    choice = ThreadChoice(2, settled=2)
    assert not any(choice.end(2, 1.0) for _ in range(TRIALS + 1))
    assert choice.end(2, 3.5)
    assert choice.settled == 1


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 1),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({}, None),
    ],
    ids=["v2", "v2 unlimited", "v1", "none"],
)
def test_a_containers_quota_limits_threads(tmp_path: Path, files: dict[str, str], cores: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert allowed_threads(tmp_path) == (cores or len(os.sched_getaffinity(0)))
