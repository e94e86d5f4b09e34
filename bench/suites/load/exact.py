"""What the configured retrieval finds with an exact index, undisturbed: by which answers are judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import process
from bench.artifacts import Artifact
from bench.errors import MeasurementError
from bench.machine import compute_threads
from bench.suites import ingested
from bench.suites.base import Experiment
from bench.workload.dataset import TextDataset
from brein import Engine, EngineConfig, Hit
from brein.index.flat import FlatConfig

K = 10  # hits; recall is judged at so many
_FORMAT = 1  # of the stored file; a change makes every older artifact unreachable
_TRIES = 5  # a stage can miss its budget while something else has the machine


def artifacts(experiment: Experiment, dataset: TextDataset) -> list[Artifact]:
    """What `found` makes, known without making it."""
    engine = ingested.artifact(_exact(experiment), dataset)
    content = {
        "engine": engine.key,
        "retrieval": experiment.config.retrieval.model_dump(mode="json"),
        "k": K,
        "format": _FORMAT,
    }
    return [engine, Artifact("answers", content)]


def found(experiment: Experiment, dataset: TextDataset) -> Path:
    """The file of the ids that each query finds, best first: a JSON list of lists of texts.

    Raises:
        UsageError: a stage of the retrieval keeps missing its budget.
    """
    exact = _exact(experiment)
    threads = compute_threads(exact.config.trial.threads)

    def build(folder: Path) -> None:
        config = exact.config
        engine = EngineConfig(
            embedding=config.embedding, index=config.index, storage=config.storage, retrieval=config.retrieval
        )
        argument = {
            "engine": engine.model_dump_json(),
            "folder": str(ingested.folder(exact, dataset, exact.embedded(dataset))),
            "queries": [query.text for query in dataset.queries],
            "scratch": str(exact.store.scratch()),
            "answers": str(folder / "found.json"),
        }
        process.call("bench.suites.load.exact:find", argument, threads=threads)

    *_, answers = artifacts(experiment, dataset)
    return experiment.store.get_or_build(*answers, build) / "found.json"


def _exact(experiment: Experiment) -> Experiment:
    """The experiment with an index that compares with every vector."""
    index = FlatConfig(metric=experiment.config.index.metric)
    return replace(experiment, config=experiment.config.model_copy(update={"index": index}))


def find(argument: dict[str, Any]) -> dict[str, Any]:
    """In a child: write what each query finds."""
    with ingested.opened(argument) as engine:
        ids = [[hit.id for hit in _hits(engine, query)] for query in argument["queries"]]
    Path(argument["answers"]).write_text(json.dumps(ids))
    return {}


def _hits(engine: Engine, query: str) -> tuple[Hit, ...]:
    for _ in range(_TRIES):
        retrieval = engine.retrieve(query, K)
        if retrieval.degraded is None:
            return retrieval.hits
    raise MeasurementError(f"{query!r}: {retrieval.degraded}, {_TRIES} times; raise the budget in retrieval")
