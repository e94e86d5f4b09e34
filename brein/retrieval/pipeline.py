"""The stages of a retrieval, each within its budget.

    lexical    the query is analysed; documents that have its words, by BM25
    embedding  it becomes a vector, where a later stage takes one
    vectors    documents near to it, by the index
    fusion     both as one ranking, by reciprocal rank
    rerank     the best of these in a better order                        two_stage and multi_stage
    mesh       and what is associated with them                           multi_stage

A stage that spends its budget is left out, and embedding, rerank and mesh where they fail: the answer is that
of the stage before, and says so. What goes wrong in a search is raised, as is a failing embedding where words
found nothing. A search is not interrupted: its budget decides whether it counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import Field, model_validator

from brein.records import Analysis, FloatArray, Hit, Retrieval, Stage, Strategy
from brein.retrieval.fusion import Ranking, best_first, reciprocal_rank
from brein.retrieval.latency import LatencyModel
from brein.retrieval.mesh import Mesh, MeshConfig
from brein.retrieval.optimizer import ExpansionConfig, QueryOptimizer, Reading, Words
from brein.retrieval.rerank import AnyReranker, Candidates, Contents, InterpolationConfig, Reranker
from brein.retrieval.stages import LegConfig, Stages
from brein.settings import Settings
from brein.storage import Where


class LexicalConfig(LegConfig):
    """Settings of the search by words."""

    common: float = Field(
        0.2,
        gt=0,
        le=1,
        description="words in more than this share of the documents, and ten, are not searched for",
    )
    expansion: ExpansionConfig = Field(default_factory=ExpansionConfig)


class RetrievalConfig(Settings):
    """Settings of the pipeline."""

    strategy: Literal["auto", "single_stage", "two_stage", "multi_stage"] = Field(
        "auto", description="auto: the one that the query's complexity calls for"
    )
    lexical: LexicalConfig = Field(default_factory=LexicalConfig)
    embedding_budget: float = Field(
        5.0, gt=0, le=60, description="seconds; where it takes longer, what words found is the answer"
    )
    vectors: LegConfig = Field(default_factory=LegConfig)
    rank_constant: int = Field(10, ge=1, le=1000, description="of reciprocal rank fusion: 1 / (this + rank)")
    reranker: AnyReranker | None = Field(
        default_factory=InterpolationConfig, description="null: no document is put in another order"
    )
    mesh: MeshConfig = Field(default_factory=MeshConfig)

    @model_validator(mode="after")
    def _finds_candidates(self) -> RetrievalConfig:
        if not (self.lexical.enabled or self.vectors.enabled):
            raise ValueError("lexical.enabled and vectors.enabled are both false; a search needs one of them")
        return self


@dataclass(frozen=True)
class Embedded:
    """A query's vector, float32 (d,), and whether it was computed or known before."""

    vector: FloatArray
    computed: bool


class Memory(Words, Contents, Protocol):
    """What the pipeline asks of the engine it is a part of."""

    def embed_query(self, query: str) -> Embedded:
        """The vector of a text."""

    def nearest(self, vector: FloatArray, k: int, where: Where | None) -> Ranking:
        """The `k` documents nearest to float32 (d,) that fulfil `where`; scores are in the index's metric.

        Raises:
            ShardsMissingError: some shards of the index did not answer; it carries what the others found.
        """

    def find(self, where: Where) -> Collection[str]:
        """The ids of the documents whose metadata fulfil `where`."""


