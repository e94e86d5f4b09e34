"""Part `ingest`: fixed documents embedded, indexed and stored afresh."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import trial
from bench.suites.base import Experiment
from bench.trial import Measurement, Plan, Samples, Work
from bench.workload.dataset import TextDataset
from brein import Document, Engine, EngineConfig, embedding

METRICS: tuple[str, ...] = ("memory.ingest",)


def check(experiment: Experiment) -> None:
    """Refuse too few documents for the index."""
    if isinstance(experiment.dataset, TextDataset):
        documents = _documents(experiment.dataset, experiment.config.suite.memory.ingest_documents)
        experiment.check_size(len(documents), "documents to ingest (suite.memory.ingest_documents)", 1)


def plan(experiment: Experiment) -> Work:
    """Count the tokens, plan the ingestion."""
    dataset, config = experiment.dataset, experiment.config
    if not isinstance(dataset, TextDataset):
        return Work(skipped={"memory.ingest": "needs a data set of texts"})
    documents = _documents(dataset, config.suite.memory.ingest_documents)
    spans = embedding.tokenizer(config.embedding)([document.text for document in documents])
    most = getattr(config.embedding, "max_tokens", None) or max(map(len, spans))
    lengths = [min(len(tokens), most) for tokens in spans]
    argument = {
        "engine": experiment.engine.model_dump_json(),
        "documents": [[document.id, document.text] for document in documents],
        "scratch": str(experiment.store.scratch()),
    }
    conditions = {
        "memory.ingest": f"{len(lengths):,} documents of {np.mean(lengths):.0f} tokens on average, "
        f"{np.median(lengths):.0f} in the middle, {max(lengths)} at most"
    }
    return Work(
        [Plan("memory", "ingest", "bench.suites.memory.ingest:ingest", argument)], conditions=conditions
    )


def _documents(dataset: TextDataset, wanted: int) -> Sequence[Document]:
    """Those that are held out, then those that are searched."""
    return (*dataset.held_out, *dataset.documents)[:wanted]


def ingest(argument: dict[str, Any]) -> Measurement:
    """In a child: time the ingestion of fixed documents into a new engine on disk, model already loaded."""
    documents = [Document(*fields) for fields in argument["documents"]]
    with tempfile.TemporaryDirectory(dir=argument["scratch"]) as folder:
        config = EngineConfig.read(argument["engine"]).model_copy(update={"path": Path(folder) / "engine"})
        with Engine.open(config) as engine:
            engine.warm_up()
            yield
            start = time.perf_counter()
            engine.ingest(documents)
            seconds = time.perf_counter() - start
    samples = Samples("memory.ingest")
    samples.add(seconds, items=len(documents))
    return trial.report(samples)
