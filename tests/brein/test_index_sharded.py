"""A sharded index answers as one index would."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brein import index
from brein.errors import ConfigError, DataError
from brein.index.flat import FlatConfig
from brein.index.hnsw import HNSWConfig
from brein.index.ivf import IVFFlatConfig, IVFScalarQuantizerConfig
from brein.index.plain import PlainIndex
from brein.index.pq import PQConfig, PQFastScanConfig
from brein.index.refined import RefineConfig
from brein.index.sharded import ShardedIndex

pytestmark = pytest.mark.usefixtures("one_thread")

METRICS = ["cosine", "inner_product", "l2"]


def filled(config, ids, rows):
    made = index.create(config, rows.shape[1])
    made.add(ids, rows)
    return made


def assert_same(found, expected):
    assert found.ids == expected.ids
    np.testing.assert_array_equal(found.scores, expected.scores)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shards", [2, 3, 8])
@given(
    ids=st.lists(st.text(max_size=6), unique=True, min_size=1, max_size=60),
    k=st.integers(1, 70),
    data=st.data(),
)
def test_equals_one_flat_index_whatever_was_added_and_removed(metric, shards, ids, k, data):
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    whole_numbers = data.draw(st.booleans())  # with them most scores are equal to others

    def vectors(count):
        made = random.integers(-1, 2, (count, 6)) if whole_numbers else random.normal(size=(count, 6))
        return made.astype(np.float32)

    rows = vectors(len(ids))
    copies = data.draw(st.lists(st.integers(0, len(ids) - 1), max_size=10))
    rows[copies] = rows[0]
    one = index.create(FlatConfig(metric=metric), 6)
    parts = index.create(FlatConfig(metric=metric, shards=shards), 6)
    first = data.draw(st.integers(0, len(ids)))
    gone = data.draw(st.lists(st.sampled_from(ids), unique=True))
    # From 20 queries FAISS multiplies matrices, whose sums depend on their shape unless they are exact.
    queries = np.vstack([rows[:5], vectors(45 if whole_numbers and metric != "cosine" else 10)])
    for made in (one, parts):
        made.add(ids[:first], rows[:first])
        made.remove(gone)
        made.add(ids[first:], rows[first:])
    among = data.draw(st.none() | st.lists(st.sampled_from([*ids, "unknown id"])))
    assert len(parts) == len(one)
    assert_same(parts.search(queries, k, among), one.search(queries, k, among))


@pytest.mark.parametrize("metric", METRICS)
@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_another_number_of_shards_changes_no_answer(metric, counts, seed):
    random = np.random.default_rng(seed)
    rows = random.normal(size=(80, 6)).astype(np.float32)
    rows[10:20] = rows[0]
    ids = [str(row) for row in random.permutation(80)]
    parts = filled(FlatConfig(metric=metric, shards=4), ids, rows)
    parts.remove(ids[5:15])
    expected = parts.search(rows[:10], 30)
    for shards in [*counts, 4]:
        parts.reshard(shards)
        assert len(parts.shards) == parts.config.shards == shards
        assert_same(parts.search(rows[:10], 30), expected)
    parts.add(ids[5:15], rows[5:15])
    one = filled(
        FlatConfig(metric=metric),
        [*ids[:5], *ids[15:], *ids[5:15]],
        rows[[*range(5), *range(15, 80), *range(5, 15)]],
    )
    assert_same(parts.search(rows[:10], 80), one.search(rows[:10], 80))


@pytest.mark.parametrize("metric", METRICS)
def test_equals_one_inverted_file_at_the_same_nprobe(metric):
    random = np.random.default_rng(0)
    rows, queries = (random.normal(size=(count, 16)).astype(np.float32) for count in (500, 15))
    ids = [str(row) for row in range(500)]
    for nprobe in (1, 3, 8):
        config = IVFFlatConfig(metric=metric, nlist=8, nprobe=nprobe)
        one, parts = (filled(config.model_copy(update={"shards": shards}), ids, rows) for shards in (1, 4))
        for query in queries:  # one at a time: FAISS finds the lists of a batch by multiplying matrices
            assert_same(parts.search(query[None], 20), one.search(query[None], 20))


@pytest.mark.parametrize(
    "config",
    [
        HNSWConfig(),
        IVFScalarQuantizerConfig(nlist=8, nprobe=8),
        PQConfig(M=8, nbits=6),
        PQFastScanConfig(M=16),
        RefineConfig(first=PQFastScanConfig(M=16), clusters=16),
        RefineConfig(first=PQConfig(M=8, nbits=6), place="disk"),
    ],
    ids=lambda config: config.kind,
)
def test_every_kind_can_be_resharded_and_saved(config, tmp_path):
    random = np.random.default_rng(0)
    rows = random.normal(size=(400, 16)).astype(np.float32)
    ids = [str(row) for row in range(400)]
    parts = filled(config.model_copy(update={"shards": 3}), ids, rows)
    learnt = parts.trained_on
    expected = parts.search(rows[:30], 10).ids
    for shards in (5, 1, 2):
        parts.reshard(shards)
        found = parts.search(rows[:30], 10).ids
        shared = [len(set(row) & set(other)) for row, other in zip(found, expected, strict=True)]
        assert np.mean(shared) >= 9
        assert parts.trained_on == learnt
        index.save(parts, tmp_path)
        loaded = index.load(parts.config, tmp_path)
        assert isinstance(loaded, PlainIndex if shards == 1 else ShardedIndex)
        found, expected_now = loaded.search(rows[:30], 10), parts.search(rows[:30], 10)
        np.testing.assert_array_equal(found.scores, expected_now.scores)
        # One plain index leaves the order of equal scores to FAISS.
        assert shards == 1 or found.ids == expected_now.ids


def test_codes_that_are_not_of_residuals_stay_as_they_are_when_resharded():
    rows = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
    ids = [str(row) for row in range(400)]
    parts = filled(PQConfig(M=8, nbits=6, shards=2), ids, rows)
    before = parts.vectors(ids)
    parts.reshard(5)
    np.testing.assert_array_equal(parts.vectors(ids), before)


def test_a_number_of_shards_out_of_bounds_changes_nothing():
    rows = np.eye(4, dtype=np.float32)
    parts = filled(FlatConfig(shards=2), ["a", "b", "c", "d"], rows)
    for shards in (0, 257):
        with pytest.raises(ConfigError, match=f"shards = {shards}"):
            parts.reshard(shards)
    assert parts.search(rows[:1], 1).ids == [["a"]]
    assert len(parts.shards) == 2


def test_a_refused_addition_reaches_no_shard():
    rows = np.eye(4, dtype=np.float32)
    parts = filled(FlatConfig(shards=2), ["a", "b"], rows[:2])
    with pytest.raises(DataError):
        parts.add(["c", "a"], rows[2:])
    assert sum(len(shard) for shard in parts.shards) == len(parts) == 2
    parts.add(["c", "d"], rows[2:])
    assert len(parts) == 4


def test_ids_are_spread_over_all_shards():
    rows = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    parts = filled(FlatConfig(shards=8), [str(row) for row in range(1000)], rows)
    sizes = [len(shard) for shard in parts.shards]
    assert sum(sizes) == 1000
    assert min(sizes) > 90
