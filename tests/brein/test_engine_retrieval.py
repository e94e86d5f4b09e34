"""Staged retrieval through the engine's front door: what it finds, keeps, learns and survives."""

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from itertools import islice

import numpy as np
import pytest

from brein import Document, Engine, EngineConfig, embedding, storage
from brein.errors import ConfigError, DataError, StorageError
from brein.retrieval.pipeline import RetrievalConfig
from brein.retrieval.rerank import LateInteraction

DIMENSION = 4096
STRATEGIES = ("single_stage", "two_stage", "multi_stage")
NEVER = 1e-9  # seconds: a budget that nothing keeps
PARTS = {"plain": {}, "in parts": {"storage": {"shards": 3}, "index": {"kind": "IndexFlat", "shards": 2}}}
PLANTS, OTHERS = 10, 300


def config_of(path=None, retrieval=None, **parts):
    return EngineConfig.model_validate(
        {
            "path": path,
            "embedding": {"kind": "hashing", "dimension": DIMENSION},
            "index": {"kind": "IndexFlat"},
            "retrieval": retrieval or {},
            **parts,
        }
    )


def with_mesh(**settings):
    return {
        "strategy": "multi_stage",
        "mesh": {"enabled": True, "neighbours": 4, "co_retrieved": 0} | settings,
    }


def ids(found):
    return [hit.id for hit in found.hits]


def stages(found):
    return [stage.name for stage in found.stages]


def answered(engine):
    return sum(level.hits for level in engine.cache_stats()["search"].values())


