"""The engine through its front door, with every index kind; hashed words stand in for the model."""

import threading

import numpy as np
import pytest
from pydantic import TypeAdapter

from brein import Document, Engine, EngineConfig
from brein.errors import ClosedError, ConfigError, DataError, StorageError
from brein.index import INDEXES, IndexConfig
from brein.retrieval.pipeline import LexicalConfig, RetrievalConfig

LISTS = {"nlist": 4, "nprobe": 4}
SMALL = {
    "IndexIVFFlat": LISTS,
    "IndexIVFScalarQuantizer": {**LISTS, "qtype": "QT_fp16"},
    "IndexIVFPQ": {**LISTS, "M": 16, "nbits": 4},
    "IndexHNSWSQ": {"qtype": "QT_fp16"},
    "IndexPQ": {"M": 16, "nbits": 4},
    "IndexPQFastScan": {"M": 16},
    "IndexRefine": {"first": {"kind": "IndexPQFastScan", "M": 16}, "clusters": 4, "qtype": "QT_fp16"},
}
WORDS = ["river", "stone", "cloud", "ember", "willow", "harbour", "lantern", "meadow", "copper", "thistle"]
DOCUMENTS = [
    Document(f"d{n}", f"{WORDS[n % 10]} {WORDS[n // 10 % 10]} note {n}", {"n": n}) for n in range(60)
]

VECTORS_ALONE = RetrievalConfig(lexical=LexicalConfig(enabled=False), reranker=None)


def config_of(path, kind="IndexFlat", **parts):
    index = TypeAdapter(IndexConfig).validate_python({"kind": kind, **SMALL.get(kind, {})})
    return EngineConfig.model_validate(
        {"path": path, "embedding": {"kind": "hashing", "dimension": 64}, **parts}
    ).model_copy(update={"index": index})


@pytest.fixture(params=[*INDEXES, "in parts"])
def config(request, tmp_path):
    """Every index kind; and one engine of which everything is in several parts."""
    if request.param != "in parts":
        return config_of(tmp_path / "engine", request.param)
    cache = {"l2": {"enabled": True}, "l3": {"enabled": True}}
    made = config_of(tmp_path / "engine", storage={"shards": 3}, cache=cache)
    return made.model_copy(update={"index": made.index.model_copy(update={"shards": 2})})


@pytest.fixture
def engine(config):
    with Engine.open(config) as opened:
        opened.ingest(DOCUMENTS)
        yield opened


def saved_index(config):
    return next((config.path / "index").rglob("index.faiss"))


def ids(hits):
    return [hit.id for hit in hits]


def test_finds_the_document_that_has_the_words(engine):
    hits = engine.search(DOCUMENTS[23].text, 5)
    assert hits[0].id == "d23"
    assert hits[0].text == DOCUMENTS[23].text
    assert len(hits) == 5
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_vector_finds_what_its_text_finds(engine):
    vector = engine._queries.embed_query(DOCUMENTS[8].text).vector
    engine.retune(VECTORS_ALONE)
    assert engine.search(vector, 100) == engine.search(DOCUMENTS[8].text, 100)


def test_a_deleted_document_is_gone_from_results_even_cached_ones(engine):
    before = ids(engine.search("river stone", 5))
    assert engine.delete([before[0], "nobody"]) == 1
    assert before[0] not in ids(engine.search("river stone", 5))
    assert engine.get(before[0]) is None
    assert len(engine) == 59


def test_an_ingest_shows_in_results_even_cached_ones(engine):
    engine.search("zebra giraffe", 61)
    engine.ingest([Document("new", "zebra giraffe")])
    assert "new" in ids(engine.search("zebra giraffe", 61))


def test_an_equal_id_is_replaced(engine):
    engine.ingest([Document("d5", "zebra giraffe")])
    assert len(engine) == 60
    texts = {hit.id: hit.text for hit in engine.search("zebra giraffe", 60)}
    assert texts["d5"] == "zebra giraffe"
    assert engine.get("d5") == Document("d5", "zebra giraffe")


