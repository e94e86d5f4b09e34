"""What only some index kinds do: exact order, learning, building anew, tuning; and the bytes they hold."""

import errno
import itertools
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from brein import index
from brein.errors import ConfigError, DataError, StorageError
from brein.index import IndexConfig
from brein.index.flat import FlatConfig
from brein.index.hnsw import HNSWConfig, HNSWSQConfig
from brein.index.ivf import IVFFlatConfig, IVFPQConfig, IVFScalarQuantizerConfig
from brein.index.pq import PQConfig, PQFastScanConfig
from brein.index.refined import RefineConfig

pytestmark = pytest.mark.usefixtures("one_thread")

DIMENSION, COUNT = 16, 400
IDS = [f"v{row}" for row in range(COUNT)]
FAST = PQFastScanConfig(M=16)


def built(config, vectors):
    made = index.create(config, vectors.shape[1])
    made.add([f"v{row}" for row in range(len(vectors))], vectors)
    return made


# --- exact search ------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("batch", [1, 50])  # FAISS compares 20 queries and more in another way
@given(data=st.data(), seed=st.integers(0, 1000), k=st.sampled_from([1, 2, 7, 99, 120, 400]))
def test_flat_is_exact_with_equal_scores_in_the_order_added(metric, batch, data, seed, k):
    random = np.random.default_rng(seed)
    # Ones and zeros: sums are exact in float32, and most scores are equal to others.
    rows = random.integers(0, 2, size=(150, 4)).astype(np.float32)
    queries = random.integers(0, 2, size=(batch, 4)).astype(np.float32)
    made = index.create(FlatConfig(metric=metric), 4)
    made.add([str(row) for row in range(100)], rows[:100])
    gone = data.draw(st.sets(st.integers(0, 99), max_size=30))
    made.remove([str(row) for row in gone])
    made.add([str(row) for row in range(100, 150)], rows[100:])  # labels that are free again are used here
    left = [row for row in range(150) if row not in gone]
    if metric == "l2":
        keys = np.square(rows[left][None] - queries[:, None]).sum(axis=2)
    else:
        keys = -(queries @ rows[left].T)
    order = [[left[n] for n in row] for row in np.argsort(keys, axis=1, kind="stable")]
    assert made.search(queries, k).ids == [[str(n) for n in row[:k]] for row in order]
    allowed = [str(row) for row in left if row % 3]
    expected = [[str(n) for n in row if n % 3][:k] for row in order]
    assert made.search(queries, k, among=allowed).ids == expected


