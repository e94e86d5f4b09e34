"""Keys go to the same shard for ever: the figures below are fixed on purpose."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from brein.sharding import shard_of


@given(st.text(), st.integers(1, 50))
def test_growing_by_one_shard_moves_keys_only_to_the_new_one(key, shards):
    before, after = shard_of(key, shards), shard_of(key, shards + 1)
    assert 0 <= before < shards
    assert after in (before, shards)


def test_keys_spread_evenly():
    counts = Counter(shard_of(f"document {n}", 8) for n in range(8000))
    assert len(counts) == 8
    assert max(counts.values()) < 1.15 * min(counts.values())


def test_the_assignment_never_changes():
    assert [shard_of(key, 16) for key in ("", "a", "user-7", "ü")] == [6, 10, 5, 9]
