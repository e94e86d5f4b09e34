"""Part `batching`: queries embedded by several clients at once, in shared calls of the model and alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np

from bench import trial
from bench.suites.base import Experiment
from bench.trial import Measurement, Plan, Samples, Work
from brein import EngineConfig, embedding
from brein.embedding import Embedder
from brein.embedding.batcher import Batcher

SERIES = "query.batching"
_ROUNDS = 4  # in each, both sides, in alternating order


def plan(experiment: Experiment) -> Work:
    """Plan the clients, or say that texts are never embedded together."""
    dataset, config = experiment.text("query"), experiment.config
    shared = config.embedding.shared_batch
    if shared == 1:
        return Work(skipped={SERIES: "needs embedding.shared_batch of more than 1"})
    settings = config.suite.query
    argument = {
        "engine": experiment.engine.model_dump_json(),
        "texts": [query.text for query in dataset.queries],
        "clients": settings.batching_clients,
        "queries": settings.batching_queries,
    }
    conditions = {
        SERIES: f"{settings.batching_queries:,} queries embedded by so many clients, each of which asks for "
        f"the next as soon as it has one; shared: in calls of up to {shared} texts; alone: each in a call of "
        f"its own; {_ROUNDS} times each, in turn, in one process"
    }
    return Work(
        [Plan("query", "batching", "bench.suites.query.batching:run", argument)], conditions=conditions
    )


def run(argument: dict[str, Any]) -> Measurement:
    """In a child: let so many clients embed the queries, both ways."""
    config = EngineConfig.read(argument["engine"]).embedding
    model = embedding.create(config)
    sides: dict[str, Embedder] = {"shared": Batcher(model, config.shared_batch), "alone": model}
    random = np.random.default_rng(argument["seed"])
    all_texts, wanted = argument["texts"], argument["queries"]
    model.embed(["warm up"])
    yield
    found: list[Samples] = []
    for clients in argument["clients"]:
        rates = {side: Samples(SERIES, clients=str(clients), calls=side) for side in sides}
        waits = {side: Samples(f"{SERIES}.wait", clients=str(clients), calls=side) for side in sides}
        gain = Samples(f"{SERIES}.gain", clients=str(clients))
        for round_ in range(_ROUNDS):
            # Equal texts of a shared call are embedded once, so none is drawn twice without need.
            texts = random.choice(all_texts, wanted, replace=wanted > len(all_texts)).tolist()
            walls = {}
            for side in sorted(sides, reverse=bool(round_ % 2)):
                walls[side], seconds = _embed(sides[side], texts, clients)
                rates[side].add(walls[side], items=len(texts))
                for one in seconds:
                    waits[side].add(one)
            gain.add(walls["alone"], reference=walls["shared"])
        found += [*rates.values(), *waits.values(), gain]
    return trial.report(*found)


def _embed(embedder: Embedder, texts: Sequence[str], clients: int) -> tuple[float, list[float]]:
    """Seconds that so many clients take for all texts, and each text's own."""
    waiting = iter(texts)

    def client(_: int) -> list[float]:
        seconds = []
        while text := list(islice(waiting, 1)):  # the interpreter lets one thread at a time advance it
            start = time.perf_counter()
            embedder.embed(text)
            seconds.append(time.perf_counter() - start)
        return seconds

    with ThreadPoolExecutor(clients) as pool:
        start = time.perf_counter()
        each = list(pool.map(client, range(clients)))
        return time.perf_counter() - start, [one for seconds in each for one in seconds]
