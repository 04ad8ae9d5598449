"""What a table of runs says of a bootstrap: the numbers of the round it kept, all of one round."""

from pathlib import Path

from rounds_sample import sample_row, write_run

from magic_insert.core.jsonl import write_json
from magic_insert.launch.results import SHOWN_OF_ROUNDS, flat_numbers, read_numbers


def test_a_bootstraps_numbers_are_those_of_the_round_it_kept_and_say_which(tmp_path: Path) -> None:
    write_run(tmp_path, rounds=3)
    assert read_numbers(tmp_path) == flat_numbers(sample_row(3))
    for kept in (1, 0):
        write_json(tmp_path / "card.json", {"round": kept})
        numbers = read_numbers(tmp_path)
        assert numbers == flat_numbers(sample_row(kept))
        assert numbers["round"] == kept
    assert set(SHOWN_OF_ROUNDS) <= set(read_numbers(tmp_path)) | {"filter.precision", "filter.recall"}