def test_reopened_it_answers_the_same(config):
    with Engine.open(config) as first:
        first.ingest(DOCUMENTS)
        first.delete(["d1", "d2"])
        before = [first.search(word, 7) for word in WORDS]
    with Engine.open(config) as second:
        assert [second.search(word, 7) for word in WORDS] == before
        assert len(second) == 58


@pytest.mark.parametrize("damage", ["missing", "truncated", "other parameters"])
def test_the_index_is_rebuilt_when_its_file_is_unusable(config, damage):
    with Engine.open(config) as first:
        first.ingest(DOCUMENTS)
    file = saved_index(config)
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:50])
    else:
        config = config.model_copy(update={"index": config.index.model_copy(update={"metric": "l2"})})
    with Engine.open(config) as second:
        assert second.search(DOCUMENTS[23].text, 3)[0].id == "d23"


def test_caches_answer_and_count(engine):
    for _ in range(3):
        engine.search("river stone", 5)
    engine.search("river stone", 6)
    stats = {name: levels["l1"] for name, levels in engine.cache_stats().items()}
    assert (stats["search"].hits, stats["search"].misses) == (2, 2)
    assert (stats["embedding"].hits, stats["embedding"].misses) == (1, 1)
    engine.clear_caches()
    engine.search("river stone", 5)
    assert engine.cache_stats()["embedding"]["l1"].misses == 2


def test_cached_hits_equal_computed_ones(engine):
    assert engine.search("river stone", 5) == engine.search("river stone", 5)


@pytest.mark.parametrize(
    "documents",
    [
        [Document("", "text")],
        [Document("a", "  \n")],
        [Document("a", "one"), Document("a", "two")],
        [Document("a", "lone surrogate \ud800")],
        [Document("a", "text", {"tags": ["nested"]})],
    ],
    ids=["no id", "no text", "twice", "not storable", "nested metadata"],
)
def test_a_bad_document_is_refused_and_nothing_of_its_batch_kept(engine, documents):
    index = engine._index._index
    with pytest.raises(DataError):
        engine.ingest([Document("fine", "fine"), *documents])
    assert len(engine) == 60
    assert engine.get("fine") is None
    assert engine._index._index is index, "nothing changed, so nothing has to be built again"


def test_a_bad_search_is_refused(engine):
    vectors = (np.ones(3, np.float32), np.ones((1, 64)), np.full(64, np.nan, np.float32))
    for query, k in (("", 5), ("   ", 5), ("river", 0), ("river", 2.5), *((vector, 5) for vector in vectors)):
        with pytest.raises(DataError):
            engine.search(query, k)
    for where in (5, "abc", {"n": {1, 2}}, {"n": b"x"}, {"n": object()}):
        for query in ("river", np.ones(64, np.float32)):
            with pytest.raises(DataError):
                engine.search(query, 5, where)


def test_vectors_of_the_wrong_shape_are_refused_and_nothing_kept(engine):
    not_a_number = np.full((1, 64), np.nan, dtype=np.float32)
    wrong = (np.ones((1, 3), np.float32), np.ones(64, np.float32), np.ones((2, 64), np.float32), not_a_number)
    for vectors in wrong:
        with pytest.raises(DataError):
            engine.ingest([Document("a", "text")], vectors)
    assert len(engine) == 60
    assert engine.get("a") is None


@pytest.mark.parametrize("kind", ["IndexIVFFlat", "IndexPQ"])
def test_until_the_index_can_train_an_exact_one_stands_in(tmp_path, kind):
    config = config_of(tmp_path / "e", kind)
    with Engine.open(config) as engine:
        for document in DOCUMENTS[:3]:
            engine.ingest([document])
        assert [engine.search(d.text, 1)[0].id for d in DOCUMENTS[:3]] == ["d0", "d1", "d2"]
        assert engine._index._index.config.kind == "IndexFlat"
    with Engine.open(config) as engine:
        assert ids(engine.search(DOCUMENTS[1].text, 1)) == ["d1"]
        engine.ingest(DOCUMENTS)
        assert engine._index._index.config.kind == kind
        assert len(engine._index._index) == len(engine) == 60


