"""One contract for every index kind × metric × {plain, sharded}."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import faiss
import numpy as np
import pytest
from pydantic import TypeAdapter

from brein import index
from brein.errors import ConfigError, DataError, StorageError
from brein.index import INDEXES, IndexConfig

pytestmark = pytest.mark.usefixtures("one_thread")

DIMENSION, COUNT = 16, 400
IDS = [f"v{row}" for row in range(COUNT)]


class Case(NamedTuple):
    """Parameters of one index, small enough for the vectors here."""

    config: dict
    recall: float  # at least so much of the true ten is found, with or without a filter
    exact: bool  # answers hold the vectors themselves


CASES = {
    "flat": Case({"kind": "IndexFlat"}, 1.0, True),
    "ivf_flat": Case({"kind": "IndexIVFFlat", "nlist": 8, "nprobe": 8}, 1.0, True),
    "ivf_sq8": Case({"kind": "IndexIVFScalarQuantizer", "nlist": 8, "nprobe": 8}, 0.95, False),
    "ivf_pq": Case({"kind": "IndexIVFPQ", "nlist": 4, "nprobe": 4, "M": 8, "nbits": 6}, 0.6, False),
    "hnsw": Case({"kind": "IndexHNSW"}, 0.99, True),
    "hnsw_sq8": Case({"kind": "IndexHNSWSQ"}, 0.95, False),
    "pq": Case({"kind": "IndexPQ", "M": 8, "nbits": 6}, 0.6, False),
    "pq_fastscan": Case({"kind": "IndexPQFastScan", "M": 16}, 0.7, False),
    "refined": Case(
        {"kind": "IndexRefine", "first": {"kind": "IndexPQFastScan", "M": 16}, "clusters": 16}, 0.9, False
    ),
    "refined_disk": Case(
        {"kind": "IndexRefine", "first": {"kind": "IndexPQ", "M": 8, "nbits": 6}, "place": "disk"}, 0.99, True
    ),
    "refined_ivf": Case(
        {
            "kind": "IndexRefine",
            "first": {"kind": "IndexIVFPQ", "nlist": 4, "nprobe": 4, "M": 8, "nbits": 6},
            "clusters": 0,
            "qtype": "QT_8bit",
        },
        0.95,
        False,
    ),
}
METRICS = ("cosine", "inner_product", "l2")


def config_of(name, metric="cosine", shards=1, **changes):
    return TypeAdapter(IndexConfig).validate_python(
        {**CASES[name].config, "metric": metric, "shards": shards, **changes}
    )


def built(config, vectors):
    made = index.create(config, DIMENSION)
    made.add(IDS, vectors)
    return made


EVERY = [
    pytest.param((name, metric, shards), id=f"{name}-{metric}-{shards}")
    for name in CASES
    for metric in METRICS
    for shards in (1, 3)
]


@pytest.fixture(scope="module", params=EVERY)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def config(case):
    return config_of(*case)


@pytest.fixture(scope="module")
def filled(config, vectors):
    """One index for the tests that only read."""
    return built(config, vectors)


@pytest.fixture
def own(config, vectors):
    """An index that the test may change."""
    return built(config, vectors)


@pytest.fixture(
    params=[pytest.param((name, shards), id=f"{name}-{shards}") for name in CASES for shards in (1, 3)]
)
def one_metric(request):
    """What does not depend on the metric is tested with one."""
    name, shards = request.param
    return config_of(name, "cosine", shards)


def exact(vectors, query, metric, among=range(COUNT)):
    """Ids of `among`, nearest first."""
    rows = np.array(among)
    found = vectors[rows]
    if metric == "l2":
        return [IDS[row] for row in rows[np.argsort(np.square(found - query).sum(axis=1))]]
    if metric == "cosine":
        found = found / np.linalg.norm(found, axis=1, keepdims=True)
    return [IDS[row] for row in rows[np.argsort(-(found @ query))]]


def recall(found, truths):
    k = min(len(found[0]), 10)
    return np.mean([len(set(row[:k]) & set(truth[:k])) / k for row, truth in zip(found, truths, strict=True)])


def assert_same(found, expected):
    assert found.ids == expected.ids
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_the_cases_cover_every_kind():
    assert {case.config["kind"] for case in CASES.values()} == set(INDEXES)


# --- search ------------------------------------------------------------------------------------------


def test_returns_the_callers_ids_best_first(filled, queries, config):
    found = filled.search(queries, 5)
    assert found.scores.dtype == np.float32
    assert found.scores.shape == (len(queries), 5)
    steps = np.diff(found.scores, axis=1)
    assert (steps >= 0).all() if config.metric == "l2" else (steps <= 0).all()
    assert all(len(set(row)) == 5 and set(row) <= set(IDS) for row in found.ids)


def test_most_of_the_true_neighbours_are_found(filled, vectors, queries, case):
    name, metric, _ = case
    truths = [exact(vectors, query, metric) for query in queries]
    assert recall(filled.search(queries, 10).ids, truths) >= CASES[name].recall


def test_scores_are_those_of_the_vectors_held(filled, queries, config):
    found = filled.search(queries[:5], 5)
    for query, scores, ids in zip(queries, found.scores, found.ids, strict=False):
        held = filled.vectors(ids)
        if config.metric == "l2":
            expected = np.square(held - query).sum(axis=1)
        else:
            expected = held @ (query / np.linalg.norm(query) if config.metric == "cosine" else query)
        # IndexPQFastScan rounds its distance tables to bytes, so its scores are coarser than its codes.
        tolerance = 0.05 * np.ptp(expected) + 0.3 if config.kind == "IndexPQFastScan" else 1e-3
        np.testing.assert_allclose(scores, expected, atol=tolerance, rtol=1e-3)


def test_what_memory_held_before_changes_no_result(filled, queries, monkeypatch):
    expected, empty = filled.search(queries, 5), np.empty
    for left in (np.finfo(np.float32).min, np.finfo(np.float32).max):

        def memory(*arguments, left=left, **more):
            array = empty(*arguments, **more)
            if array.dtype == np.float32:
                array.fill(left)
            return array

        monkeypatch.setattr(np, "empty", memory)
        assert_same(filled.search(queries, 5), expected)


def test_one_query_and_a_batch_agree(filled, queries):
    batch = filled.search(queries, 5)
    for row, query in enumerate(queries):
        single = filled.search(query[None], 5)
        np.testing.assert_allclose(single.scores[0], batch.scores[row], rtol=1e-4, atol=1e-5)
        close = np.isclose(batch.scores[row][:-1], batch.scores[row][1:], rtol=1e-4, atol=1e-5).any()
        assert close or single.ids[0] == batch.ids[row]


def test_asking_for_more_than_there_is_gives_what_there_is(filled, queries):
    found = filled.search(queries[:2], COUNT + 50)
    assert found.scores.shape == (2, COUNT + 50)
    assert all(sorted(row) == sorted(IDS) for row in found.ids)


def test_no_queries_give_no_rows(filled, vectors):
    assert filled.search(vectors[:0], 3) == (pytest.approx(np.empty((0, 3))), [])
    assert filled.search(vectors[:0], 3, among=["v1"]).ids == []


def test_an_empty_index_finds_nothing(config, vectors, queries):
    made = index.create(config, DIMENSION)
    for ids in (None, ["v1"]):
        assert made.search(queries[:2], 3, among=ids).ids == [[], []]
    made.add(IDS, vectors)
    made.remove(IDS)
    assert len(made) == 0
    for ids in (None, ["v1"]):
        assert made.search(queries[:2], 3, among=ids).ids == [[], []]
    made.add(IDS, vectors)
    assert all(len(row) == 3 for row in made.search(queries[:2], 3).ids)


def test_concurrent_searches_give_the_serial_answers(one_metric, vectors, queries):
    made = built(one_metric, vectors)

    def ask(row):
        query = queries[row : row + 1]
        return made.search(query, 10).ids, made.search(query, 10, IDS[::3]).ids

    serial = [ask(row) for row in range(len(queries))]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(len(queries)))) == serial


def test_a_search_leaves_the_thread_setting_alone(filled, queries):
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        filled.search(queries[:1], 3)
        filled.search(queries, 3, among=IDS[:50])
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)


def threads_started(work):
    """How many threads FAISS starts for a call of `work` where it may use three."""

    def count():
        faiss.omp_set_num_threads(3)  # holds for this thread, which has started none yet
        before = set(os.listdir("/proc/self/task"))
        work()
        return len(set(os.listdir("/proc/self/task")) - before)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(count).result()


@pytest.mark.parametrize("name", CASES)
def test_few_vectors_are_added_and_removed_by_the_calling_thread_alone(name, vectors):
    made = built(config_of(name), vectors)
    for count in (1, 8):
        assert threads_started(lambda count=count: made.remove(IDS[:count])) == 0
        assert threads_started(lambda count=count: made.add(IDS[:count], vectors[:count])) == 0


def test_many_vectors_are_added_by_several_threads(vectors):
    made = built(config_of("ivf_flat"), vectors)
    made.remove(IDS[200:])
    assert threads_started(lambda: made.add(IDS[200:], vectors[200:])) == 2


# --- filters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 1.0])
def test_a_filtered_search_finds_the_nearest_of_what_it_may(filled, vectors, queries, case, share):
    name, metric, _ = case
    rows = np.random.default_rng(2).choice(COUNT, int(share * COUNT), replace=False)
    allowed = {IDS[row] for row in rows}
    found = filled.search(queries, 10, among=allowed).ids
    assert all(len(row) == len(set(row)) == min(10, len(rows)) and set(row) <= allowed for row in found)
    truths = [exact(vectors, query, metric, rows) for query in queries]
    assert recall(found, truths) >= CASES[name].recall


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_a_filtered_search_finds_what_is_far_from_the_query(filled, vectors, queries, case, share):
    name, metric, _ = case
    for query in queries[:10]:
        farthest = exact(vectors, query, metric)[-int(share * COUNT) :]
        (found,) = filled.search(query[None], 10, among=farthest).ids
        assert len(found) == 10
        assert set(found) <= set(farthest)
        if CASES[name].exact:
            assert found == farthest[:10]


def test_a_filter_may_name_what_is_not_there(filled, queries):
    (found,) = filled.search(queries[:1], 10, among=["unknown", "v3", "v4", "v3"]).ids
    assert sorted(found) == ["v3", "v4"]
    for nothing in ([], set(), ["unknown"]):
        assert filled.search(queries[:2], 10, among=nothing).ids == [[], []]


# --- changes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [2, 10])  # more, and fewer, than HNSW builds anew for
def test_removed_vectors_are_never_found_and_the_rest_still_are(own, vectors, queries, case, every):
    name, metric, _ = case
    gone = IDS[::every]
    assert own.remove([*gone, "unknown", gone[0]]) == len(gone)
    assert len(own) == COUNT - len(gone)
    assert gone[0] not in own
    rows = [row for row in range(COUNT) if row % every]
    left = {IDS[row] for row in rows}
    truths = [exact(vectors, query, metric, rows) for query in queries]
    for among in (None, IDS):
        found = own.search(queries, 10, among).ids
        assert all(set(row) <= left and len(row) == 10 for row in found)
        assert recall(found, truths) >= CASES[name].recall
    assert set(own.search(queries[:1], COUNT).ids[0]) <= left


def test_a_removed_id_can_be_added_again_elsewhere(own, vectors, config):
    own.remove(IDS[:9])
    own.add(IDS[:9], vectors[9:18])
    assert len(own) == COUNT
    np.testing.assert_array_equal(own.vectors(IDS[:9]), own.vectors(IDS[9:18]))
    nearest = own.search(own.vectors(["v0"]), 8).ids[0]
    assert config.metric == "inner_product" or {"v0", "v9"} <= set(nearest)


def test_everything_can_be_removed_and_added_again(one_metric, vectors):
    own = built(one_metric, vectors)
    before = own.vectors(IDS)
    own.remove(IDS)
    own.add(IDS, vectors)
    np.testing.assert_array_equal(own.vectors(IDS), before)


def test_bad_input_changes_nothing(filled, vectors):
    for ids, rows in (
        (["a"], vectors[:2]),
        (["a", "a"], vectors[:2]),
        (["b", "v1"], vectors[:2]),
        (["a"], vectors[:1, :8]),
        (["a"], vectors[0]),
        (["a", "b"], np.vstack([vectors[:1], np.full((1, DIMENSION), np.nan, np.float32)])),
        (["a"], np.full((1, DIMENSION), np.inf, np.float32)),
    ):
        with pytest.raises(DataError):
            filled.add(ids, rows)
    for queries, k in ((vectors[:1], 0), (vectors[:1, :8], 5), (vectors[0], 5), (vectors[:1] * np.nan, 5)):
        with pytest.raises(DataError):
            filled.search(queries, k)
    for ids in (["unknown"], ["v1", "unknown"]):
        with pytest.raises(DataError, match="unknown"):
            filled.vectors(ids)
    assert len(filled) == COUNT
    assert "a" not in filled
    assert "b" not in filled


def test_adding_and_removing_nothing_does_nothing(filled, vectors):
    filled.add([], vectors[:0])
    assert filled.remove([]) == filled.remove(["unknown"]) == 0
    assert filled.vectors([]).shape == (0, DIMENSION)
    assert len(filled) == COUNT


def test_vectors_come_back_as_they_are_held(filled, vectors, case):
    name, metric, _ = case
    rows = [7, 3, 399, 7]
    held = filled.vectors([IDS[row] for row in rows])
    assert held.dtype == np.float32
    given = index.normalised(vectors[rows]) if metric == "cosine" else vectors[rows]
    if CASES[name].exact:
        np.testing.assert_array_equal(held, given)
    else:
        errors = np.square(held - given).sum(axis=1) / np.square(given).sum(axis=1)
        assert errors.max() < 0.5


# --- files -------------------------------------------------------------------------------------------


def test_saved_and_loaded_answers_the_same(filled, queries, config, tmp_path):
    index.save(filled, tmp_path, "tag")
    for memory_map in (False, True):
        loaded = index.load(config.model_copy(update={"memory_map": memory_map}), tmp_path, "tag")
        assert len(loaded) == COUNT
        assert loaded.trained_on == filled.trained_on
        np.testing.assert_array_equal(loaded.vectors(IDS[10:15]), filled.vectors(IDS[10:15]))
        for among in (None, IDS[::4]):
            assert_same(loaded.search(queries, 10, among), filled.search(queries, 10, among))


@pytest.mark.parametrize("memory_map", [False, True])
def test_a_loaded_index_can_be_changed_and_saved_over_itself(
    one_metric, vectors, queries, tmp_path, memory_map
):
    config = one_metric.model_copy(update={"memory_map": memory_map})
    own = built(config, vectors)
    own.remove(IDS[3:5])
    index.save(own, tmp_path)
    loaded = index.load(config, tmp_path)
    index.save(loaded, tmp_path)
    for change in (lambda made: made.add(["v3"], vectors[3:4]), lambda made: made.remove(["v20"])):
        change(loaded)
        change(own)
        assert_same(loaded.search(queries, 10), own.search(queries, 10))
    index.save(loaded, tmp_path)
    assert_same(index.load(config, tmp_path).search(queries, 10), own.search(queries, 10))


def test_an_empty_index_can_be_saved(one_metric, vectors, queries, tmp_path):
    empty = index.create(one_metric, DIMENSION)
    index.save(empty, tmp_path)
    loaded = index.load(one_metric, tmp_path)
    assert loaded.search(queries[:1], 3).ids == [[]]
    loaded.add(IDS, vectors)
    loaded.remove(IDS)
    index.save(loaded, tmp_path)
    for memory_map in (False, True):
        again = index.load(one_metric.model_copy(update={"memory_map": memory_map}), tmp_path)
        again.add(IDS, vectors)
        assert len(again.search(queries[:1], 3).ids[0]) == 3


def test_a_changed_file_is_refused(one_metric, vectors, tmp_path):
    index.save(built(one_metric, vectors), tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 3
    for path in files:
        whole = path.read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        for damaged in (flipped, whole[:middle], b"", b"something else entirely"):
            path.write_bytes(damaged)
            with pytest.raises(StorageError, match="rebuild"):
                index.load(one_metric, tmp_path)
        path.unlink()
        with pytest.raises(StorageError, match="rebuild"):
            index.load(one_metric, tmp_path)
        path.write_bytes(whole)
    index.load(one_metric, tmp_path)


def test_files_of_another_index_are_refused(one_metric, vectors, tmp_path):
    index.save(built(one_metric, vectors), tmp_path, "these documents")
    with pytest.raises(StorageError, match="belongs to 'these documents', asked for 'others'; rebuild"):
        index.load(one_metric, tmp_path, "others")
    shards = 4 - one_metric.shards
    with pytest.raises(StorageError, match=r"built with .* asked for .* rebuild"):
        index.load(one_metric.model_copy(update={"shards": shards}), tmp_path, "these documents")


def test_build_parameters_need_a_rebuild(filled, config):
    with pytest.raises(ConfigError, match="rebuild"):
        filled.retune(config.model_copy(update={"shards": 7}))
