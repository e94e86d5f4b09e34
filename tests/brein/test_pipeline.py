"""The stages of a retrieval, over a memory of known answers and a clock that only they move."""

import numpy as np
import pytest

from brein.errors import DataError, ModelError, ShardsMissingError
from brein.retrieval.latency import LatencyModel
from brein.retrieval.mesh import Mesh, MeshConfig
from brein.retrieval.pipeline import Embedded, Pipeline, RetrievalConfig
from brein.retrieval.rerank import Reranker

QUERY = "zebra engine"
TEXTS = {id_: f"text of {id_}" for id_ in "abcdefgh"}
WORDS = [("a", 9.0), ("b", 6.0), ("c", 3.0)]
NEAR = [("b", 0.9), ("d", 0.8), ("e", 0.7), ("f", -0.1)]
FUSED = ["b", "a", "d", "c", "e", "f"]  # by reciprocal rank with a constant of 10
BUDGET = {"budget": 1.0}


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Memory:
    """Answers a query, whatever it is; each answer takes the time that `takes` says."""

    def __init__(self, clock, **takes):
        self.clock, self.takes = clock, takes
        self.texts_now, self.words, self.near = dict(TEXTS), WORDS, NEAR
        self.allowed = set(TEXTS)
        self.asked = []

    def _take(self, what, *arguments):
        self.asked.append((what, *arguments))
        self.clock.now += self.takes.get(what, 0.0)

    def __len__(self):
        return 100

    def frequencies(self, text):
        self._take("frequencies")
        return dict.fromkeys(text.split(), 5)

    def stems(self, text):
        return {word: word for word in text.split()}

    def match(self, text, limit, where=None):
        self._take("match", text, limit, where)
        return self._held(self.words, where)[:limit]

    def embed_query(self, query):
        self._take("embed", query)
        return Embedded(np.array([1.0, 0.0], np.float32), computed=True)

    def nearest(self, vector, k, where):
        self._take("nearest", k, where)
        return self._held(self.near, where)[:k]

    def find(self, where):
        self._take("find", where)
        return sorted(self.allowed)

    def texts(self, ids):
        self._take("texts")
        return {id_: self.texts_now[id_] for id_ in ids if id_ in self.texts_now}

    def vectors(self, ids):
        there = [id_ for id_ in ids if id_ in self.texts_now]
        return there, np.ones((len(there), 2), np.float32)

    def _held(self, ranking, where):
        return [one for one in ranking if where is None or one[0] in self.allowed]


class Reversing(Reranker):
    """The candidates the other way round, in pieces of one."""

    def __init__(self, clock, each=0.0, fails=None):
        self.clock, self.each, self.fails = clock, each, fails
        self.seen = []

    def scores(self, candidates):
        self.seen.append(candidates)
        found = {}
        for n, id_ in enumerate(candidates.ids):
            candidates.check()
            self.clock.now += self.each
            if self.fails:
                raise self.fails
            if id_ in candidates.contents.texts([id_]):
                found[id_] = (n + 1) / len(candidates.ids)
        return found


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def memory(clock):
    return Memory(clock)


@pytest.fixture
def reranker(clock):
    return Reversing(clock)


@pytest.fixture
def mesh():
    """ "g" is like "b", "h" like "e"."""
    made = Mesh(MeshConfig(enabled=True))
    made.add({id_: {} for id_ in TEXTS}, "v1")
    made.add({"g": {"b": 0.9}, "h": {"e": 0.9}}, "v2")
    return made


def piped(memory, reranker=None, mesh=None, /, **settings):
    settings = {
        "lexical": BUDGET,
        "vectors": BUDGET,
        "reranker": {"kind": "interpolation", **BUDGET},
    } | settings
    config = RetrievalConfig.model_validate(settings)
    return Pipeline(config, memory, reranker, mesh, clock=memory.clock)


def ids(found):
    return [hit.id for hit in found.hits]


def stage(found, name):
    (one,) = [stage for stage in found.stages if stage.name == name]
    return one


def names(found):
    return [stage.name for stage in found.stages]


# --- which stages there are --------------------------------------------------------------------------------