# --- two hops ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    """Texts by id; and queries, each with the bridge that has its words and the answer that shares words with
    the bridge alone. Other documents have one word of some query. No two words share a component."""
    model = embedding.create(config_of().embedding)
    words = [f"word{n}" for n in range(2500)]
    _, apart = np.unique(np.abs(model.embed(words)).argmax(axis=1), return_index=True)
    generator = np.random.default_rng(5)
    shuffled = iter(generator.permutation([words[n] for n in apart]).tolist())
    texts, queries, asked = {}, {}, []
    for n in range(PLANTS):
        question, link = list(islice(shuffled, 6)), list(islice(shuffled, 6))
        queries[" ".join(question)] = f"bridge{n}", f"answer{n}"
        texts[f"bridge{n}"] = " ".join([*question, *link, *islice(shuffled, 4)])
        texts[f"answer{n}"] = " ".join([*link, *islice(shuffled, 4)])
        asked += question
    common = list(shuffled)
    for n in range(OTHERS):
        texts[f"other{n}"] = " ".join([*generator.choice(common, 15, replace=False), asked[n % len(asked)]])
    return texts, queries


def documents(texts):
    return [Document(id_, text, {"n": n}) for n, (id_, text) in enumerate(texts.items())]


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_the_mesh_finds_what_shares_nothing_with_the_query_and_no_plain_search_does(planted, parts):
    texts, queries = planted
    off = {"enabled": False}
    meshed = config_of(retrieval=with_mesh(), **parts)
    with Engine.open(meshed) as engine:
        engine.ingest(documents(texts))
        for query, (bridge, answer) in queries.items():
            assert {*query.split()}.isdisjoint(texts[answer].split())
            found = ids(engine.retrieve(query, 10))
            assert found[0] == bridge
            assert answer in found
        mesh = meshed.retrieval.mesh.model_copy(update={"enabled": False}).model_dump()
        for plain in ({"lexical": off}, {"vectors": off}, {}, {"reranker": None}):
            engine.retune(RetrievalConfig.model_validate({**plain, "mesh": mesh}))
            for strategy in STRATEGIES:
                for query, (bridge, answer) in queries.items():
                    found = ids(engine.retrieve(query, 10, strategy=strategy))
                    assert found[0] == bridge
                    assert answer not in found


def test_a_filter_holds_for_what_the_mesh_finds(planted):
    texts, queries = planted
    with Engine.open(config_of(retrieval=with_mesh())) as engine:
        engine.ingest(documents(texts))
        for query, (bridge, answer) in queries.items():
            n = list(texts).index(answer)
            without = engine.retrieve(query, 10, {"n": {"ne": n}})
            assert bridge in ids(without)
            assert answer not in ids(without)
            assert without.degraded is None


# --- the cache ---------------------------------------------------------------------------------------------


@pytest.fixture
def notes():
    return [Document(f"d{n}", f"note {n} on topic{n % 7}", {"n": n}) for n in range(50)]


def test_a_whole_retrieval_is_cached_and_a_degraded_one_is_not(notes):
    with Engine.open(config_of()) as engine:
        engine.ingest(notes)
        first = engine.retrieve("note 3", 5)
        assert engine.retrieve("note 3", 5) == first
        assert (first.degraded, answered(engine)) == (None, 1)
        engine.retune(RetrievalConfig.model_validate({"lexical": {"budget": NEVER}}))
        late = engine.retrieve("note 3", 5)
        assert late.degraded.startswith("lexical: took")
        assert ids(engine.retrieve("note 3", 5)) == ids(late)
        assert answered(engine) == 1


def test_strategies_and_filters_are_cached_apart(notes):
    with Engine.open(config_of()) as engine:
        engine.ingest(notes)
        for strategy in STRATEGIES:
            assert engine.retrieve("note 3", 5, strategy=strategy).strategy == strategy
        assert ids(engine.retrieve("note 3", 1, {"n": 9})) == ["d9"]
        assert answered(engine) == 0


def test_what_a_change_of_documents_overtook_is_not_cached(notes, monkeypatch):
    rerank = LateInteraction.scores

    def while_one_more_comes(self, candidates):
        engine.ingest([Document("new", "note 3 again")])
        return rerank(self, candidates)

    config = config_of(retrieval={"strategy": "two_stage", "reranker": {"kind": "late_interaction"}})
    with Engine.open(config) as engine:
        engine.ingest(notes)
        with monkeypatch.context() as patched:
            patched.setattr(LateInteraction, "scores", while_one_more_comes)
            assert "new" not in ids(engine.retrieve("note 3", 5))
        assert engine.cache_stats()["search"]["l1"].entries == 0
        assert "new" in ids(engine.retrieve("note 3", 5))


def test_the_engine_works_on_while_a_reranker_does(notes, monkeypatch):
    done = []

    def while_others_work(self, candidates):
        other = threading.Thread(target=lambda: done.append(engine.get("d1")))
        other.start()
        other.join(timeout=30)
        return {}

    monkeypatch.setattr(LateInteraction, "scores", while_others_work)
    config = config_of(retrieval={"strategy": "two_stage", "reranker": {"kind": "late_interaction"}})
    with Engine.open(config) as engine:
        engine.ingest(notes)
        engine.retrieve("note 3", 5)
        assert done == [notes[1]]


def test_an_unknown_strategy_is_refused_with_those_that_are_known(notes):
    with Engine.open(config_of()) as engine:
        engine.ingest(notes)
        with pytest.raises(DataError, match=r"strategy = 'all' is unknown; known: single_stage, two_stage, "):
            engine.retrieve("note 3", 5, strategy="all")


# --- other settings ----------------------------------------------------------------------------------------


def test_other_settings_take_effect_at_once(notes):
    with Engine.open(config_of()) as engine:
        engine.ingest(notes)
        assert "fusion" in stages(engine.retrieve("note 3", 5))
        engine.retune(RetrievalConfig.model_validate({"lexical": {"enabled": False}, "reranker": None}))
        assert not {"lexical", "fusion", "rerank"} & {
            *stages(engine.retrieve("note 3", 5, strategy="two_stage"))
        }
        words = RetrievalConfig.model_validate({"vectors": {"enabled": False}, "strategy": "multi_stage"})
        engine.retune(words)
        found = engine.retrieve("topic3", 50)
        assert {int(id_[1:]) % 7 for id_ in ids(found)} == {3}
        assert engine.config.retrieval == words


def test_a_reranker_outlives_other_settings_unless_they_are_its_own(notes):
    with Engine.open(config_of()) as engine:
        before = engine._pipeline._reranker
        for settings in ({"reranker": None}, {"rank_constant": 20}):
            engine.retune(RetrievalConfig.model_validate(settings))
        assert engine._pipeline._reranker is before
        other = {"reranker": {"kind": "interpolation", "lexical_weight": 0.5}}
        engine.retune(RetrievalConfig.model_validate(other))
        assert engine._pipeline._reranker is not before


def test_a_mesh_is_switched_off_and_on_but_not_changed(planted):
    texts, queries = planted
    query, (_, answer) = next(iter(queries.items()))
    config = config_of(retrieval=with_mesh())
    with Engine.open(config) as engine:
        engine.ingest(documents(texts))
        on = config.retrieval
        off = on.model_copy(update={"mesh": on.mesh.model_copy(update={"enabled": False})})
        engine.retune(off)
        assert "mesh" not in stages(engine.retrieve(query, 10))
        engine.strengthen(["bridge1", "answer2"])  # not learnt
        engine.retune(on)
        assert answer in ids(engine.retrieve(query, 10))
        assert engine._mesh.mesh._used.of(np.arange(len(texts)), 0.0).targets.size == 0
        with pytest.raises(ConfigError, match=r"retrieval\.mesh = .*open it anew"):
            engine.retune(on.model_copy(update={"mesh": on.mesh.model_copy(update={"hops": 1})}))
        assert engine.config.retrieval == on


def test_after_a_change_of_settings_the_time_of_a_query_is_not_known(notes):
    with Engine.open(config_of()) as engine:
        engine.ingest(notes)
        for n in range(40):
            found = engine.retrieve(f"note {n}")
        assert found.analysis.estimated_latency > 0
        engine.retune(RetrievalConfig.model_validate({"reranker": {"kind": "late_interaction"}}))
        assert engine.analyse("note 41").estimated_latency is None


def test_a_mesh_learns_from_answers_of_the_cache_too(notes):
    with Engine.open(config_of(retrieval=with_mesh(co_retrieved=2))) as engine:
        engine.ingest(notes)
        first, second = ids(engine.retrieve("note 3"))[:2]
        for _ in range(4):
            engine.retrieve("note 3")
        assert engine.cache_stats()["search"]["l1"].hits == 4
        mesh = engine._mesh.mesh
        edges = mesh._used.of(np.array([mesh._numbers[first]]), 0.0)
        assert edges.targets.tolist() == [mesh._numbers[second]]
        assert edges.weights == pytest.approx([5.0], rel=1e-3)


def test_a_mesh_that_was_not_made_cannot_be_switched_on(notes):
    with Engine.open(config_of()) as engine, pytest.raises(ConfigError, match="open it anew"):
        engine.retune(RetrievalConfig.model_validate({"mesh": {"enabled": True}}))


# --- the mesh and the documents ----------------------------------------------------------------------------

PAIR = [Document("start", "zebra giraffe okapi"), Document("end", "violin cello viola")]


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_what_use_taught_is_there_after_opening_again_and_gone_with_its_document(tmp_path, notes, parts):
    config = config_of(tmp_path, retrieval=with_mesh(), **parts)
    with Engine.open(config) as engine:
        engine.ingest([*notes, *PAIR])
        assert "end" not in ids(engine.retrieve("zebra", 2))
        for _ in range(5):
            engine.strengthen(["start", "end"])
    with Engine.open(config) as engine:
        assert ids(engine.retrieve("zebra", 2)) == ["start", "end"]
        engine.ingest([Document("end", "trumpet tuba")])  # the same document, with another text
        assert ids(engine.retrieve("zebra", 2)) == ["start", "end"]
        engine.delete(["end"])
        assert "end" not in ids(engine.retrieve("zebra", 52))
    with Engine.open(config) as engine:
        assert "end" not in ids(engine.retrieve("zebra", 52))


def test_replaced_documents_have_the_associations_of_their_new_texts(planted):
    texts, queries = planted
    (one, (_, answer)), (other, (_, others)) = islice(queries.items(), 2)
    with Engine.open(config_of(retrieval=with_mesh())) as engine:
        engine.ingest(documents(texts))
        engine.ingest([Document(answer, texts[others]), Document(others, texts[answer])])
        for query, expected, unexpected in ((one, others, answer), (other, answer, others)):
            found = ids(engine.retrieve(query, 10))
            assert expected in found
            assert unexpected not in found


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_the_mesh_catches_up_with_documents_stored_before_the_engine_was_killed(tmp_path, planted, parts):
    texts, queries = planted
    config = config_of(tmp_path, retrieval=with_mesh(), **parts)
    given = documents(texts)
    with Engine.open(config) as engine:
        engine.ingest(given[PLANTS:])
    # What is on disk when the process ends after the documents' transaction.
    with closing(storage.create(config.storage, tmp_path)) as store:
        model = embedding.create(config.embedding)
        missing = given[:PLANTS]
        store.add(missing, model.embed([document.text for document in missing]), store.space)
        store.delete(["answer9"])
    with Engine.open(config) as engine:
        for query, (bridge, answer) in queries.items():
            assert ids(engine.retrieve(query, 10))[0] == bridge
            assert (answer in ids(engine.retrieve(query, 10))) == (answer != "answer9")


def test_neighbours_are_found_across_the_whole_of_a_large_batch():
    """More than are looked at together; the first is most like the last."""
    many = [Document(f"d{n:04}", f"filler{n} filler{n + 1}") for n in range(1, 1100)]
    many = [PAIR[0], *many, Document("last", "giraffe okapi savanna")]
    config = config_of(retrieval=with_mesh(neighbours=1), embedding={"kind": "hashing", "dimension": 512})
    with Engine.open(config) as engine:
        engine.ingest(many)
        assert "last" in ids(engine.retrieve("zebra", 5))


def test_a_mesh_that_cannot_be_written_does_not_refuse_documents(tmp_path, notes, caplog):
    config = config_of(tmp_path, retrieval=with_mesh())
    with Engine.open(config) as engine:
        engine.ingest(notes)
        with closing(sqlite3.connect(tmp_path / "mesh.sqlite")) as file:
            file.execute("DROP TABLE nodes")
        engine.ingest(PAIR)
        assert "no such table" in caplog.text
        assert len(engine) == 52
        assert ids(engine.retrieve("zebra", 1)) == ["start"]
        assert engine.delete(["end"]) == 1
    (tmp_path / "mesh.sqlite").unlink()  # the remedy that the errors name
    with Engine.open(config) as engine:
        assert len(engine) == 51
        assert ids(engine.retrieve("zebra", 1)) == ["start"]


def test_a_mesh_that_cannot_be_opened_is_named_with_its_remedy(tmp_path, notes):
    with Engine.open(config_of(tmp_path)) as engine:
        engine.ingest(notes)
    (tmp_path / "mesh.sqlite").mkdir()
    with pytest.raises(StorageError, match=r"mesh\.sqlite.*move the file away"):
        Engine.open(config_of(tmp_path, retrieval=with_mesh()))
    with Engine.open(config_of(tmp_path)) as engine:
        assert len(engine) == 50


# --- odd questions, and many at once -----------------------------------------------------------------------


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_an_empty_engine_finds_nothing_by_any_strategy(parts):
    with Engine.open(config_of(retrieval=with_mesh(), **parts)) as engine:
        for strategy in STRATEGIES:
            found = engine.retrieve("zebra", 5, strategy=strategy)
            assert (found.hits, found.degraded) == ((), None)
        assert engine.analyse("zebra").complexity.rarity == 0


ODD = [
    "the",
    "the of and",
    "a",
    "z",
    "?!",
    "知识检索",
    "の",
    "e\u0301tude",
    '" OR NEAR(x y)',
    "note*",
    "-note",
    "x" * 9_999,
]


@pytest.mark.parametrize("kind", ["interpolation", "late_interaction"])
@pytest.mark.parametrize("question", ODD, ids=range(len(ODD)))
def test_odd_questions_are_answered_whole(notes, question, kind):
    retrieval = {**with_mesh(), "reranker": {"kind": kind, "budget": 60}}
    with Engine.open(config_of(retrieval=retrieval)) as engine:
        engine.ingest([*notes, Document("stops", "the of and a")])
        for strategy in STRATEGIES:
            found = engine.retrieve(question, 5, strategy=strategy)
            assert found.degraded is None
            assert len(found.hits) == 5
            assert all(np.isfinite(hit.score) for hit in found.hits)
            assert engine.retrieve(question, 5, strategy=strategy) == found


def test_a_word_is_found_however_its_accents_are_written(notes):
    with Engine.open(config_of(retrieval={"vectors": {"enabled": False}})) as engine:
        engine.ingest([*notes, Document("composed", "\u00e9tude"), Document("apart", "e\u0301tude")])
        for question in ("\u00e9tude", "e\u0301tude"):
            assert {*ids(engine.retrieve(question, 5))} == {"composed", "apart"}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_many_threads_retrieve_while_others_ingest_and_delete(tmp_path, notes, parts):
    config = config_of(tmp_path, retrieval=with_mesh(co_retrieved=3), **parts)
    errors = []

    def guarded(work):
        def run():
            try:
                work()
            except Exception as error:  # reported by the assertion below
                errors.append(error)

        return threading.Thread(target=run)

    def retrieve():
        for n in range(40):
            found = engine.retrieve(f"note topic{n % 7} {n}", 5, strategy=STRATEGIES[n % 3])
            assert found.stages[-1].given == 5  # of which one may have been deleted before its text was read
            assert [hit.score for hit in found.hits] == sorted(
                (hit.score for hit in found.hits), reverse=True
            )
            engine.analyse(f"topic{n % 7}")

    def write(name):
        for n in range(15):
            engine.ingest([Document(f"{name}{n}", f"note topic{n % 7} extra {n}")])
            engine.delete([f"{name}{n}"])

    with Engine.open(config) as engine:
        engine.ingest(notes)
        writers = [guarded(lambda name=name: write(name)) for name in ("x", "y")]
        threads = [*(guarded(retrieve) for _ in range(4)), *writers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
        assert not any(thread.is_alive() for thread in threads)
        assert not errors
        assert len(engine) == 50
        assert {hit.id for hit in engine.retrieve("note extra", 100).hits} == {one.id for one in notes}
        assert len(engine._mesh.mesh) == 50


def test_after_warming_up_no_query_loads_anything():
    program = """