def test_documents_too_few_to_train_again_stay_searchable(tmp_path):
    config = config_of(tmp_path / "e", "IndexIVFFlat")
    with Engine.open(config) as engine:
        engine.ingest(DOCUMENTS[:5])
        engine.delete(["d0", "d1"])
    saved_index(config).unlink()
    with Engine.open(config) as engine:
        assert ids(engine.search(DOCUMENTS[3].text, 1)) == ["d3"]


def test_a_filter_leaves_only_documents_with_such_metadata(engine):
    found = engine.search("river stone", 60, {"n": {"gte": 50}})
    assert sorted(ids(found)) == [f"d{n}" for n in range(50, 60)]
    assert ids(engine.search("river stone", 5, {"n": [7, 1000]})) == ["d7"]
    assert engine.search("river stone", 5, {"n": -1}) == []
    assert len(engine.search("river stone", 5)) == 5
    with pytest.raises(DataError, match="near"):
        engine.search("river stone", 5, {"n": {"near": 3}})


def test_a_filtered_result_follows_the_metadata(engine):
    assert ids(engine.search("river", 3, {"n": 4})) == ["d4"]
    engine.ingest([Document("d4", DOCUMENTS[4].text, {"n": 400}), Document("d9", "river", {"n": 4})])
    assert ids(engine.search("river", 3, {"n": 4})) == ["d9"]


def test_documents_are_asked_about_over_all_shards(engine):
    assert engine.query(["id", "metadata.n"], {"n": {"lt": 30}}, order_by=["-metadata.n"], limit=2) == [
        ("d29", 29),
        ("d28", 28),
    ]
    assert engine.aggregate([("count", "id"), ("avg", "metadata.n")], {"n": {"gte": 50}}) == [(10, 54.5)]


@pytest.mark.parametrize("storage", [{}, {"shards": 3}], ids=["plain", "sharded"])
def test_a_backup_opens_as_an_engine(tmp_path, storage):
    with Engine.open(config_of(tmp_path / "e", storage=storage)) as engine:
        engine.ingest(DOCUMENTS)
        engine.backup(tmp_path / "copy")
        engine.delete(["d1"])
    with Engine.open(config_of(tmp_path / "copy", storage=storage)) as copy:
        assert len(copy) == 60
        assert ids(copy.search(DOCUMENTS[1].text, 1)) == ["d1"]


def test_query_parameters_change_while_it_is_open(tmp_path):
    config = config_of(tmp_path / "e", "IndexIVFFlat")
    narrow = config.index.model_copy(update={"nprobe": 1})
    with Engine.open(config.model_copy(update={"index": narrow})) as engine:
        engine.ingest(DOCUMENTS)
        few = ids(engine.search("river stone", 60))
        engine.retune(config.index)
        assert len(ids(engine.search("river stone", 60))) == 60 > len(few)
        with pytest.raises(ConfigError, match="rebuild"):
            engine.retune(config.index.model_copy(update={"nlist": 5}))


def test_an_index_trained_on_few_is_trained_again_when_there_are_many(tmp_path):
    with Engine.open(config_of(tmp_path / "e", "IndexIVFFlat")) as engine:
        engine.ingest(DOCUMENTS[:10])
        assert engine._index._index.trained_on == 10
        for start in range(10, 60, 10):
            engine.ingest(DOCUMENTS[start : start + 10])
        assert engine._index._index.trained_on == 40
        assert len(engine._index._index) == 60


def test_the_index_follows_the_documents_after_a_write_that_failed(tmp_path, monkeypatch):
    with Engine.open(config_of(tmp_path / "e")) as engine:
        engine.ingest(DOCUMENTS)
        with monkeypatch.context() as patched:
            patched.setattr(type(engine._index._index), "add", _fail)
            with pytest.raises(MemoryError):
                engine.ingest([Document("new", "zebra giraffe")])
        assert ids(engine.search("zebra giraffe", 61)).count("new") == (engine.get("new") is not None)
        assert len(engine.search("zebra giraffe", 100)) == len(engine)


def _fail(*arguments):
    raise MemoryError


