"""Rows are judged and stored by units (track, method, subject), each once.

A stored unit names what its numbers depend on: the benchmark, the cards, the pictures' bytes, and the code's version.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.data.benchmarks import Benchmark
from magic_insert.evaluation.entries import Entry
from magic_insert.evaluation.features import WORKERS, Picture
from magic_insert.evaluation.judge import Judges, judge, pictures_of
from magic_insert.evaluation.rows import Row, check_row

VERSION = 1  # of what the numbers mean: raised when scores.py or judge.py change them

Unit = tuple[str, str, str]


def unit_file(out: Path, unit: Unit) -> Path:
    """Where the rows of a unit are stored."""
    track, method, subject = unit
    return out / "rows" / track / method.replace(":", "-") / f"{subject}.json"


def stored_rows(out: Path, unit: Unit, inputs: str) -> list[Row] | None:
    """The rows of a unit that was judged on the same inputs; None when it has to be judged (again).

    Raises:
        UserError: the file is damaged.
    """
    path = unit_file(out, unit)
    if not path.is_file():
        return None
    stored = read_json(path)
    if not isinstance(stored, dict) or stored.get("inputs") != inputs:
        return None
    return [check_row(row, str(path)) for row in stored["rows"]]


def unit_inputs(
    entries: Sequence[Entry], bench: Benchmark, keys: Mapping[Picture, str], judges: Judges
) -> str:
    """A digest of everything the rows of a unit depend on."""
    pictures = [[e.pair.pair_id, e.seed, [keys[p] for p in pictures_of(e)]] for e in entries]
    pairs = {entry.pair.pair_id: entry.pair for entry in entries}
    references = [
        [keys[Picture(bench.subject_file(p.subject))], keys[Picture(bench.background_file(p.background))]]
        for p in pairs.values()
    ]
    return digest([VERSION, bench.digest, dict(judges.cards), pictures, references])


def judge_unit(
    out: Path,
    unit: Unit,
    entries: Sequence[Entry],
    bench: Benchmark,
    keys: Mapping[Picture, str],
    judges: Judges,
) -> list[Row]:
    """The rows of a unit, stored and returned.

    Raises:
        UserError: a picture is damaged or has a wrong size; names the file.
    """
    inputs = unit_inputs(entries, bench, keys, judges)
    rows = stored_rows(out, unit, inputs)
    if rows is None:
        rows = [judge(out, entry, bench, keys, judges) for entry in entries]
        write_json(unit_file(out, unit), {"inputs": inputs, "rows": rows})
    return rows


def judge_all(
    out: Path,
    units: Sequence[tuple[Unit, Sequence[Entry]]],
    bench: Benchmark,
    keys: Mapping[Picture, str],
    judges: Judges,
    on_row: Callable[[int], None],
) -> None:
    """Judges `units`, several at a time, storing each as it is done; `on_row` hears how many rows are done.

    Judging is decoding and arithmetic, both of which leave Python's lock, so threads are enough. The first error ends
    it; units that are done by then are kept.
    """
    with ThreadPoolExecutor(WORKERS) as pool:
        tasks = {
            pool.submit(judge_unit, out, unit, own, bench, keys, judges): len(own) for unit, own in units
        }
        try:
            for task in as_completed(tasks):
                task.result()
                on_row(tasks[task])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def collect(
    out: Path,
    units: Sequence[tuple[Unit, Sequence[Entry]]],
    bench: Benchmark,
    keys: Mapping[Picture, str],
    judges: Judges,
) -> list[Row]:
    """The stored rows of all units.

    Raises:
        UserError: a unit has none.
    """
    rows: list[Row] = []
    for unit, entries in units:
        found = stored_rows(out, unit, unit_inputs(entries, bench, keys, judges))
        if found is None:
            raise UserError(f"expected rows in {unit_file(out, unit)}, got none; run the same command again")
        rows += found
    return rows