def test_a_single_stage_finds_and_fuses(memory, reranker, mesh):
    found = piped(memory, reranker, mesh).retrieve(QUERY, 6, strategy="single_stage")
    assert names(found) == ["analysis", "lexical", "embedding", "vectors", "fusion", "documents"]
    assert ids(found) == FUSED
    assert found.degraded is None
    assert [hit.text for hit in found.hits] == [TEXTS[id_] for id_ in FUSED]


def test_two_stages_rerank(memory, reranker, mesh):
    found = piped(memory, reranker, mesh).retrieve(QUERY, 6, strategy="two_stage")
    assert names(found)[-3:] == ["fusion", "rerank", "documents"]
    assert ids(found) == FUSED[::-1]


def test_many_stages_follow_associations(memory, mesh):
    found = piped(memory, None, mesh).retrieve(QUERY, 8, strategy="multi_stage")
    assert names(found)[-3:] == ["fusion", "mesh", "documents"]
    assert sorted(ids(found)) == sorted(TEXTS)
    assert ids(found)[0] == "b"


def test_all_stages_in_their_order(memory, reranker, mesh):
    found = piped(memory, reranker, mesh).retrieve(QUERY, 6, strategy="multi_stage")
    assert names(found)[-4:] == ["fusion", "rerank", "mesh", "documents"]


def test_the_strategy_is_the_one_asked_for_then_the_configured_one_then_the_complexitys(memory):
    configured = piped(memory, strategy="two_stage")
    assert configured.retrieve(QUERY, 3).strategy == "two_stage"
    assert configured.retrieve(QUERY, 3, strategy="multi_stage").strategy == "multi_stage"
    free = piped(memory).retrieve(QUERY, 3)
    assert free.strategy == free.analysis.strategy


@pytest.mark.parametrize(
    ("switched", "left", "found"),
    [("lexical", "vectors", [id_ for id_, _ in NEAR]), ("vectors", "lexical", [id_ for id_, _ in WORDS])],
)
def test_a_leg_that_is_switched_off_is_not_searched(memory, switched, left, found):
    answer = piped(memory, **{switched: {"enabled": False}}).retrieve(QUERY, 6, strategy="single_stage")
    assert ids(answer) == found
    assert left in names(answer)
    assert not {switched, "fusion"} & {*names(answer)}
    assert answer.degraded is None


def test_no_vector_is_made_where_none_is_used(memory, reranker):
    words_alone = piped(memory, reranker, vectors={"enabled": False})
    assert "embedding" not in names(words_alone.retrieve(QUERY, 3, strategy="single_stage"))
    assert "embed" not in [asked[0] for asked in memory.asked]
    assert "embedding" in names(words_alone.retrieve(QUERY, 3, strategy="two_stage"))


def test_both_legs_cannot_be_switched_off():
    with pytest.raises(ValueError, match="both false"):
        RetrievalConfig.model_validate({"lexical": {"enabled": False}, "vectors": {"enabled": False}})


def test_without_a_reranker_or_a_mesh_their_stages_are_not_there(memory):
    found = piped(memory).retrieve(QUERY, 6, strategy="multi_stage")
    assert not {"rerank", "mesh"} & {*names(found)}
    assert ids(found) == FUSED


# --- what each stage says of itself ------------------------------------------------------------------------


def test_each_stage_tells_its_time_and_its_sizes(clock, mesh):
    memory = Memory(clock, frequencies=0.01, match=0.02, embed=0.03, nearest=0.04)
    found = piped(memory, Reversing(clock, each=0.05), mesh).retrieve(QUERY, 2, strategy="multi_stage")
    told = {one.name: (pytest.approx(one.seconds), one.given, one.found) for one in found.stages}
    assert told == {
        "analysis": (0.01, 0, 0),
        "lexical": (0.02, 0, 3),
        "embedding": (0.03, 0, 0),
        "vectors": (0.04, 0, 4),
        "fusion": (0, 7, 6),
        "rerank": (0.3, 6, 6),
        "mesh": (0, 6, 8),
        "documents": (0, 2, 2),
    }