def test_when_most_documents_are_gone_the_index_is_built_anew(config):
    with Engine.open(config) as engine:
        engine.ingest(DOCUMENTS)
        engine.delete([document.id for document in DOCUMENTS[:45]])
        assert sorted(ids(engine.search("river stone", 60))) == sorted(d.id for d in DOCUMENTS[45:])
        engine.delete([document.id for document in DOCUMENTS])
        assert engine.search("river", 5) == []
        engine.ingest(DOCUMENTS)
        assert len(engine.search("river stone", 60)) == 60


def test_a_folder_open_in_one_engine_is_refused_to_another(tmp_path):
    with Engine.open(config_of(tmp_path)) as engine:
        engine.ingest(DOCUMENTS)
        with pytest.raises(StorageError, match="open in another engine"):
            Engine.open(config_of(tmp_path))
    with Engine.open(config_of(tmp_path)) as engine:
        assert len(engine) == 60


def test_closing_without_a_change_writes_nothing(config):
    with Engine.open(config) as engine:
        engine.ingest(DOCUMENTS)
    before = {path: path.stat().st_mtime_ns for path in (config.path / "index").rglob("*")}
    with Engine.open(config) as engine:
        engine.search("river", 3)
    assert {path: path.stat().st_mtime_ns for path in (config.path / "index").rglob("*")} == before


def test_an_empty_engine_finds_nothing(config):
    with Engine.open(config) as engine:
        assert engine.search("anything", 5) == []
        assert engine.delete(["a"]) == 0
        engine.ingest([])
        assert len(engine) == 0


def test_in_memory_without_a_path():
    with Engine.open(config_of(None)) as engine:
        engine.ingest(DOCUMENTS)
        assert engine.search(DOCUMENTS[3].text, 1)[0].id == "d3"


def test_a_closed_engine_says_so(engine):
    engine.close()
    engine.close()
    uses = (
        lambda: engine.search("x"),
        lambda: engine.ingest(DOCUMENTS),
        lambda: engine.delete(["a"]),
        lambda: engine.get("a"),
        lambda: len(engine),
        lambda: engine.query(["id"]),
    )
    for use in uses:
        with pytest.raises(ClosedError):
            use()


def test_vectors_of_two_models_are_never_mixed(tmp_path):
    with Engine.open(config_of(tmp_path)) as engine:
        engine.ingest(DOCUMENTS)
    other = config_of(tmp_path, embedding={"kind": "hashing", "dimension": 32})
    with pytest.raises(ConfigError, match=r"embedded in the space .*64.* configured one is .*32"):
        Engine.open(other)
    with Engine.open(config_of(tmp_path)) as engine:
        assert len(engine) == 60


def test_an_unusable_path_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file"):
        Engine.open(config_of(tmp_path / "file"))


def test_searches_and_writes_from_many_threads_stay_consistent(engine):
    errors = []

    def search():
        try:
            for n in range(100):
                for hit in engine.search(f"{WORDS[n % 10]} {n % 7}", 5):
                    assert hit.text
        except Exception as error:  # reported by the assertion below
            errors.append(error)

    def write():
        for n in range(50):
            engine.ingest([Document(f"extra{n}", f"{WORDS[n % 10]} extra {n}")])
            engine.delete([f"extra{n}"])

    threads = [threading.Thread(target=target) for target in (search, search, search, write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors
    assert len(engine) == 60


def test_a_text_is_embedded_while_documents_are_written(tmp_path, monkeypatch):
    writing, embedded = threading.Event(), threading.Event()
    with Engine.open(config_of(tmp_path / "engine")) as engine:
        add = engine._index.add

        def add_once_embedded(*arguments):
            writing.set()
            assert embedded.wait(20)
            add(*arguments)

        monkeypatch.setattr(engine._index, "add", add_once_embedded)
        ingesting = threading.Thread(target=engine.ingest, args=(DOCUMENTS,))
        ingesting.start()
        assert writing.wait(20)
        embedding = threading.Thread(target=engine._queries.embed_query, args=("a text",))
        embedding.start()
        embedding.join(5)
        in_time = not embedding.is_alive()
        embedded.set()
        ingesting.join(20)
        embedding.join(20)
        assert in_time
        assert len(engine) == len(DOCUMENTS)
