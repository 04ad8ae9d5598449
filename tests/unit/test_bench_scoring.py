"""The bench of scoring times what it says, with real encoders of the micro size."""

from pathlib import Path

from magic_insert.evaluation.bench_scoring import measure, show
from magic_insert.models.encoders import new_identity, new_style


def test_the_bench_times_every_part_and_says_what_the_pipeline_is_worth(tmp_path: Path) -> None:
    times = measure({"who": new_identity(0), "how": new_style(0)}, pairs=3, size=48, folder=tmp_path)
    assert times["files"] == 5  # three pairs, one subject, one background
    assert set(times) == {"files", "encode who", "encode how", "encode", "decode", "pipeline", "loop"}
    assert all(value > 0 for value in times.values())
    stored = list((tmp_path / "features").rglob("*.safetensors"))
    assert len(stored) == 2  # one group of features for each encoder: the pipeline is the harness's own
    caption = str(show(times, 3, 48).caption)
    assert f"{times['loop'] / times['pipeline']:.1f} times the loop" in caption