def test_each_stage_has_as_many_candidates_as_configured(memory, reranker):
    pipeline = piped(
        memory,
        reranker,
        lexical={"candidates": 2},
        vectors={"candidates": 3},
        reranker={"kind": "interpolation", "candidates": 4},
    )
    found = pipeline.retrieve(QUERY, 1, strategy="two_stage")
    assert [stage(found, name).found for name in ("lexical", "vectors", "rerank")] == [2, 3, 4]
    assert stage(found, "rerank").given == 4


def test_more_hits_than_candidates_can_be_asked_for(memory, reranker, mesh):
    small = {"candidates": 1}
    pipeline = piped(
        memory,
        reranker,
        mesh,
        lexical=small,
        vectors=small,
        reranker={"kind": "interpolation", **small},
        mesh={"seeds": 1, "max_nodes": 1},
    )
    assert len(ids(pipeline.retrieve(QUERY, 6, strategy="multi_stage"))) == 6
    assert len(ids(pipeline.retrieve(QUERY, 6, strategy="two_stage"))) == 6


def test_the_reranker_is_given_what_the_words_found(memory, reranker):
    piped(memory, reranker).retrieve(QUERY, 6, strategy="two_stage")
    (candidates,) = reranker.seen
    assert (candidates.query, candidates.lexical, list(candidates.ids)) == (QUERY, dict(WORDS), FUSED)


# --- budgets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slow", "late", "kept"), [("match", "lexical", NEAR), ("nearest", "vectors", WORDS)]
)
def test_a_leg_over_its_budget_is_left_out_where_the_other_is_there(clock, slow, late, kept):
    found = piped(Memory(clock, **{slow: 1.5})).retrieve(QUERY, 6, strategy="single_stage")
    assert ids(found) == [id_ for id_, _ in kept]
    assert found.degraded == f"{late}: took 1.500 s of a budget of 1 s"


@pytest.mark.parametrize(("seconds", "kept"), [(0.5, FUSED), (1.5, [id_ for id_, _ in WORDS])])
def test_what_an_index_without_some_shards_found_counts_and_they_are_named(clock, seconds, kept):
    class Partial(Memory):
        def nearest(self, vector, k, where):
            raise ShardsMissingError({2: "no answer in 1 s"}, super().nearest(vector, k, where))

    found = piped(Partial(clock, nearest=seconds)).retrieve(QUERY, 6, strategy="single_stage")
    assert ids(found) == kept
    assert found.missing == {2: "no answer in 1 s"}
    assert found.degraded.endswith("shard 2: no answer in 1 s")


def test_both_legs_are_kept_where_both_are_late(clock):
    found = piped(Memory(clock, match=1.5, nearest=2.0)).retrieve(QUERY, 6, strategy="single_stage")
    assert ids(found) == FUSED
    assert found.degraded.count("of a budget of 1 s") == 2


def test_a_late_leg_is_kept_where_the_other_is_switched_off(clock):
    found = piped(Memory(clock, match=1.5), vectors={"enabled": False}).retrieve(QUERY, 6)
    assert ids(found) == [id_ for id_, _ in WORDS]
    assert found.degraded


def test_a_late_leg_is_kept_where_the_other_found_nothing(clock):
    memory = Memory(clock, nearest=1.5)
    memory.words = []
    found = piped(memory).retrieve(QUERY, 6, strategy="single_stage")
    assert ids(found) == [id_ for id_, _ in NEAR]
    assert found.degraded


def test_a_late_embedding_leaves_what_words_found(clock, reranker):
    memory = Memory(clock, embed=1.5)
    found = piped(memory, reranker, embedding_budget=1.0).retrieve(QUERY, 6, strategy="two_stage")
    assert ids(found) == [id_ for id_, _ in WORDS]
    assert found.degraded == "embedding: took 1.500 s of a budget of 1 s"
    assert not reranker.seen


def test_a_failing_embedding_leaves_what_words_found_and_is_raised_where_they_found_nothing(memory):
    def fail(query):
        raise ModelError("no such model")

    memory.embed_query = fail
    found = piped(memory).retrieve(QUERY, 6)
    assert ids(found) == [id_ for id_, _ in WORDS]
    assert found.degraded == "embedding: failed: no such model"
    memory.words = []
    with pytest.raises(ModelError, match="no such model"):
        piped(memory).retrieve(QUERY, 6)


