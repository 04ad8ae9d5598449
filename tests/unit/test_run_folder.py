"""The record of a run: who is alive, what another machine may still hold, and what a refused run leaves as it was."""

import subprocess
import sys
from pathlib import Path

import pytest

from magic_insert.config.schema.jobs import StatusConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import as_record, read_json, write_json
from magic_insert.launch.run import JobPlan, RunRecord, list_runs, recorded_run

needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="start times come from /proc")


def finish(folder: Path) -> dict[str, object]:
    """The record of a run in `folder` while it runs; it ends well."""
    with recorded_run(folder, JobPlan("status", "toy:finish"), StatusConfig()):
        record: dict[str, object] = read_json(folder / "run.json")
    return record


def refuse(folder: Path, *written: str) -> None:
    """A run in `folder` with a configuration of its own that refuses its input, after it wrote some files."""
    with recorded_run(folder, JobPlan("card", "toy:refuse"), StatusConfig(root="elsewhere")):
        for name in written:
            (folder / name).touch()
        raise UserError("expected another toy")


def state_of(record: dict[str, object]) -> str:
    return as_record(record, RunRecord, "run.json").state_now


@needs_proc
def test_another_process_with_the_number_of_the_run_is_not_the_run(tmp_path: Path) -> None:
    record = finish(tmp_path)
    assert state_of(record) == "running"
    recycled = {**record, "pid_start_ticks": read_json(tmp_path / "run.json")["pid_start_ticks"] - 1}
    assert state_of(recycled) == "stopped"
    write_json(tmp_path / "run.json", recycled)
    finish(tmp_path)  # the folder is free
    # A record of an older version, or of a machine without /proc, knows no start.
    assert state_of({name: value for name, value in record.items() if name != "pid_start_ticks"}) == "running"
    assert state_of({**record, "pid_start_ticks": None}) == "running"


@needs_proc
def test_the_name_of_a_process_does_not_move_its_start(tmp_path: Path) -> None:
    name = Path("/proc/self/comm")
    before = name.read_text()
    ticks = finish(tmp_path)["pid_start_ticks"]
    name.write_text("a) S 1 (b 2")
    try:
        assert finish(tmp_path)["pid_start_ticks"] == ticks
    finally:
        name.write_text(before)
    assert isinstance(ticks, int)
    assert ticks > 0


def test_a_run_of_another_machine_is_named_with_the_way_out(tmp_path: Path) -> None:
    record = {**finish(tmp_path), "host": "node7", "started": "2030-01-01T00:00:00+00:00"}
    write_json(tmp_path / "run.json", record)
    with pytest.raises(UserError) as told:
        finish(tmp_path)
    assert "a run that node7 started at 2030-01-01T00:00:00+00:00 and has not ended" in str(told.value)
    assert f"if that machine is gone, delete {tmp_path / 'run.json'}" in str(told.value)
    assert read_json(tmp_path / "run.json") == record
    (tmp_path / "run.json").unlink()
    finish(tmp_path)


@pytest.mark.parametrize("there", [("config.yaml", "run.json"), ("config.yaml",), ()], ids=len)
def test_a_refused_run_puts_back_the_files_of_the_run_before(tmp_path: Path, there: tuple[str, ...]) -> None:
    finish(tmp_path)
    for name in {"config.yaml", "run.json"} - set(there):
        (tmp_path / name).unlink()
    if there:
        (tmp_path / "config.yaml").write_bytes(b"# mine, \xff\r\n")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match="another toy"):
        refuse(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_a_refused_run_put_beside_a_new_folder_stays_and_the_folder_goes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another toy"):
        refuse(tmp_path / "runs" / "mine", "../store")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["store"]


@pytest.mark.parametrize("content", ["", "[]", '{"state": 3}', "[" * 100_000, '{"state": "done"}'], ids=len)
def test_a_damaged_record_is_one_line_beside_the_sound_ones(tmp_path: Path, content: str) -> None:
    finish(tmp_path / "sound")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text(content)
    runs, lines = list_runs(tmp_path)
    assert [folder.name for folder, _ in runs] == ["sound"]
    assert len(lines) == 1
    assert str(tmp_path / "damaged" / "run.json") in lines[0]


def test_no_job_writes_where_another_has_and_a_record_by_hand_keeps_nobody_out(tmp_path: Path) -> None:
    write_json(tmp_path / "byhand" / "run.json", {"job": "card", "target": "toy:run"})
    assert list_runs(tmp_path) == ([], [])
    with recorded_run(tmp_path / "byhand", JobPlan("card", "toy:run"), StatusConfig()):
        pass
    assert [record.state for _, record in list_runs(tmp_path)[0]] == ["done"]
    with recorded_run(tmp_path, JobPlan("toybox", "toy:run"), StatusConfig()):
        pass
    before = (tmp_path / "run.json").read_bytes()
    with (
        pytest.raises(UserError, match="a run of insertion, got one of toybox"),
        recorded_run(tmp_path, JobPlan("insertion", "toy:run"), StatusConfig()),
    ):
        pass
    assert (tmp_path / "run.json").read_bytes() == before
    with recorded_run(tmp_path, JobPlan("report", "toy:run"), StatusConfig()):  # adds a page to what is there
        pass


@pytest.mark.parametrize(
    ("ending", "code", "left"),
    [("raise SystemExit(3)", 3, []), ("pass", 0, []), ("raise OSError", 1, ["taken apart"])],
)
def test_a_program_ends_with_its_code_after_what_it_owes(ending: str, code: int, left: list[str]) -> None:
    program = f"""
import atexit, threading, time
from magic_insert.launch.run import ending_at_once
class Module:
    def __del__(self): print("taken apart")
module = Module()
with ending_at_once():
    atexit.register(print, "registered")
    threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
    print("body")
    {ending}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split("\n")[:-1]) == (code, ["body", "thread", "registered", *left])
