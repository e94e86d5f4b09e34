"""Shards as files: cut from the documents, built by themselves, together the index of an engine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brein import Document, Engine, EngineConfig, storage
from brein.embedding.hashing import HashingConfig
from brein.errors import StorageError
from brein.index.flat import FlatConfig
from brein.index.hnsw import HNSWConfig
from brein.index.ivf import IVFFlatConfig, IVFPQConfig
from brein.index.pq import PQConfig
from brein.index.refined import RefineConfig
from brein.index.sharded import merged
from brein.scaling.shards import Builder, Shard, batches, plan, train
from brein.sharding import shard_of
from brein.storage import StorageConfig

pytestmark = pytest.mark.usefixtures("one_thread")

METRICS = ["cosine", "inner_product", "l2"]
COUNT, SHARDS = 400, 3


def config(folder, index):
    return EngineConfig(path=folder, index=index, embedding=HashingConfig(dimension=16))


def filled(folder, index, rows, ids=None):
    """An engine folder that was filled and closed; its index is saved in the order of the ids."""
    ids = ids or [f"document {row}" for row in range(len(rows))]
    with Engine.open(config(folder, index)) as engine:
        engine.ingest([Document(id_, f"text of {id_}") for id_ in ids], rows)
    return folder


def served(folder, index, to):
    """The shards of an engine's index, built and loaded."""
    store = storage.create(StorageConfig(), folder)
    try:
        planned = plan(store, index.model_copy(update={"shards": SHARDS}), to)
        train(store, planned)
        builders = [Builder(planned, number) for number in range(SHARDS)]
        assert not planned.is_built
        for parts in batches(store, folder / "index", SHARDS):
            for builder, part in zip(builders, parts, strict=True):
                builder.add(part)
        for builder in builders:
            builder.save()
        assert planned.is_built
        return planned, [Shard(planned, number) for number in range(SHARDS)]
    finally:
        store.close()


def search(shards, query, k, metric, among=None):
    parts, orders = zip(*(shard.search(query[None, :], k, among) for shard in shards), strict=True)
    found = merged(parts, orders, k, metric)
    return list(zip(found.ids[0], found.scores[0].tolist(), strict=False))


def ranking(hits):
    return [(hit.id, hit.score) for hit in hits]


@pytest.mark.parametrize("metric", METRICS)
def test_flat_shards_find_what_one_index_finds_equal_scores_in_its_order(tmp_path, metric, vectors, queries):
    rows = np.vstack([vectors, np.repeat(vectors[:20], 3, axis=0)])  # every twentieth is there four times
    ids = [f"{row}" for row in np.random.default_rng(2).permutation(len(rows))]
    flat = FlatConfig(metric=metric)
    folder = filled(tmp_path / "engine", flat, rows, ids)
    _, shards = served(folder, flat, tmp_path / "shards")
    with Engine.open(config(folder, flat)) as engine:
        for query in [*queries, *vectors[:20]]:
            for k in (1, 10, len(rows)):
                assert search(shards, query, k, metric) == ranking(engine.search(query, k))


@pytest.mark.parametrize(
    "index",
    [
        HNSWConfig(M=8, efConstruction=40, efSearch=16),
        IVFFlatConfig(nlist=4, nprobe=2),
        IVFPQConfig(nlist=4, nprobe=2, M=4, nbits=4),
        PQConfig(M=4, nbits=4),
    ],
    ids=lambda index: index.kind,
)
@pytest.mark.parametrize("metric", METRICS)
def test_approximate_shards_find_what_an_index_in_as_many_shards_finds(
    tmp_path, index, metric, vectors, queries
):
    index = index.model_copy(update={"metric": metric})
    folder = filled(tmp_path / "engine", FlatConfig(metric=metric), vectors)
    sharded = config(folder, index.model_copy(update={"shards": SHARDS}))
    with Engine.open(sharded) as engine:  # builds that index from the documents, in their store's order
        expected = [ranking(engine.search(query, 10)) for query in queries]
    _, shards = served(folder, index, tmp_path / "shards")
    assert [search(shards, query, 10, metric) for query in queries] == expected


