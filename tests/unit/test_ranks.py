"""Work shared over ranks."""

import pytest

from magic_insert.core import ranks


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shards_of_all_ranks_hold_every_item_exactly_once(monkeypatch, world):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    held = []
    for number in range(world):
        monkeypatch.setenv("RANK", str(number))
        held += ranks.shard(list(range(5)))
    assert sorted(held) == list(range(5))