import sys
from brein import Document, Engine, EngineConfig
from brein.embedding.hashing import HashingConfig

with Engine.open(EngineConfig(embedding=HashingConfig())) as engine:
    engine.ingest([Document(str(n), f"animal number {n}") for n in range(50)])
    engine.warm_up()
    engine.search("animal")
    loaded = set(sys.modules)
    for n in range(100):
        engine.search(f"number {n}")
    print(set(sys.modules) - loaded)
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "set()"


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_likeness_is_the_cosine_of_question_and_document_and_none_of_one_that_is_gone(parts):
    texts = ["a red river", "a red river and its bed", "bread of flour", "red"]
    with Engine.open(config_of(**parts)) as engine:
        engine.ingest([Document(str(number), text) for number, text in enumerate(texts)])
        hits = engine.search("red river", 4)
        engine.delete([hits[1].id])
        asked, *vectors = embedding.create(engine.config.embedding).embed(
            ["red river", *(hit.text for hit in hits)]
        )
        expected = np.array(vectors) @ asked
        expected[1] = 0
        np.testing.assert_allclose(engine._reader.likeness("red river", hits), expected, atol=1e-6)
        assert engine._reader.likeness("red river", [hits[1]]).tolist() == [0]
        assert engine._reader.likeness("red river", []).shape == (0,)