@pytest.mark.parametrize("metric", METRICS)
@given(lost=st.sets(st.integers(0, SHARDS - 1), max_size=SHARDS - 1), k=st.integers(1, 500), data=st.data())
def test_without_some_shards_exactly_their_documents_are_missing(whole, metric, lost, k, data):
    shards, vectors = whole[metric]
    query = vectors[data.draw(st.integers(0, COUNT - 1))]
    among = data.draw(st.none() | st.sets(st.integers(0, COUNT + 50), min_size=1, max_size=30))
    allowed = None if among is None else [f"document {row}" for row in among]
    everything = search(shards, query, COUNT, metric, allowed)
    left = [shard for number, shard in enumerate(shards) if number not in lost]
    expected = [pair for pair in everything if shard_of(pair[0], SHARDS) not in lost]
    assert search(left, query, k, metric, allowed) == expected[:k]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, vectors):
    made = {}
    for metric in METRICS:
        folder = tmp_path_factory.mktemp(metric)
        flat = FlatConfig(metric=metric)
        filled(folder / "engine", flat, vectors)
        _, shards = served(folder / "engine", flat, folder / "shards")
        made[metric] = shards, vectors
    return made


def test_a_shard_may_be_empty_and_too_few_to_train_on_are_compared_exactly(tmp_path, vectors):
    folder = filled(tmp_path / "engine", FlatConfig(), vectors[:2])
    planned, shards = served(folder, PQConfig(M=4, nbits=8), tmp_path / "shards")
    assert planned.config.kind == "IndexFlat"
    assert sorted(len(shard.index) for shard in shards)[0] == 0
    with Engine.open(config(folder, FlatConfig())) as engine:
        assert search(shards, vectors[5], 10, "cosine") == ranking(engine.search(vectors[5], 10))


def test_refined_shards_are_whole(tmp_path, vectors, queries):
    index = RefineConfig(first=PQConfig(M=4, nbits=4), k_factor=100, clusters=4)
    folder = filled(tmp_path / "engine", FlatConfig(), vectors)
    _, shards = served(folder, index, tmp_path / "shards")
    assert sum(len(shard.index) for shard in shards) == COUNT
    assert len(search(shards, queries[0], 50, "cosine")) == 50


def test_a_change_of_documents_or_index_is_another_generation_and_the_older_is_swept(tmp_path, vectors):
    folder, to = filled(tmp_path / "engine", FlatConfig(), vectors), tmp_path / "shards"
    first, _ = served(folder, FlatConfig(), to)
    other, _ = served(folder, FlatConfig(metric="l2"), to)
    filled(folder, FlatConfig(), vectors[:1], ["another"])
    last, _ = served(folder, FlatConfig(), to)
    ours = last.folder.parent
    (ours / "not ours").mkdir()
    assert len({first.folder, other.folder, last.folder}) == 3
    last.sweep()
    assert sorted(path.name for path in ours.iterdir()) == sorted([last.folder.name, "not ours"])


def test_one_folder_holds_the_shards_of_several_stores(tmp_path, vectors):
    to = tmp_path / "shards"
    folders = [filled(tmp_path / name, FlatConfig(), vectors) for name in ("one", "other")]
    one, other = (served(folder, FlatConfig(), to)[0] for folder in folders)
    other.sweep()
    assert one.is_built
    assert other.is_built


@pytest.mark.parametrize("damage", ["order", "missing"])
def test_a_damaged_shard_is_refused_by_its_path(tmp_path, vectors, damage):
    planned, _ = served(filled(tmp_path / "engine", FlatConfig(), vectors), FlatConfig(), tmp_path / "shards")
    order = planned.folder / "shard-1" / "order"
    if damage == "order":
        order.write_bytes(order.read_bytes()[:-8])
    else:
        order.unlink()
    with pytest.raises(StorageError, match=str(planned.folder / "shard-1")):
        Shard(planned, 1)