# --- learning ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "too_few", "names"),
    [
        (IVFFlatConfig(nlist=100), 99, "nlist = 100"),
        (IVFScalarQuantizerConfig(nlist=8, nprobe=1), 255, "range is learnt from = 256"),
        (HNSWSQConfig(), 255, "range is learnt from = 256"),
        (PQConfig(), 255, r"2\^nbits = 256"),
        (IVFPQConfig(nlist=100, M=16, nbits=4), 99, "nlist = 100"),
        (IVFPQConfig(nlist=8, nprobe=8, M=16), 255, r"2\^nbits = 256"),
        (FAST, 15, r"2\^4 = 16"),
        (RefineConfig(first=FAST, clusters=300), 299, "clusters = 300"),
        (RefineConfig(first=FAST, place="disk"), 15, r"2\^4 = 16"),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_too_few_training_vectors_are_refused(config, too_few, names, vectors):
    made = index.create(config, DIMENSION)
    with pytest.raises(DataError, match=names):
        made.add(IDS[:too_few], vectors[:too_few])
    assert len(made) == 0
    assert not made.is_trained
    made.add(IDS[: too_few + 1], vectors[: too_few + 1])
    assert len(made) == too_few + 1


def test_what_learns_nothing_takes_a_single_vector(vectors):
    for config in (FlatConfig(), HNSWConfig(), HNSWSQConfig(qtype="QT_fp16")):
        made = built(config, vectors[:1])
        assert made.search(vectors[:1], 2).ids == [["v0"]]
        assert made.trained_on == 0
        assert not made.outgrown(10**9)


def test_a_training_set_larger_than_is_of_use_is_sampled_always_alike():
    rows = np.random.default_rng(0).normal(size=(1500, 4)).astype(np.float32)
    config = IVFFlatConfig(nlist=4, nprobe=1)
    assert config.training_maximum == 1024
    made = [built(config, rows) for _ in range(2)]
    assert [one.trained_on for one in made] == [1024, 1024]
    assert made[0].search(rows[:50], 5).ids == made[1].search(rows[:50], 5).ids
    small = built(config, rows[:1024])
    assert small.trained_on == 1024


def test_training_comes_before_adding_and_only_once(vectors):
    made = index.create(IVFFlatConfig(nlist=4, nprobe=4), DIMENSION)
    made.train(vectors[:100])
    assert (made.is_trained, made.trained_on, len(made)) == (True, 100, 0)
    made.add(IDS, vectors)
    assert made.trained_on == 100
    with pytest.raises(DataError, match="shape"):
        made.train(vectors[:, :3])


def test_outgrown_is_four_times_what_it_learnt_from_unless_that_was_enough(vectors):
    config = IVFFlatConfig(nlist=4, nprobe=1)
    few = index.create(config, DIMENSION)
    few.train(vectors[:100])
    assert [few.outgrown(count) for count in (100, 399, 400)] == [False, False, True]
    many = index.create(config, 2)
    many.train(np.random.default_rng(0).normal(size=(1024, 2)).astype(np.float32))
    assert not many.outgrown(10**9)


@pytest.mark.parametrize(
    "config", [PQConfig(), IVFPQConfig(M=16), PQFastScanConfig(M=16)], ids=lambda config: config.kind
)
def test_codes_must_divide_the_dimension(config):
    with pytest.raises(DataError, match=r"index\.M = 16 does not divide the dimension 100"):
        index.create(config, 100)


def test_settings_that_do_not_fit_are_refused():
    for wrong, message in (
        ({"kind": "IndexIVFFlat", "nlist": 4, "nprobe": 5}, "nprobe = 5: must be at most nlist = 4"),
        ({"kind": "IndexRefine", "metric": "l2", "first": {"kind": "IndexPQ", "metric": "cosine"}}, "metric"),
        ({"kind": "IndexRefine", "first": {"kind": "IndexPQ", "shards": 2}}, "shards of the whole"),
        ({"kind": "IndexIVFPQ", "nbits": 6, "device": "gpu"}, "nbits = 6: must be 8"),
        ({"kind": "IndexHNSW", "nprobe": 5}, "nprobe"),
    ):
        with pytest.raises(ValueError, match=message):
            TypeAdapter(IndexConfig).validate_python(wrong)


# --- changes -----------------------------------------------------------------------------------------


def test_labels_are_used_again_so_that_the_table_does_not_grow(vectors):
    made = built(FlatConfig(), vectors)
    before = made.footprint().resident["ids"]
    for start in range(0, 200, 20):
        made.remove(IDS[start : start + 20])
        made.add([f"new{start + n}" for n in range(20)], vectors[start : start + 20])
    assert made.search(vectors[:1], 1).ids == [["new0"]]
    assert made.footprint().resident["ids"] < 1.1 * before


def test_a_refined_index_uses_the_rows_of_removed_vectors_again(vectors):
    for place in ("memory", "disk"):
        made = built(RefineConfig(first=FAST, clusters=16, place=place), vectors)
        before = {part: size for parts in made.footprint() for part, size in parts.items()}["refinement"]
        made.remove(IDS[100:200])
        made.add(IDS[100:200], vectors[100:200])
        after = {part: size for parts in made.footprint() for part, size in parts.items()}["refinement"]
        assert after == before


@pytest.mark.parametrize("config", [HNSWConfig(), HNSWSQConfig()], ids=lambda config: config.kind)
def test_a_graph_is_built_anew_when_enough_of_it_is_gone(config, vectors):
    made = built(config, vectors)
    whole = made.footprint().resident["codes"]
    made.remove(IDS[:99])
    assert made.footprint().resident["codes"] == whole  # masked
    made.remove(IDS[99:100])
    assert made.footprint().resident["codes"] == whole * 300 / 400  # a quarter: built anew


@pytest.mark.parametrize("k", [10, 100])
def test_a_graph_with_most_of_it_masked_still_finds_all_that_is_left(vectors, queries, k):
    made = built(HNSWConfig(metric="l2", rebuild_at=1.0, efSearch=16), vectors)
    left = list(range(0, COUNT, 10))
    made.remove([id_ for row, id_ in enumerate(IDS) if row % 10])
    exact = built(FlatConfig(metric="l2"), vectors[left])
    for query in queries:
        (found,) = made.search(query[None], k).ids
        assert found == [f"v{10 * int(id_[1:])}" for id_ in exact.search(query[None], k).ids[0]]
    made.add(["back"], queries[:1])
    assert made.search(queries[:1], 1).ids == [["back"]]


@pytest.mark.parametrize(
    ("built_with", "asked"),
    [
        (IVFFlatConfig(nlist=8, nprobe=1), {"nprobe": 8}),
        (IVFScalarQuantizerConfig(nlist=8, nprobe=1), {"nprobe": 8}),
        (IVFPQConfig(nlist=8, nprobe=1, M=8, nbits=6), {"nprobe": 8}),
        (HNSWConfig(efSearch=1), {"efSearch": 200}),
        (HNSWSQConfig(efSearch=1), {"efSearch": 200}),
        (RefineConfig(first=FAST, clusters=16, k_factor=1), {"k_factor": 20}),
        (
            RefineConfig(first=IVFPQConfig(nlist=8, nprobe=1, M=8, nbits=6), place="disk"),
            {"first": IVFPQConfig(nlist=8, nprobe=8, M=8, nbits=6)},
        ),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
@pytest.mark.parametrize("shards", [1, 3])
def test_query_parameters_change_without_a_rebuild(vectors, tmp_path, built_with, asked, shards):
    poor = built_with.model_copy(update={"shards": shards})
    rich = poor.model_copy(update=asked)
    made = built(poor, vectors)
    before = made.search(vectors, 10).ids
    made.retune(rich)
    assert made.config == rich
    after = made.search(vectors, 10).ids
    assert after != before, f"{asked} has no effect"
    index.save(made, tmp_path)
    assert index.load(rich, tmp_path).search(vectors, 10).ids == after
    assert index.load(poor, tmp_path).search(vectors, 10).ids == before
    made.retune(poor)
    assert made.search(vectors, 10).ids == before
    with pytest.raises(ConfigError, match="rebuild"):
        made.retune(rich.model_copy(update={"metric": "l2"}))


def test_a_query_of_zeros_still_finds_as_many_as_asked(vectors):
    for metric in ("cosine", "inner_product"):
        made = built(PQFastScanConfig(M=16, metric=metric), vectors)
        assert len(set(made.search(np.zeros((1, DIMENSION), np.float32), 5).ids[0])) == 5


@pytest.mark.parametrize("failing", [0, 1, 2], ids="write {}".format)
def test_a_full_disk_changes_nothing(vectors, queries, monkeypatch, failing):
    made = built(RefineConfig(first=FAST, place="disk", shards=3), vectors[:300])
    before = made.search(queries, 10)
    write, writes = os.pwrite, itertools.count()

    def write_until_full(*given):
        if next(writes) >= failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*given)

    monkeypatch.setattr(os, "pwrite", write_until_full)
    with pytest.raises(StorageError, match="No space left on device; make room"):
        made.add(IDS[300:], vectors[300:])
    monkeypatch.undo()
    assert len(made) == 300
    after = made.search(queries, 10)
    assert after.ids == before.ids
    np.testing.assert_array_equal(after.scores, before.scores)
    made.add(IDS[300:], vectors[300:])
    assert len(made) == COUNT


# --- what they hold ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "resident", "on_disk"),
    [
        (FlatConfig(), {"codes": 4 * DIMENSION * COUNT}, {}),
        (
            IVFFlatConfig(nlist=8, nprobe=1),
            {"codes": 4 * DIMENSION * COUNT, "centroids": 4 * DIMENSION * 8},
            {},
        ),
        (
            IVFScalarQuantizerConfig(nlist=8, nprobe=1),
            {"codes": DIMENSION * COUNT, "centroids": 4 * DIMENSION * (8 + 2)},
            {},
        ),
        (
            IVFPQConfig(nlist=8, nprobe=1, M=8, nbits=6),
            {"codes": 8 * 6 // 8 * COUNT, "centroids": 4 * DIMENSION * (8 + 64)},
            {},
        ),
        (HNSWConfig(), {"codes": 4 * DIMENSION * COUNT}, {}),
        (HNSWSQConfig(), {"codes": DIMENSION * COUNT}, {}),
        (PQConfig(M=8, nbits=6), {"codes": 8 * 6 // 8 * COUNT, "centroids": 4 * DIMENSION * 64}, {}),
        (FAST, {"codes": 16 * 4 // 8 * COUNT, "centroids": 4 * DIMENSION * 16}, {}),
        (
            RefineConfig(first=FAST, clusters=16),
            {
                "codes": 16 * 4 // 8 * COUNT,
                "refinement": (DIMENSION * 6 // 8 + 1) * COUNT,
                "centroids": 4 * DIMENSION * (16 + 16 + 2),
            },
            {},
        ),
        (
            RefineConfig(first=FAST, place="disk"),
            {"codes": 16 * 4 // 8 * COUNT, "centroids": 4 * DIMENSION * 16},
            {"refinement": 4 * DIMENSION * COUNT},
        ),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_bytes_are_counted_by_part(config, resident, on_disk, vectors, tmp_path):
    made = built(config, vectors)
    found = made.footprint()
    ids = found.resident["ids"]
    assert ids > COUNT * (8 + 8)
    links = found.resident.get("links", 0)
    assert (links > COUNT * 4 * config.M) if "HNSW" in config.kind else not links
    assert found.on_disk == on_disk
    parts = {part: size for part, size in found.resident.items() if part not in ("ids", "links")}
    assert parts == resident

    index.save(made, tmp_path)
    mapped = index.load(config.model_copy(update={"memory_map": True}), tmp_path).footprint()
    if config.kind in ("IndexPQFastScan", "IndexRefine"):  # FAISS maps none of these codes
        assert mapped.on_disk == on_disk
    else:
        assert mapped.on_disk["codes"] == resident["codes"]
        assert "codes" not in mapped.resident
    sharded = built(config.model_copy(update={"shards": 3}), vectors).footprint()
    assert sharded.resident.get("codes") == resident.get("codes")
    assert sharded.on_disk == on_disk
