"""Part `ablation`: the pipeline with one thing changed at a time, query by query."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from bench import quality, trial
from bench.suites import ingested
from bench.suites.base import Experiment
from bench.timing import Timed, time_each
from bench.trial import Measurement, Plan, Samples, Work
from bench.workload.dataset import TextDataset
from brein import Engine, Retrieval
from brein.retrieval.pipeline import RetrievalConfig

WHOLE = "whole"
_EXPANSION = 10  # words that a query is expanded by, where that is the change
SERIES = "query.ablation"


def plan(experiment: Experiment) -> Work:
    """Plan the variants."""
    dataset = experiment.text("query")
    queries = _judged(dataset)
    if not queries:
        return Work(skipped={SERIES: f"{dataset.name} has no judgements to tell a better answer by"})
    vectors = experiment.embedded(dataset)
    engine = experiment.engine
    # It learns from no answer, or a variant would be helped by those of the others to the same query.
    mesh = engine.retrieval.mesh.model_copy(update={"co_retrieved": 0})
    whole = engine.retrieval.model_copy(update={"mesh": mesh})
    # It is made whether it is used or not, so that it can be switched on.
    made = whole.model_copy(update={"mesh": mesh.model_copy(update={"enabled": True})})
    argument = {
        "engine": engine.model_copy(update={"retrieval": made}).model_dump_json(),
        "folder": str(ingested.folder(experiment, dataset, vectors)),
        "variants": {name: one.model_dump_json() for name, one in variants(whole).items()},
        "queries": queries,
        "k": experiment.config.suite.query.k,
        "scratch": str(experiment.store.scratch()),
    }
    condition = (
        f"{len(queries):,} queries with judgements, each asked of every variant of the pipeline in random "
        f"order, caches empty, among {len(dataset.documents):,} documents; over the whole pipeline's answer "
        "to the same query"
    )
    return Work(
        [Plan("query", "ablation", "bench.suites.query.ablation:run", argument)],
        conditions={SERIES: condition},
    )


def variants(config: RetrievalConfig) -> dict[str, RetrievalConfig]:
    """The pipeline itself, under the name `WHOLE`, each strategy, and each stage switched the other way."""

    def changed(**parts: Any) -> RetrievalConfig:
        return config.model_copy(update=parts)

    found = {WHOLE: config}
    for strategy in ("single_stage", "two_stage", "multi_stage"):
        found[strategy] = changed(strategy=strategy)
    lexical, vectors, mesh = config.lexical, config.vectors, config.mesh
    if lexical.enabled and vectors.enabled:
        found["without lexical"] = changed(lexical=lexical.model_copy(update={"enabled": False}))
        found["without vectors"] = changed(vectors=vectors.model_copy(update={"enabled": False}))
    if config.reranker is not None:
        found["without rerank"] = changed(reranker=None)
    word = "without" if mesh.enabled else "with"
    other = mesh.model_copy(update={"enabled": not mesh.enabled})
    found[f"multi_stage {word} mesh"] = changed(mesh=other, strategy="multi_stage")  # auto may leave it out
    words = lexical.expansion.words
    expansion = lexical.expansion.model_copy(update={"words": 0 if words else _EXPANSION})
    found[f"{'without' if words else 'with'} expansion"] = changed(
        lexical=lexical.model_copy(update={"expansion": expansion})
    )
    return found


def _judged(dataset: TextDataset) -> list[tuple[str, str, dict[str, int]]]:
    return [
        (query.id, query.text, dict(judgements))
        for query in dataset.queries
        if (judgements := dataset.judgements.get(query.id))
    ]


def run(argument: dict[str, Any]) -> Measurement:
    """In a child: ask every query of every variant, in random order; then judge them."""
    configs = {name: RetrievalConfig.read(text) for name, text in argument["variants"].items()}
    queries, seed = argument["queries"], random.Random(argument["seed"])  # noqa: S311  an order, no secret
    order = seed.sample(range(len(queries)), len(queries))
    asked = [(row, name) for row in order for name in seed.sample(list(configs), len(configs))]
    with ingested.opened(argument) as engine:
        yield
        timed = _ask(engine, configs, [(queries[row][1], name) for row, name in asked], argument["k"])
    yield
    by_query: dict[int, dict[str, Timed[Retrieval]]] = {}
    for (row, name), one in zip(asked, timed, strict=True):
        by_query.setdefault(row, {})[name] = one
    found = [_compared(by_query, queries, name) for name in configs if name != WHOLE]
    return trial.report(*found)


def _ask(
    engine: Engine, configs: Mapping[str, RetrievalConfig], asked: list[tuple[str, str]], k: int
) -> list[Timed[Retrieval]]:
    def prepared() -> Iterator[str]:
        for text, name in asked:
            engine.retune(configs[name])
            engine.clear_caches()
            yield text

    return time_each(lambda text: engine.retrieve(text, k), prepared())


def _compared(by_query: Mapping[int, Mapping[str, Timed[Retrieval]]], queries: Any, name: str) -> Samples:
    """What a variant takes and finds over the whole pipeline, query by query."""
    samples = Samples(SERIES, change=name)
    for row, timed in by_query.items():
        id_, _, relevant = queries[row]
        whole, changed = timed[WHOLE], timed[name]
        samples.add(
            changed.seconds,
            changed.start,
            query=id_,
            reference=whole.seconds,
            ndcg_difference=_ndcg(changed, relevant) - _ndcg(whole, relevant),
        )
    return samples


def _ndcg(timed: Timed[Retrieval], relevant: Mapping[str, int]) -> float:
    return quality.ndcg([hit.id for hit in timed.given.hits], relevant, 10)
