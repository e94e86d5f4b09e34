"""The cache levels behind a running engine: results are never stale, and never fail with a cache."""

import os
import signal
import threading

import pytest
import redis

from brein import Document, Engine, EngineConfig
from brein.cache import codec
from brein.cache.redis import RedisServer
from brein.errors import ClosedError, DataError
from brein.retrieval.pipeline import RetrievalConfig

HASHING = {"kind": "hashing", "dimension": 64}
FLAT = {"kind": "IndexFlat"}
DOCUMENTS = [Document(f"d{n}", f"note {n} on topic {n % 7}", {"n": n}) for n in range(50)]


@pytest.fixture
def server():
    made = RedisServer()
    yield made
    made.close()


def config_of(path, **cache):
    return EngineConfig.model_validate({"path": path, "embedding": HASHING, "index": FLAT, "cache": cache})


def hits_by_level(engine):
    return {level: stats.hits for level, stats in engine.cache_stats()["search"].items()}


def test_a_reopened_engine_finds_its_results_on_disk_but_none_from_before_a_write(tmp_path):
    config = config_of(tmp_path, l3={"enabled": True})
    with Engine.open(config) as engine:
        engine.ingest(DOCUMENTS)
        first = engine.search("note 3", 5)
    with Engine.open(config) as engine:
        assert engine.search("note 3", 5) == first
        assert hits_by_level(engine) == {"l1": 0, "l3": 1}
        engine.delete([first[0].id])
    with Engine.open(config) as engine:
        assert first[0].id not in [hit.id for hit in engine.search("note 3", 5)]
        assert hits_by_level(engine) == {"l1": 0, "l3": 0}


def test_what_was_retrieved_is_recalled_from_memory_until_a_write(tmp_path):
    with Engine.open(config_of(tmp_path)) as engine:
        engine.ingest(DOCUMENTS)
        assert engine.recall("note 3", 5) is None
        found = engine.retrieve("note 3", 5)
        assert codec.decode_retrieval(engine.recall("note 3", 5)) == found
        assert engine.recall("note 3", 6) is None
        assert engine.recall("note 3", 5, {"n": 3}) is None
        for wrong in ({"query": ""}, {"query": "note 3", "k": 0}, {"query": "note 3", "where": {"n": {}}}):
            with pytest.raises(DataError):
                engine.recall(**wrong)
        engine.delete(["d3"])
        assert engine.recall("note 3", 5) is None
    with pytest.raises(ClosedError):
        engine.recall("note 3", 5)


def test_a_recall_and_the_retrieval_after_it_are_one_look_up(tmp_path):
    with Engine.open(config_of(tmp_path)) as engine:
        engine.ingest(DOCUMENTS)
        for _ in range(3):
            engine.recall("note 3", 5) or engine.retrieve("note 3", 5)
        counts = engine.cache_stats()["search"]["l1"]
        assert (counts.hits, counts.misses) == (2, 1)


def test_nothing_is_recalled_where_use_teaches_a_mesh(tmp_path):
    config = config_of(tmp_path).model_copy(
        update={"retrieval": RetrievalConfig.model_validate({"mesh": {"enabled": True}})}
    )
    with Engine.open(config) as engine:
        engine.ingest(DOCUMENTS)
        engine.retrieve("note 3", 5)
        assert engine.recall("note 3", 5) is None
        off = config.retrieval.mesh.model_copy(update={"enabled": False})
        engine.retune(config.retrieval.model_copy(update={"mesh": off}))
        found = engine.retrieve("note 3", 5)
        assert codec.decode_retrieval(engine.recall("note 3", 5)) == found


def test_results_in_an_older_form_are_not_taken(tmp_path, monkeypatch):
    config = config_of(tmp_path, l3={"enabled": True})
    with monkeypatch.context() as older, Engine.open(config) as engine:
        older.setattr(codec, "RETRIEVAL_FORM", codec.RETRIEVAL_FORM - 1)
        older.setattr(codec, "encode_retrieval", lambda retrieval: b'{"hits": []}')
        engine.ingest(DOCUMENTS)
        with pytest.raises(ValueError, match="strategy"):
            engine.search("note 3", 5)
    with Engine.open(config) as engine:
        assert len(engine.search("note 3", 5)) == 5
        assert hits_by_level(engine) == {"l1": 0, "l3": 0}


def test_an_engine_with_another_index_does_not_take_its_results(tmp_path):
    cache = {"l3": {"enabled": True}}
    config = config_of(tmp_path, **cache)
    with Engine.open(config) as engine:
        engine.ingest(DOCUMENTS)
        engine.search("note 3", 5)
    other = config.model_copy(update={"index": config.index.model_copy(update={"metric": "l2"})})
    with Engine.open(other) as engine:
        engine.search("note 3", 5)
        assert hits_by_level(engine) == {"l1": 0, "l3": 0}


def test_two_engines_share_a_redis_without_mixing_their_documents(tmp_path, server):
    cache = {"l2": {"enabled": True, "url": server.url}}
    with (
        Engine.open(config_of(tmp_path / "a", **cache)) as one,
        Engine.open(config_of(tmp_path / "b", **cache)) as other,
    ):
        one.ingest([Document("here", "note 3")])
        other.ingest([Document("there", "note 3")])
        assert [hit.id for hit in one.search("note 3", 5)] == ["here"]
        assert [hit.id for hit in other.search("note 3", 5)] == ["there"]
        assert other.cache_stats()["embedding"]["l2"].hits == 1


@pytest.mark.slow
def test_redis_stops_and_starts_under_a_stream_of_queries_and_none_fails(tmp_path, server):
    # L1 holds nothing, so every repeated query is L2's to answer.
    config = config_of(tmp_path, search={"maxsize": 0}, l2={"enabled": True, "url": server.url})
    client = redis.Redis.from_url(server.url)
    failed, stop = [], threading.Event()

    def ask(first):
        turn = first
        while not stop.is_set():
            turn += 1
            try:
                assert engine.search(f"note {turn % 50}", 3) == expected[turn % 50]
            except Exception as error:  # reported by the assertion below
                failed.append(error)

    def l2():
        return engine.cache_stats()["search"]["l2"]

    with Engine.open(config) as engine:
        engine.ingest(DOCUMENTS)
        expected = [engine.search(f"note {n}", 3) for n in range(50)]
        threads = [threading.Thread(target=ask, args=(17 * n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        try:
            wait_until_more(lambda: l2().hits)
            for _ in range(3):
                os.kill(client.info("server")["process_id"], signal.SIGKILL)
                client.close()
                wait_until_more(lambda: l2().errors, 1)
                wait_until_more(lambda: l2().hits)  # the server is back, and L2 with it
        finally:
            stop.set()
            for thread in threads:
                thread.join(timeout=60)
            client.close()
        assert l2().available
    assert not failed


def wait_until_more(count, more=100):
    """Wait until `count` has grown by `more`."""
    pause, before = threading.Event(), count()
    for _ in range(3000):
        if count() >= before + more:
            return
        pause.wait(0.02)
    raise AssertionError("a minute has passed")
