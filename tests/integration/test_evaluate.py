"""The evaluation from pictures to report with a tiny model: complete rows, nothing twice, the same after a kill."""

import shlex
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from helpers import frozen, noise, oval
from processes import finish, launch, wait_until

from magic_insert.cli.jobs import methods_side_by_side as rewrite
from magic_insert.cli.jobs import of_the_demo
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.jsonl import read_json
from magic_insert.evaluation.evaluate import PairView, counted, run_demo
from magic_insert.evaluation.rows import Row, read_rows, rows_digest, write_rows
from magic_insert.launch.run import JobPlan, run_job

pytestmark = pytest.mark.usefixtures("one_model")
TRIVIAL = {"floor:copy_paste", "floor:background", "floor:random_subject", "ceiling:self", "ceiling:truth"}
SHADOW = "floor:contact_shadow"


def words(model: Path, out: Path, *more: str) -> list[str]:
    return [
        f"model.source={model}", "model.image_size=64", "model.device=cpu", "benchmark.num_subjects=2",
        "benchmark.num_scenes=1", "benchmark.size=64", "personalization.steps=1", "personalization.batch_size=1",
        "personalization.rank=2", "personalization.views=1", "personalization.targets=[to_q]", "sampling.steps=2",
        "style.outline=0", f"out={out}", *more,
    ]  # fmt: skip


METHODS = [
    "stylizer=[personalized,instantstyle]", "inserter=[diffusion,copy_paste]", "inserters.diffusion.steps=2"
]  # fmt: skip


def run(arguments: Sequence[str]) -> list[Row]:
    cfg = frozen("evaluate", *rewrite(arguments))
    run_job(JobPlan("evaluate", "magic_insert.evaluation.evaluate:run_evaluate", words=tuple(arguments)), cfg)
    return read_rows(Path(cfg.out) / "rows.jsonl")


def times_of(folder: Path, pattern: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob(pattern))}