@pytest.mark.parametrize("vectors", [{"enabled": True}, {"enabled": False}])
def test_the_scores_of_a_late_search_by_words_still_count_in_reranking(clock, reranker, vectors):
    piped(Memory(clock, match=1.5), reranker, vectors=vectors).retrieve(QUERY, 6, strategy="two_stage")
    assert reranker.seen[0].lexical == dict(WORDS)


def test_what_takes_exactly_its_budget_is_in_time(clock):
    assert piped(Memory(clock, match=1.0, nearest=1.0)).retrieve(QUERY, 6).degraded is None


def test_a_reranker_over_its_budget_stops_and_leaves_the_order_before(clock, memory):
    slow = Reversing(clock, each=0.4)
    found = piped(memory, slow).retrieve(QUERY, 6, strategy="two_stage")
    assert ids(found) == FUSED
    assert stage(found, "rerank").seconds == pytest.approx(1.2)  # three pieces of six
    assert found.degraded == "rerank: took 1.200 s of a budget of 1 s"


def test_a_reranker_that_is_late_with_its_last_piece_leaves_the_order_before(clock, memory):
    found = piped(memory, Reversing(clock, each=0.18)).retrieve(QUERY, 6, strategy="two_stage")
    assert ids(found) == FUSED
    assert found.degraded


def test_a_reranker_that_fails_leaves_the_order_before_and_says_why(clock, memory):
    failing = Reversing(clock, fails=ModelError("no such model"))
    found = piped(memory, failing).retrieve(QUERY, 6, strategy="two_stage")
    assert ids(found) == FUSED
    assert found.degraded == "rerank: failed: no such model"


