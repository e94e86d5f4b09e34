"""Parts `cold`, `popular` and `filtered`: passes over one engine, in one process, each from empty caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

import numpy as np

from bench import quality, trial
from bench.suites import ingested
from bench.suites.base import Experiment
from bench.suites.query.filtered import Filtered
from bench.timing import Timed, time_each
from bench.trial import Measurement, Plan, Samples, Work
from bench.workload import popularity
from bench.workload.dataset import IntArray, TextDataset
from bench.workload.popularity import Stream
from brein import Engine, Retrieval
from brein.records import Strategy
from brein.storage import Where

PARTS = {"cold": "query.search cold", "popular": "query.search {kind}", "filtered": "query.filtered"}
# What the cold pass gives.
_COLD = ("query.search cold", "query.stage", "query.degraded", "query.strategy", "query.prediction")


def plan(experiment: Experiment) -> Work:
    """Plan the passes that are wanted; one left out says so."""
    dataset = experiment.text("query")
    settings = experiment.config.suite.query
    requests = stream(experiment, dataset)
    kind = requests.popularity.kind
    among = f"{len(dataset.documents):,} documents"
    left_out = experiment.caches_left_out
    conditions = {
        "cold": f"{len(dataset.queries):,} queries, each once, among {among}{left_out}",
        "popular": f"{settings.requests:,} requests for {len(dataset.queries):,} queries, "
        f"{requests.described}, among {among}; caches empty at first{left_out}",
        "filtered": f"{min(settings.filtered_queries, len(dataset.queries)):,} queries for "
        f"{Filtered.K} hits a process for each share, among the documents whose number, drawn at random, is "
        "below a bound, after one to warm up: their vectors put to the index, then, caches empty, their "
        "texts through every stage; recall is that of the index against exact search among these documents"
        + ("; on the CPU, as FAISS's GPU indexes do not filter" if experiment.wants_gpu else ""),
    }
    series = {part: text.format(kind=kind) for part, text in PARTS.items()}
    skipped = {
        series[part]: f"suite.query.parts leaves {part} out" for part in PARTS if part not in settings.parts
    }
    wanted = [part for part in PARTS if part in settings.parts]
    if not wanted:
        return Work(skipped=skipped)
    vectors = experiment.embedded(dataset)
    argument = {
        "engine": experiment.engine.model_dump_json(),
        "folder": str(ingested.folder(experiment, dataset, vectors)),
        "vectors": str(vectors.folder),
        "documents": [document.id for document in dataset.documents],
        "queries": [[query.id, query.text] for query in dataset.queries],
        "judgements": {query.id: dict(dataset.judgements.get(query.id, {})) for query in dataset.queries},
        "stream": requests.model_dump_json(),
        "settings": settings.model_dump(mode="json"),
        "scratch": str(experiment.store.scratch()),
    }
    return Work(
        [Plan("query", " and ".join(wanted), "bench.suites.query.passes:run", argument)],
        conditions={series[part]: conditions[part] for part in wanted},
        skipped=skipped,
    )


def stream(experiment: Experiment, dataset: TextDataset) -> Stream:
    """The requests of the part `popular`."""
    ids = [query.id for query in dataset.queries]
    return popularity.for_queries(experiment.config.popularity, ids, experiment.config.suite.query.requests)


def run(argument: dict[str, Any]) -> Measurement:
    """In a child: the wanted passes, one after another; then what they found is judged."""
    settings, queries = argument["settings"], argument["queries"]
    wanted = settings["parts"]
    order = np.random.default_rng(argument["seed"]).permutation(len(queries))
    texts = [queries[row][1] for row in order]
    requests = Stream.read(argument["stream"])
    kind = requests.popularity.kind
    filtered = Filtered(argument, order[: settings["filtered_queries"]])
    measured: list[Callable[[], list[Samples]]] = []
    doubts: dict[str, str] = {}
    with ingested.opened(argument) as engine:
        yield
        if "cold" in wanted:
            before = _answered(engine)
            cold = _ask_once(engine, texts, settings["k"])
            doubts |= _doubt(_answered(engine) - before, *_COLD)
            ids = [queries[row][0] for row in order]
            measured.append(lambda: _cold(cold, ids, argument["judgements"]))
        if "popular" in wanted:
            rows = requests.drawn(argument["seed"])
            popular = _ask_stream(engine, queries, rows, kind, settings["k"])
            doubts |= _doubt(_impossible(popular, dict(queries)), f"query.search {kind}")
            measured.append(lambda: [popular])
        peak, kinds = trial.peak_memory(), trial.memory_by_kind()
        if "filtered" in wanted:
            asked = {share: filtered.asked(engine, share) for share in settings["filter_shares"]}
            metric = engine.config.index.metric
            measured.append(lambda: [filtered.judged(timed, s, metric) for s, timed in asked.items()])
            in_words = [_ask_among(engine, filtered, share) for share in settings["filter_shares"]]
            measured.append(lambda: in_words)
    yield
    samples = [series for judge in measured for series in judge()]
    return trial.report(*samples, doubts=doubts, peak_memory=peak, **kinds)


def _ask_once(
    engine: Engine, texts: Sequence[str], k: int, where: Where | None = None
) -> list[Timed[Retrieval]]:
    """Ask each text while no cache knows it."""
    engine.clear_caches()
    known = set()

    def unknown() -> Iterator[str]:
        for text in texts:
            if text in known:
                engine.clear_caches()  # two queries may have one text
            known.add(text)
            yield text

    return time_each(lambda text: engine.retrieve(text, k, where), unknown())


def _ask_among(engine: Engine, filtered: Filtered, share: float) -> Samples:
    """Ask the texts of the filtered queries among this share, through every stage, after one to warm up."""
    where = filtered.where(share)
    engine.retrieve(filtered.texts[0], Filtered.K, where)
    timed = _ask_once(engine, filtered.texts, Filtered.K, where)
    samples = Samples("query.filtered", of="text", share=f"{share:g}")
    for id_, one in zip(filtered.ids, timed, strict=True):
        samples.add(one.seconds, one.start, query=id_)
    return samples


def _cold(
    timed: list[Timed[Retrieval]], ids: list[str], judgements: Mapping[str, Mapping[str, int]]
) -> list[Samples]:
    """The cold pass as samples: each query whole, with its quality where there are judgements; its stages;
    whether it was degraded; which strategy it had; and how long it was expected to take."""
    whole = Samples("query.search", phase="cold")
    degraded, predicted = Samples("query.degraded"), Samples("query.prediction")
    stages: dict[str, Samples] = {}
    strategies = {name: Samples("query.strategy", strategy=name) for name in get_args(Strategy)}
    for id_, one in zip(ids, timed, strict=True):
        judged: dict[str, Any] = {}
        if relevant := judgements[id_]:
            found = [hit.id for hit in one.given.hits]
            judged["ndcg_at_10"] = quality.ndcg(found, relevant, 10)
            judged["mrr_at_10"] = quality.reciprocal_rank(found, relevant, 10)
            judged["recall_at_10"] = quality.recall(found, relevant, 10)
        whole.add(one.seconds, one.start, query=id_, **judged)
        degraded.add(float(one.given.degraded is not None), one.start, query=id_)
        for stage in one.given.stages:
            of_stage = stages.setdefault(stage.name, Samples("query.stage", stage=stage.name))
            of_stage.add(stage.seconds, one.start, query=id_)
        for name, samples in strategies.items():
            samples.add(float(one.given.strategy == name), one.start, query=id_)
        if (estimate := one.given.analysis.estimated_latency) is not None:
            predicted.add(one.seconds, one.start, query=id_, reference=estimate)
    return [whole, *stages.values(), degraded, *strategies.values(), predicted]


def _ask_stream(engine: Engine, queries: list[list[str]], rows: IntArray, kind: str, k: int) -> Samples:
    """Ask a stream of requests, caches empty at its start, and see which of them the cache answered."""
    engine.clear_caches()
    answered = []

    def texts() -> Iterator[str]:
        for row in rows.tolist():
            answered.append(_answered(engine))
            yield queries[row][1]

    timed = time_each(lambda text: engine.search(text, k), texts())
    answered.append(_answered(engine))
    samples = Samples("query.search", phase=kind)
    for row, one, hits in zip(rows.tolist(), timed, np.diff(answered).tolist(), strict=True):
        samples.add(one.seconds, one.start, query=queries[row][0], cache_hit=hits > 0)
    return samples


def _impossible(popular: Samples, texts: Mapping[str, str]) -> int:
    """How many requests of the stream a cache answered that nobody had asked before."""
    asked: set[str] = set()
    found = 0
    for row in popular.rows:
        text = texts[row["query"]]
        found += row["cache_hit"] and text not in asked
        asked.add(text)
    return found


def _doubt(impossible: int, *series: str) -> dict[str, str]:
    """What was answered from caches that should have been empty."""
    if not impossible:
        return {}
    return dict.fromkeys(series, f"a cache answered {impossible} queries it should not have known")


def _answered(engine: Engine) -> int:
    """How many searches a level of the search cache has answered."""
    return sum(level.hits for level in engine.cache_stats()["search"].values())
