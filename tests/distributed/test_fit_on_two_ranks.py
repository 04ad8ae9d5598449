"""Two ranks that share a batch train as one that has it whole; interrupted, they go on; only the first one writes."""

from pathlib import Path

import pytest
import torch
from rank_targets import STEPS, fit_an_edit_unet, fit_in_all_ways
from safetensors.torch import load_file

from magic_insert.config.schema.shared import ExecConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, read_jsonl, write_json
from magic_insert.launch.executor import StageFailed, execute
from magic_insert.training.checkpoint import read_last_checkpoint
from magic_insert.training.trainer import my_slice, trainer_options


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of the same fits by one rank and by two."""
    folders = {ranks: tmp_path_factory.mktemp(f"ranks{ranks}") for ranks in (1, 2)}
    for folder in folders.values():
        write_json(folder / "stage.json", {})
    fit_in_all_ways(folders[1] / "stage.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        execute(
            "rank_targets:fit_in_all_ways", folders[2] / "stage.json", ExecConfig(name="torchrun", devices=2)
        )
    return folders


def weights(folder: Path, name: str, rank: int = 0) -> dict[str, torch.Tensor]:
    return load_file(folder / name / f"rank-{rank}.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unbroken", "resumed", "whole", "shards", "shards resumed"])
def test_two_ranks_reach_the_weights_of_one(fits: dict[int, Path], name: str) -> None:
    torch.testing.assert_close(weights(fits[2], name), weights(fits[1], name), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_two_shards_in_mixed_precision_reach_one_rank_to_its_rounding(fits: dict[int, Path]) -> None:
    torch.testing.assert_close(
        weights(fits[2], "shards mixed"), weights(fits[1], "shards mixed"), rtol=0.02, atol=2e-3
    )
    plain, mixed = (weights(fits[2], name)["net.0.weight"] for name in ("shards", "shards mixed"))
    assert not torch.equal(plain, mixed)


@pytest.mark.slow
@pytest.mark.parametrize(("broken", "whole"), [("resumed", "unbroken"), ("shards resumed", "shards")])
def test_a_fit_of_two_ranks_goes_on_where_it_stopped(fits: dict[int, Path], broken: str, whole: str) -> None:
    torch.testing.assert_close(weights(fits[2], broken), weights(fits[2], whole), rtol=0, atol=0)


@pytest.mark.slow
def test_two_shards_keep_one_checkpoint_that_one_process_reads(fits: dict[int, Path]) -> None:
    two, one = (read_last_checkpoint(fits[ranks] / "shards", "") for ranks in (2, 1))
    assert two is not None
    assert one is not None
    torch.testing.assert_close(dict(two.values), dict(one.values), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(dict(two.optimizer), dict(one.optimizer), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_first_rank_alone_logs_the_mean_of_all(fits: dict[int, Path]) -> None:
    one, two = (read_jsonl(fits[ranks] / "unbroken" / "log.jsonl") for ranks in (1, 2))
    assert [row["step"] for row in two] == [STEPS]
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-4)


@pytest.mark.slow
def test_an_edit_unet_in_two_shards_is_killed_and_goes_on_to_the_weights_of_one_process(
    tiny_micro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one, two = tmp_path / "one", tmp_path / "two"
    told = {"model": str(tiny_micro), "strategy": "fsdp2"}
    write_json(one / "stage.json", {**told, "strategy": "ddp"})
    write_json(two / "stage.json", {**told, "kill_after": 3})
    fit_an_edit_unet(one / "stage.json")
    ranks = ExecConfig(name="torchrun", devices=2)
    with pytest.raises(StageFailed, match="SIGKILL"):
        execute("rank_targets:fit_an_edit_unet", two / "stage.json", ranks)
    assert read_last_checkpoint(two / "inserter.fit", read_json(two / "inserter.fit" / "fit.json")["key"])
    execute("rank_targets:fit_an_edit_unet", two / "stage.json", ranks)
    file = "inserter/diffusion_pytorch_model.safetensors"
    torch.testing.assert_close(load_file(two / file), load_file(one / file), rtol=0, atol=1e-5)


def test_slices_of_all_ranks_are_the_batch_or_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = {"x": torch.arange(6), "step": torch.tensor(3)}
    monkeypatch.setenv("WORLD_SIZE", "3")
    parts = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(my_slice(batch))
    assert torch.cat([part["x"] for part in parts]).tolist() == batch["x"].tolist()
    assert {int(part["step"]) for part in parts} == {3}
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="batch size"):
        my_slice({"x": torch.arange(6)})


def test_ranks_on_several_machines_are_told_to_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"WORLD_SIZE": 8, "LOCAL_WORLD_SIZE": 4, "RANK": 5, "LOCAL_RANK": 1, "GROUP_RANK": 1}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    options = trainer_options("cuda:0")
    assert (options["accelerator"], options["devices"], options["num_nodes"]) == ("gpu", 4, 2)
    environment = options["strategy"].cluster_environment
    assert (environment.node_rank(), environment.global_rank(), environment.local_rank()) == (1, 5, 1)