class Pipeline:
    """Retrieves documents for texts. Safe to use from several threads where its parts are.

    `reranker` and `mesh` are None where they are switched off. `latency` is what is known of how long such
    stages take; `clock` gives seconds.
    """

    def __init__(
        self,
        config: RetrievalConfig,
        memory: Memory,
        reranker: Reranker | None = None,
        mesh: Mesh | None = None,
        *,
        latency: LatencyModel | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._config = config
        self._memory = memory
        self._reranker = reranker
        self._mesh = mesh
        self._latency = latency or LatencyModel()
        self._clock = clock
        self._optimizer = QueryOptimizer(
            config.lexical.expansion, config.lexical.common, memory, self._estimate
        )

    def warm_up(self) -> None:
        """Load now what the first queries would wait for."""
        self._latency.warm_up()
        if self._reranker is not None:
            self._reranker.warm_up()

    def analyse(self, query: str) -> Analysis:
        """What a retrieval of `query` finds out about it, without the retrieval."""
        if self._config.lexical.enabled:
            return self._optimizer.optimize(query, self._configured)
        reading = self._optimizer.read(query)
        return self._optimizer.analysis(reading, [], reading.searched, self._configured)

    def retrieve(
        self, query: str, k: int, where: Where | None = None, strategy: Strategy | None = None
    ) -> Retrieval:
        """Find the `k` best documents for a text that fulfil `where`; `strategy` None: the configured one."""
        config, stages = self._config, Stages(self._clock)
        reading = stages.run("analysis", lambda: self._optimizer.read(query))
        first, expanded, scored = Ranking(), reading.searched, Ranking()

        def lexical(candidates: int) -> Ranking:
            nonlocal first, expanded, scored
            limit = max(candidates, k)
            first = scored = self._memory.match(reading.searched, limit, where)
            expanded = self._optimizer.expanded(reading, first)
            if expanded != reading.searched:
                scored = self._memory.match(expanded, limit, where)
            return scored

        matches = stages.leg("lexical", config.lexical, lexical)
        chosen = strategy or self._configured
        analysis = self._optimizer.analysis(reading, first, expanded, chosen)
        used = chosen or analysis.strategy
        embedded = self._embedded(stages, query, matches) if self._embeds(used) else None
        near = None
        if embedded:
            vector = embedded.vector
            near = stages.leg(
                "vectors", config.vectors, lambda n: self._memory.nearest(vector, max(n, k), where)
            )
        ranking = stages.fused([matches, near], config.rank_constant)
        if embedded and self._reranks(used):
            scores = dict(scored)  # of a search that was late, too: they are there
            ranking = self._reranked(stages, ranking, k, query=query, vector=embedded.vector, lexical=scores)
        if used == "multi_stage":
            ranking = self._spread(stages, ranking, k, where)
        hits = stages.run("documents", lambda: self._hits(ranking[:k]), len(ranking[:k]), len)
        if where is None:
            self._learn(reading, embedded is not None and embedded.computed, stages.reports)
        return Retrieval(hits, analysis, used, tuple(stages.reports))

    # --- the stages ------------------------------------------------------------------------------------

    def _embedded(self, stages: Stages, query: str, matches: Ranking | None) -> Embedded | None:
        """The query's vector; None where it took too long or failed, and there is an answer without."""
        if not matches:
            return stages.run("embedding", lambda: self._memory.embed_query(query))
        budget = self._config.embedding_budget
        return stages.attempt("embedding", 0, budget, lambda check: self._memory.embed_query(query))

    def _reranked(
        self,
        stages: Stages,
        ranking: Ranking,
        k: int,
        *,
        query: str,
        vector: FloatArray,
        lexical: dict[str, float],
    ) -> Ranking:
        config, reranker = self._config.reranker, self._reranker
        if config is None or reranker is None or not ranking:
            return ranking
        ids = [id_ for id_, _ in ranking[: max(config.candidates, k)]]

        def work(check: Callable[[], None]) -> Ranking:
            candidates = Candidates(query, vector, ids, lexical, self._memory, check)
            return best_first(reranker.scores(candidates).items())

        return stages.attempt("rerank", len(ids), config.budget, work, len) or ranking

    def _spread(self, stages: Stages, ranking: Ranking, k: int, where: Where | None) -> Ranking:
        config, mesh = self._config.mesh, self._mesh
        if mesh is None or not ranking:
            return ranking
        best = ranking[: max(config.seeds, k)]

        def work(check: Callable[[], None]) -> Ranking:
            active = mesh.traverse(dict(_as_relevance(best, self._config.rank_constant)))
            if where is None:
                return active
            allowed = set(self._memory.find(where))
            return [one for one in active if one[0] in allowed]

        found = stages.attempt("mesh", len(best), config.budget, work, len)
        return ranking if found is None else _completed(found, best)

    def _hits(self, ranking: Ranking) -> tuple[Hit, ...]:
        """With their texts; what was deleted since it was found is left out."""
        texts = self._memory.texts([id_ for id_, _ in ranking])
        return tuple(Hit(id_, score, texts[id_]) for id_, score in ranking if id_ in texts)

    # --- how long it takes -----------------------------------------------------------------------------

    @property
    def _configured(self) -> Strategy | None:
        """None where a query's complexity is to choose."""
        return None if self._config.strategy == "auto" else self._config.strategy

    def _reranks(self, strategy: Strategy) -> bool:
        return strategy != "single_stage" and self._reranker is not None

    def _embeds(self, strategy: Strategy) -> bool:
        return self._config.vectors.enabled or self._reranks(strategy)

    def _estimate(self, reading: Reading, strategy: Strategy) -> float | None:
        config = self._config
        stages = ["analysis", "documents"]
        if self._embeds(strategy):
            stages.append("embedding")
        legs = {"lexical": config.lexical, "vectors": config.vectors}
        searched = [name for name, leg in legs.items() if leg.enabled]
        stages += searched if len(searched) == 1 else [*searched, "fusion"]
        if self._reranks(strategy):
            stages.append("rerank")
        if strategy == "multi_stage" and self._mesh is not None:
            stages.append("mesh")
        return self._latency.predict({name: reading.drivers(name) for name in stages})

    def _learn(self, reading: Reading, computed: bool, reports: Sequence[Stage]) -> None:
        for report in reports:
            whole = report.skipped is None and not report.missing
            if whole and (computed or report.name != "embedding"):
                self._latency.learn(report.name, reading.drivers(report.name), report.seconds)


def _as_relevance(ranking: Ranking, constant: int) -> Ranking:
    """A ranking with scores of which larger is better and none is negative: its own, or else by its ranks.

    Distances, where smaller is nearer, and cosines below 0 come from a search by vectors alone.
    """
    scores = [score for _, score in ranking]
    if scores[0] >= scores[-1] >= 0:
        return ranking
    return reciprocal_rank([ranking], constant)


def _completed(found: Ranking, before: Ranking) -> Ranking:
    """What the mesh found, then what it does not know or had no room for, in its order, with scores of 0."""
    there = {id_ for id_, _ in found}
    return [*found, *((id_, 0.0) for id_, _ in before if id_ not in there)]
