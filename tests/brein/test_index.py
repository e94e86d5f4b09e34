"""One contract for every index kind and metric; then what only one kind does."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from brein import index
from brein.errors import ConfigError, DataError, StorageError
from brein.index import INDEXES, IndexConfig
from brein.index.hnsw import HNSWConfig
from brein.index.ivf_flat import IVFFlatConfig
from brein.index.pq import PQConfig

DIMENSION = 16
SMALL = {"IndexIVFFlat": {"nlist": 8, "nprobe": 8}, "IndexPQ": {"M": 8, "nbits": 6}}
METRICS = ("cosine", "inner_product", "l2")


def config_of(kind, metric="cosine", **changes):
    return TypeAdapter(IndexConfig).validate_python(
        {"kind": kind, "metric": metric, **SMALL.get(kind, {}), **changes}
    )


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(300, DIMENSION)).astype(np.float32)


@pytest.fixture(params=[(kind, metric) for kind in INDEXES for metric in METRICS], ids="-".join)
def config(request):
    return config_of(*request.param)


@pytest.fixture
def filled(config, vectors):
    made = index.create(config, DIMENSION)
    made.add([f"v{row}" for row in range(len(vectors))], vectors)
    return made


def exact_order(vectors, query, metric):
    if metric == "l2":
        return np.argsort(np.square(vectors - query).sum(axis=1), kind="stable")
    if metric == "cosine":
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.argsort(-(vectors @ query), kind="stable")


def test_returns_the_callers_ids_best_first(filled, vectors, config):
    found = filled.search(vectors[:20], 5)
    nearer_first = np.diff(found.scores, axis=1)
    assert (nearer_first >= 0).all() if config.metric == "l2" else (nearer_first <= 0).all()
    assert all(set(row) <= {f"v{n}" for n in range(300)} and len(set(row)) == 5 for row in found.ids)
    assert found.scores.dtype == np.float32


def test_most_of_the_true_neighbours_are_found(filled, vectors, config):
    queries = np.random.default_rng(1).normal(size=(50, DIMENSION)).astype(np.float32)
    hits = sum(
        len(set(row) & {f"v{n}" for n in exact_order(vectors, query, config.metric)[:10]})
        for query, row in zip(queries, filled.search(queries, 10).ids, strict=True)
    )
    floor = {"IndexFlat": 1.0, "IndexIVFFlat": 1.0, "IndexHNSW": 0.9, "IndexPQ": 0.45}[config.kind]
    assert hits / 500 >= floor


def test_one_query_and_a_batch_agree(filled, vectors):
    batch = filled.search(vectors[:10], 5)
    singles = [filled.search(vectors[row : row + 1], 5) for row in range(10)]
    assert [single.ids[0] for single in singles] == batch.ids


def test_removed_vectors_are_never_found_and_the_rest_still_are(filled, vectors):
    gone = [f"v{row}" for row in range(0, 300, 2)]
    assert filled.remove([*gone, "unknown", gone[0]]) == 150
    assert len(filled) == 150
    found = filled.search(vectors[:30], 150)
    assert not {id_ for row in found.ids for id_ in row} & set(gone)
    assert filled.search(vectors[1:2], 1).ids[0]


def test_a_removed_id_can_be_added_again_elsewhere(filled, vectors):
    filled.remove(["v7"])
    filled.add(["v7"], vectors[7:8])
    assert len(filled) == 300
    assert "v7" in filled.search(vectors[7:8], 300).ids[0]


def test_saved_and_loaded_answers_the_same(filled, vectors, config, tmp_path):
    filled.remove(["v3", "v4"])
    filled.save(tmp_path)
    loaded = index.load(config, DIMENSION, tmp_path)
    before, after = filled.search(vectors[:20], 10), loaded.search(vectors[:20], 10)
    assert before.ids == after.ids
    np.testing.assert_array_equal(before.scores, after.scores)
    assert len(loaded) == 298
    loaded.add(["v3"], vectors[3:4])
    assert loaded.remove(["v3"]) == 1


@pytest.mark.parametrize("file", ["index.faiss", "index.json"])
def test_a_damaged_file_is_refused(filled, config, tmp_path, file):
    filled.save(tmp_path)
    whole = (tmp_path / file).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"something else entirely"):
        (tmp_path / file).write_bytes(damaged)
        with pytest.raises(StorageError, match="rebuild"):
            index.load(config, DIMENSION, tmp_path)


def test_files_of_another_index_are_refused(filled, config, tmp_path):
    filled.save(tmp_path)
    other = "l2" if config.metric != "l2" else "cosine"
    with pytest.raises(StorageError, match="built with"):
        index.load(config.model_copy(update={"metric": other}), DIMENSION, tmp_path)
    with pytest.raises(StorageError, match="dimension"):
        index.load(config, DIMENSION * 2, tmp_path)
    facts = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(facts | {"size": 7}))
    with pytest.raises(StorageError, match="expected 7"):
        index.load(config, DIMENSION, tmp_path)


def test_an_unwritable_folder_is_an_error(filled, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        filled.save(tmp_path / "file")


def test_bad_input_changes_nothing(filled, vectors):
    for ids, rows in (
        (["a"], vectors[:2]),
        (["a", "a"], vectors[:2]),
        (["v1"], vectors[:1]),
        (["a"], vectors[:1, :8]),
        (["a"], vectors[0]),
    ):
        with pytest.raises(DataError):
            filled.add(ids, rows)
    for queries, k in ((vectors[:1], 0), (vectors[:1, :8], 5), (vectors[0], 5)):
        with pytest.raises(DataError):
            filled.search(queries, k)
    assert len(filled) == 300


def test_a_search_leaves_the_thread_setting_alone(filled, vectors):
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        filled.search(vectors[:1], 3)
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)


def test_asking_for_more_than_there_is_gives_what_there_is(filled, vectors):
    found = filled.search(vectors[:1], 1000)
    assert 0 < len(found.ids[0]) <= 300


@given(
    ids=st.lists(st.text(max_size=5), unique=True, min_size=1, max_size=20),
    k=st.integers(1, 30),
    data=st.data(),
)
def test_flat_equals_exact_search_after_any_removals(ids, k, data):
    rows = np.random.default_rng(len(ids)).normal(size=(len(ids), 4)).astype(np.float32)
    made = index.create(config_of("IndexFlat", "l2"), 4)
    made.add(ids, rows)
    gone = data.draw(st.lists(st.sampled_from(ids), unique=True))
    made.remove(gone)
    kept = [row for row, id_ in enumerate(ids) if id_ not in gone]
    order = exact_order(rows[kept], rows[0], "l2")[:k]
    assert made.search(rows[:1], k).ids[0] == [ids[kept[n]] for n in order]


@pytest.mark.parametrize(
    ("config", "too_few", "names"),
    [(IVFFlatConfig(nlist=100), 99, "nlist = 100"), (PQConfig(), 255, r"2\^nbits = 256")],
)
def test_too_few_training_vectors_are_refused(config, too_few, names):
    rows = np.random.default_rng(0).normal(size=(too_few + 1, DIMENSION)).astype(np.float32)
    made = index.create(config, DIMENSION)
    with pytest.raises(DataError, match=names):
        made.add([str(row) for row in range(too_few)], rows[:-1])
    made.add([str(row) for row in range(too_few + 1)], rows)
    assert len(made) == too_few + 1


@pytest.mark.parametrize(
    ("built", "asked", "parameter"),
    [
        (IVFFlatConfig(nlist=8, nprobe=1), IVFFlatConfig(nlist=8, nprobe=8), "nprobe"),
        (HNSWConfig(efSearch=1), HNSWConfig(efSearch=200), "efSearch"),
    ],
)
def test_query_parameters_change_without_a_rebuild(vectors, tmp_path, built, asked, parameter):
    made = index.create(built, DIMENSION)
    made.add([str(row) for row in range(300)], vectors)
    poor = made.search(vectors, 10).ids
    made.retune(asked)
    rich = made.search(vectors, 10).ids
    assert poor != rich, f"{parameter} has no effect"
    made.save(tmp_path)
    assert index.load(asked, DIMENSION, tmp_path).search(vectors, 10).ids == rich
    with pytest.raises(ConfigError, match="rebuild"):
        made.retune(asked.model_copy(update={"metric": "l2"}))


def test_pq_must_divide_the_dimension():
    with pytest.raises(DataError, match=r"index\.M = 16 does not divide the dimension 100"):
        index.create(PQConfig(), 100)


def test_stored_bytes_are_what_the_index_holds(vectors):
    made = index.create(config_of("IndexFlat", "l2"), DIMENSION)
    empty = made.stored_bytes()
    made.add([str(row) for row in range(300)], vectors)
    per_vector = (made.stored_bytes() - empty) / 300
    assert per_vector == 4 * DIMENSION + 8  # the components and the label
