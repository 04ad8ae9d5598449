"""Work shared over ranks."""

import pytest

from magic_insert.core import ranks


def test_a_process_launched_alone_is_rank_zero_of_one_and_gets_everything(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (ranks.rank(), ranks.world_size(), ranks.local_rank()) == (0, 1, 0)
    assert ranks.shard("abc") == ["a", "b", "c"]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shards_of_all_ranks_hold_every_item_exactly_once(monkeypatch, world):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    held = []
    for number in range(world):
        monkeypatch.setenv("RANK", str(number))
        held += ranks.shard(list(range(5)))
    assert sorted(held) == list(range(5))
