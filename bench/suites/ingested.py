"""An engine's folder with a whole data set in it; trials open copies."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench import process
from bench.artifacts import Artifact
from bench.machine import compute_threads, faiss
from bench.suites.base import Experiment
from bench.workload import embeddings
from bench.workload.dataset import IntArray, TextDataset
from bench.workload.embeddings import Vectors
from brein import Document, Engine, EngineConfig, index, storage

FIELD = "drawn"  # of every document's metadata: a number from 0 up, each given once, in a random order
_FIELDS = 1  # format of that metadata; a change makes every older artifact unreachable


def artifact(experiment: Experiment, dataset: TextDataset) -> Artifact:
    """The folder, known without making it."""
    config = experiment.config
    content = {
        "dataset": dataset.sha256,
        "vectors": embeddings.text_artifact(dataset, config.embedding).key,
        "index": config.index.build_parameters,
        "storage": config.storage.model_dump(mode="json"),
        "formats": [storage.FORMAT, index.FORMAT, _FIELDS],
        "faiss": faiss(),
        "numpy": np.__version__,
        "threads": compute_threads(config.trial.threads),
    }
    return Artifact("engines", content)


def folder(experiment: Experiment, dataset: TextDataset, vectors: Vectors) -> Path:
    """The folder, made now if it is not stored yet."""
    config = experiment.config

    def build(folder: Path) -> None:
        # Only what the key holds: neither caches nor a memory limit leave their mark on the documents.
        engine = EngineConfig(embedding=config.embedding, index=config.index, storage=config.storage)
        argument = {
            "engine": engine.model_dump_json(),
            "documents": [[document.id, document.text] for document in dataset.documents],
            "vectors": str(vectors.folder),
            "folder": str(folder),
        }
        process.call("bench.suites.ingested:ingest", argument, threads=compute_threads(config.trial.threads))

    return experiment.store.get_or_build(*artifact(experiment, dataset), build)


def ingest(argument: dict[str, Any]) -> dict[str, Any]:
    """In a child: fill an engine with documents embedded before."""
    config = EngineConfig.read(argument["engine"]).model_copy(update={"path": Path(argument["folder"])})
    vectors = np.load(Path(argument["vectors"]) / "vectors.npy")
    drawn = numbers(len(argument["documents"])).tolist()
    documents = [
        Document(id_, text, {FIELD: number})
        for (id_, text), number in zip(argument["documents"], drawn, strict=True)
    ]
    with Engine.open(config) as engine:
        engine.ingest(documents, vectors)
    return {}


def numbers(documents: int) -> IntArray:
    """The number in each document's metadata, int64 (documents,): those below n choose n at random."""
    return np.random.default_rng(0).permutation(documents)


@contextmanager
def opened(argument: Mapping[str, Any]) -> Iterator[Engine]:
    """In a child: the configured `engine` on a copy of the `folder`, its model loaded; gone afterwards."""
    with tempfile.TemporaryDirectory(dir=argument["scratch"]) as scratch:
        copy = Path(scratch) / "engine"
        shutil.copytree(argument["folder"], copy)
        config = EngineConfig.read(argument["engine"]).model_copy(update={"path": copy})
        with Engine.open(config) as engine:
            engine.warm_up()
            yield engine