def test_a_fault_in_a_reranker_is_not_hidden(clock, memory):
    broken = Reversing(clock, fails=ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        piped(memory, broken).retrieve(QUERY, 6, strategy="two_stage")


def test_the_mesh_after_a_failed_reranker_begins_from_the_fused_order(clock, memory, mesh):
    failing = Reversing(clock, fails=ModelError("no such model"))
    after = piped(memory, failing, mesh).retrieve(QUERY, 8, strategy="multi_stage")
    without = piped(memory, None, mesh).retrieve(QUERY, 8, strategy="multi_stage")
    assert ids(after) == ids(without)


def test_a_mesh_over_its_budget_leaves_the_order_before(clock, reranker, mesh):
    slow = Memory(clock, find=1.5)
    found = piped(slow, reranker, mesh, mesh=BUDGET).retrieve(QUERY, 6, {"n": 1}, strategy="multi_stage")
    assert ids(found) == FUSED[::-1]
    assert found.degraded == "mesh: took 1.500 s of a budget of 1 s"


# --- filters, deletions, nothing ---------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["single_stage", "two_stage", "multi_stage"])
def test_a_filter_holds_in_every_stage(memory, reranker, mesh, strategy):
    memory.allowed = {"a", "e", "g"}
    found = piped(memory, reranker, mesh).retrieve(QUERY, 8, {"n": 1}, strategy)
    assert {*ids(found)} <= memory.allowed
    assert {"a", "e"} <= {*ids(found)}
    for what, *arguments in memory.asked:
        if what in ("match", "nearest", "find"):
            assert arguments[-1] == {"n": 1}


def test_a_malformed_filter_is_refused_and_not_called_degraded(memory):
    def refuse(text, limit, where=None):
        raise DataError("the filter is malformed")

    memory.match = refuse
    with pytest.raises(DataError, match="malformed"):
        piped(memory).retrieve(QUERY, 3, {"n": object()})


@pytest.mark.parametrize("strategy", ["single_stage", "two_stage", "multi_stage"])
def test_a_document_deleted_between_stages_is_left_out(memory, reranker, mesh, strategy):
    del memory.texts_now["b"]
    found = piped(memory, reranker, mesh).retrieve(QUERY, 5, strategy=strategy)
    assert "b" not in ids(found)
    assert found.degraded is None


def test_all_documents_deleted_between_stages_leave_nothing(memory, reranker, mesh):
    memory.texts_now = {}
    assert ids(piped(memory, reranker, mesh).retrieve(QUERY, 5, strategy="multi_stage")) == []


def test_a_query_that_finds_nothing_has_no_hits(memory, reranker, mesh):
    memory.words = memory.near = []
    found = piped(memory, reranker, mesh).retrieve(QUERY, 5, strategy="multi_stage")
    assert (found.hits, found.degraded) == ((), None)
    assert not reranker.seen


# --- what the mesh is given --------------------------------------------------------------------------------


def test_the_mesh_takes_distances_and_negative_scores_by_their_ranks(memory, mesh):
    for near in ([("b", 0.5), ("d", 2.0), ("e", 9.0)], [("b", 0.5), ("d", -0.1), ("e", -0.9)]):
        memory.near = near
        pipeline = piped(memory, None, mesh, lexical={"enabled": False})
        found = pipeline.retrieve(QUERY, 8, strategy="multi_stage")
        assert found.degraded is None
        assert ids(found)[0] == "b"
        assert ids(found).index("g") < ids(found).index("h")


def test_what_the_mesh_does_not_know_stays_behind_what_it_found(memory, mesh):
    mesh.remove(["a", "f"], "v3")
    found = piped(memory, None, mesh).retrieve(QUERY, 10, strategy="multi_stage")
    assert ids(found)[-2:] == ["a", "f"]
    assert [hit.score for hit in found.hits] == sorted((hit.score for hit in found.hits), reverse=True)


# --- expansion and estimates -------------------------------------------------------------------------------


def test_the_analysis_tells_the_words_that_were_searched_for(memory):
    memory.texts_now["a"] = "piston piston"
    expansion = {"words": 1, "documents": 1}
    found = piped(memory, lexical={"expansion": expansion}).retrieve(QUERY, 5)
    searched = [arguments[0] for what, *arguments in memory.asked if what == "match"]
    assert searched == [QUERY, f"{QUERY} piston"]
    assert found.analysis.expanded == f"{QUERY} piston"


def test_an_analysis_alone_is_that_of_the_retrieval(memory):
    for settings in ({}, {"lexical": {"enabled": False}}, {"lexical": {"expansion": {"words": 2}}}):
        pipeline = piped(memory, **settings)
        assert pipeline.analyse(QUERY) == pipeline.retrieve(QUERY, 100).analysis


@pytest.mark.parametrize(
    ("strategy", "seconds"), [("single_stage", 0.10), ("two_stage", 0.70), ("multi_stage", 0.75)]
)
def test_a_retrieval_is_estimated_by_what_its_stages_took_before(clock, mesh, strategy, seconds):
    memory = Memory(clock, frequencies=0.01, match=0.02, embed=0.03, nearest=0.04)
    pipeline = piped(memory, Reversing(clock, each=0.1), mesh)
    assert pipeline.retrieve(QUERY, 6, strategy=strategy).analysis.estimated_latency is None
    learnt = LatencyModel()
    stages = {"analysis": 0.01, "lexical": 0.02, "embedding": 0.03, "vectors": 0.04}
    drivers = {"analysis": (12.0,), "lexical": (10.0,), "embedding": (12.0,)}
    for name, one in {**stages, "fusion": 1e-9, "documents": 1e-9, "rerank": 0.6, "mesh": 0.05}.items():
        for _ in range(32):
            learnt.learn(name, drivers.get(name, ()), one)
    pipeline = Pipeline(RetrievalConfig(), memory, Reversing(clock), mesh, latency=learnt, clock=clock)
    estimate = pipeline.retrieve(QUERY, 6, strategy=strategy).analysis.estimated_latency
    assert estimate == pytest.approx(seconds)


def test_a_retrieval_teaches_what_its_stages_took(clock):
    memory = Memory(clock, frequencies=0.01, match=0.02, embed=0.03, nearest=0.04, texts=0.05)
    learnt = LatencyModel()
    config = RetrievalConfig.model_validate({"lexical": {"enabled": False}, "strategy": "single_stage"})
    pipeline = Pipeline(config, memory, latency=learnt, clock=clock)
    for _ in range(32):
        found = pipeline.retrieve(QUERY, 6)
        assert found.analysis.estimated_latency is None
    took = sum(one.seconds for one in found.stages)
    assert pipeline.retrieve(QUERY, 6).analysis.estimated_latency == pytest.approx(took)