@pytest.fixture(scope="module")
def finished(tiny_micro: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of two stylizers and two inserters; not to be changed."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("evaluate") / "finished"
    run(words(tiny_micro, out, *METHODS))
    return out


def copy_of(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_every_method_and_every_floor_has_one_row_per_pair(finished: Path) -> None:
    rows = read_rows(finished / "rows.jsonl")
    stylize = {row["method"] for row in rows if row["track"] == "stylize"}
    insert = {row["method"] for row in rows if row["track"] == "insert"}
    stylizers, inserters = ("personalized", "instantstyle"), ("diffusion", "copy_paste")
    assert stylize == {*stylizers, *TRIVIAL}
    assert insert == {*(f"{s}+{i}" for s in stylizers for i in inserters), *TRIVIAL, SHADOW}
    pairs = {row["pair_id"] for row in rows}
    assert len(pairs) == 2
    assert len(rows) == len(pairs) * (len(stylize) + len(insert))
    assert all((finished / path).is_file() for row in rows for path in row["images"].values())


def test_floors_and_ceilings_have_the_values_they_must_have(finished: Path) -> None:
    rows = {(r["track"], r["method"], r["pair_id"]): r["values"] for r in read_rows(finished / "rows.jsonl")}
    for (track, method, _), values in rows.items():
        if method == "ceiling:self" and track == "stylize":
            assert [values["subject_dino"], values["style_csd"]] == pytest.approx([1, 1], abs=1e-5)
        if method == "floor:copy_paste" and track == "stylize":
            assert values["subject_dino"] == pytest.approx(1, abs=1e-5)
        if method == "floor:background" and track == "stylize":
            assert values["style_clip_i"] == pytest.approx(1, abs=1e-5)
        if method == "ceiling:truth":
            assert values["truth_psnr"] == 60
            assert values["truth_ssim"] == pytest.approx(1)
        if method == "ceiling:truth" and track == "insert":
            assert values["truth_shadow_iou"] == values["truth_mask_iou"] == 1
            assert values["truth_identity"] == pytest.approx(1, abs=1e-5)
            assert values.get("truth_side", 1.0) == 1
        if method == SHADOW and "truth_effect_psnr" in values:
            assert values["truth_rest_psnr"] > 20, "the floors of own-lit insertion stand in every table"
        if method.endswith("+copy_paste") or (
            method in ("floor:background", "ceiling:self") and track == "insert"
        ):
            assert values["outside_equal"] == 1
        assert "truth_psnr" in values or method == "ceiling:self"


@pytest.mark.slow
def test_a_method_that_knows_its_matte_is_not_cut_again(tiny_micro: Path, tmp_path: Path) -> None:
    one = ["benchmark.num_subjects=1", "stylizer=tone", "inserter=copy_paste"]
    rows = [r for r in run(words(tiny_micro, tmp_path, *one)) if r["track"] == "insert"]
    overlap = {r["method"]: r["values"].get("truth_mask_iou") for r in rows}
    assert overlap["tone+copy_paste"] == pytest.approx(overlap["floor:copy_paste"], abs=1e-4)


def test_the_report_and_the_sheets_are_written(finished: Path) -> None:
    tables = ("table.md", "table.csv", "table.tex")
    for name in ("report.html", *tables, "sheet_stylize.png", "sheet_insert.png"):
        assert (finished / name).stat().st_size > 500
    assert load_rgb(finished / "sheet_stylize.png").shape[-1] > 5 * 128
    facts = read_json(finished / "facts.json")
    assert facts["has_truth"]
    assert {card["role"] for card in facts["cards"]} >= {"identity", "clip", "style"}
    assert facts["command"].startswith("magic-insert evaluate ")
    assert "'stylizer=[personalized,instantstyle]'" in facts["command"]
    assert facts["seconds"]["personalise"] > 0


@pytest.mark.slow
def test_the_command_of_a_report_makes_it_again(finished: Path, tmp_path: Path) -> None:
    program, job, *printed = shlex.split(read_json(finished / "facts.json")["command"])
    assert (program, job) == ("magic-insert", "evaluate")
    again = [*(word for word in printed if not word.startswith("out=")), f"out={tmp_path / 'again'}"]
    assert rows_digest(run(again)) == rows_digest(read_rows(finished / "rows.jsonl"))


def test_what_is_lost_is_made_again_to_equal_rows(finished: Path, tmp_path: Path, tiny_micro: Path) -> None:
    out = copy_of(finished, tmp_path)
    first, *_ = sorted({row["subject"] for row in read_rows(out / "rows.jsonl")})
    for pattern in (f"images/*/*/{first}*", f"rows/*/*/{first}*"):
        lost = sorted(out.glob(pattern))
        assert lost
        for path in lost:
            path.unlink()
    (out / "rows.jsonl").unlink()
    kept = [times_of(out / part, "[!.]*.*") for part in ("inputs/truth", "personalized", "images", "rows")]
    rows = run(words(tiny_micro, out, *METHODS))
    assert rows_digest(rows) == rows_digest(read_rows(finished / "rows.jsonl"))
    for path, changed in (item for part in kept for item in part.items()):
        assert path.name == "manifest.json" or path.stat().st_mtime_ns == changed, f"{path} was made twice"


@pytest.mark.slow
def test_a_personalisation_is_shared_by_methods(finished: Path, tmp_path: Path, tiny_micro: Path) -> None:
    out = copy_of(finished, tmp_path)
    trained = times_of(out / "personalized", "*.safetensors")
    rows = run(
        words(
            tiny_micro, out, "track=stylize", "stylizer=[personalized,faint:personalized,one:personalized_1token]",
            "stylizers.faint.lora_scale=0.5", "num_draws=2",
        )
    )  # fmt: skip
    now = times_of(out / "personalized", "*.safetensors")
    assert trained.items() <= now.items()
    assert len(now) == 2 * len(trained), "one more recipe (one token), not two"
    faint = [row for row in rows if row["method"] == "faint"]
    assert sorted({row["seed"] for row in faint}) == [0, 1]
    assert len(faint) == 4


def test_other_settings_never_mix_into_a_method(finished: Path, tmp_path: Path, tiny_micro: Path) -> None:
    out = copy_of(finished, tmp_path)
    with pytest.raises(UserError, match=r"personalized.*out=FOLDER"):
        run(words(tiny_micro, out, *METHODS, "style.scale=0.5"))
    with pytest.raises(UserError, match="benchmark"):
        run(words(tiny_micro, out, *METHODS, "benchmark.size=32"))
    write_rows(
        out / "rows.jsonl",
        [{**row, "benchmark": "another"} for row in read_rows(out / "rows.jsonl")],  # type: ignore[misc]
    )
    with pytest.raises(UserError, match="another"):
        run(words(tiny_micro, out, *METHODS))


def test_pictures_made_elsewhere_score_as_our_own(finished: Path, tmp_path: Path, tiny_micro: Path) -> None:
    theirs = {"stylize": tmp_path / "redrawn", "insert": tmp_path / "composites"}
    masks = tmp_path / "masks"
    masks.mkdir()
    for track, method in (("stylize", "instantstyle"), ("insert", "instantstyle+diffusion")):
        theirs[track].mkdir()
        for path in (finished / "images" / track / method).glob("*.0.png"):
            shutil.copy(path, theirs[track] / f"{path.name.removesuffix('.0.png')}.png")
        for path in (finished / "images" / track / method).glob("*.0.mask.png"):
            shutil.copy(path, masks / f"{path.name.removesuffix('.0.mask.png')}.png")
    out = tmp_path / "out"
    chosen = [
        "stylizer=images", f"stylizer.dir={theirs['stylize']}", "inserter=other:images",
        f"inserters.other.dir={theirs['insert']}", f"inserters.other.mask_dir={masks}",
    ]  # fmt: skip
    rows = {
        (r["track"], r["method"], r["pair_id"]): r["values"] for r in run(words(tiny_micro, out, *chosen))
    }
    assert not (out / "personalized").exists()
    for row in read_rows(finished / "rows.jsonl"):
        if (row["track"], row["method"]) == ("stylize", "instantstyle"):
            assert rows["stylize", "images", row["pair_id"]] == row["values"]
        if (row["track"], row["method"]) == ("insert", "instantstyle+diffusion"):
            assert rows["insert", "other", row["pair_id"]] == row["values"]
    next(theirs["insert"].glob("*.png")).unlink()
    with pytest.raises(UserError, match="1 missing"):
        run(words(tiny_micro, out, *chosen))


@pytest.mark.slow
def test_a_folder_of_ones_own_is_scored_without_truth(tmp_path: Path, tiny_micro: Path) -> None:
    root = tmp_path / "mine"
    for name, colour in (("apple", 0.8), ("plum", 0.3)):
        save_png(root / "subjects" / f"{name}.png", oval(48, colour)[:3])
    save_png(root / "backgrounds" / "park.png", noise("park", 90, 120))
    one = ["stylizer=tone", "inserter=copy_paste", "benchmark=folder", f"root={root}"]
    rows = run(words(tiny_micro, tmp_path / "out", *one))
    assert {row["method"] for row in rows if row["track"] == "insert"} == {
        "tone+copy_paste", *(TRIVIAL - {"ceiling:truth"}), SHADOW,
    }  # fmt: skip
    assert not any(name.startswith("truth") for row in rows for name in row["values"])
    assert not any(row["track"] == "stylize" and "style_clip_t" in row["values"] for row in rows), (
        "nobody said it"
    )


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_rows(finished: Path, tmp_path: Path, tiny_micro: Path) -> None:
    out = tmp_path / "killed"
    arguments = ["evaluate", *words(tiny_micro, out, *METHODS)]
    process = launch(arguments)
    wait_until(lambda: len(list(out.glob("images/insert/personalized+*/*.png"))) >= 2, process)
    process.kill()
    finish(process, -signal.SIGKILL)
    assert not (out / "rows.jsonl").exists()
    finish(launch(arguments))
    assert rows_digest(read_rows(out / "rows.jsonl")) == rows_digest(read_rows(finished / "rows.jsonl"))


@pytest.mark.slow
def test_two_processes_make_the_rows_of_one(finished: Path, tmp_path: Path, tiny_micro: Path) -> None:
    out = tmp_path / "two"
    finish(launch(["evaluate", *words(tiny_micro, out, *METHODS, "exec=torchrun", "exec.devices=2")]))
    assert rows_digest(read_rows(out / "rows.jsonl")) == rows_digest(read_rows(finished / "rows.jsonl"))


@pytest.mark.parametrize(
    ("more", "message"),
    [(["metrics=paper"], r"dino_vits16\.safetensors"), (["metrics=micro"], "clip")],
)
def test_judges_that_are_not_there_are_named_before_anything_is_drawn(
    tmp_path: Path, tiny_micro: Path, more: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    with pytest.raises(UserError, match=message):
        run(words(tiny_micro, out, *METHODS, f"encoders.root={tmp_path / 'empty'}", *more))
    assert not (out / "inputs").exists()


def test_verdicts_count_what_reaches_the_threshold_and_leave_out_what_has_no_answer() -> None:
    good = {"truth_style": 0.9, "truth_identity": 0.75, "truth_side": 1.0}
    bad = {"truth_style": 0.89, "truth_identity": 0.2}
    views = [PairView("", "", {}, {"ours": values}) for values in (good, bad)]
    assert counted(views, "ours") == (
        "style followed in 1 of 2, identity kept in 1 of 2, shadow on the right side in 1 of 1"
    )
    assert views[1].verdict("ours") == ["NOT: style followed", "NOT: identity kept"]


def test_the_demo_is_an_evaluation_that_shows_truth_and_floor(tmp_path: Path, tiny_micro: Path) -> None:
    arguments = [*words(tiny_micro, tmp_path / "demo"), "benchmark.num_subjects=1", "num_scenes=1", "seed=2"]
    page = run_demo(frozen("demo", *of_the_demo(arguments)))
    assert page is not None
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 6
    assert "http" not in text
    found = read_json(page.with_suffix(".json"))
    (pair,) = found["pairs"].items()
    assert pair[0] == "bear-01 in room-01 (photo)", "another seed shows another subject"
    shown = PairView("", "", {}, pair[1])
    for method, counts in found["counts"].items():
        assert counts == counted([shown], method)
        assert all(line.removeprefix("NOT: ") in text for line in shown.verdict(method))
    floor = pair[1]["floor: pasted as it is"]
    assert (floor["outside_equal"], pair[1].keys()) == (1.0, {"ours", "floor: pasted as it is"})
    assert floor["truth_effect_psnr"] < 30
    assert load_rgb(page.with_suffix(".png")).shape[0] == 3
    assert (page.parent / "report.html").is_file()
