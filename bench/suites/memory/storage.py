"""Part `storage`: documents written and read in several numbers of SQLite files, on the artifacts' disk."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from bench import trial
from bench.suites.base import Experiment
from bench.trial import Measurement, Plan, Samples, Work
from bench.workload import prose
from brein import Document, EngineConfig, storage
from brein.records import FloatArray
from brein.storage import DocumentStore

METRICS: tuple[str, ...] = ("memory.storage",)
_BATCH, _READ = 100, 10  # documents in one write, ids in one read
_WORDS, _DIMENSION = 40, 384  # of a document and its vector

Task = TypeVar("Task", bound=Sized)


def plan(experiment: Experiment) -> Work:
    """Plan the writes and reads."""
    settings, config = experiment.config.suite.memory, experiment.config.storage
    argument = {
        "engine": experiment.engine.model_dump_json(),
        "settings": settings.model_dump(mode="json"),
        "scratch": str(experiment.store.scratch()),
    }
    conditions = {
        "memory.storage.write": f"{settings.storage_documents:,} documents with vectors of {_DIMENSION} "
        f"components a process, {_BATCH} in one call, synchronous = {config.synchronous}, after one call to "
        "warm up",
        "memory.storage.read": f"{settings.storage_reads:,} reads a process of {_READ} texts by random ids, "
        "just written (the system's page cache is warm), after one to warm up",
    }
    return Work(
        [Plan("memory", "storage", "bench.suites.memory.storage:measure", argument)], conditions=conditions
    )


def measure(argument: dict[str, Any]) -> Measurement:
    """In a child: write the same documents to every number of shards, then read them back, in turn.

    Each store is first written to and read from once, untimed.
    """
    settings, seed = argument["settings"], argument["seed"]
    config = EngineConfig.read(argument["engine"]).storage
    first, *batches = _batches(_BATCH + settings["storage_documents"], seed)
    ids = [document.id for batch in batches for document in batch.documents]
    random = np.random.default_rng(seed)
    reads = [random.choice(ids, _READ, replace=False).tolist() for _ in range(settings["storage_reads"])]
    with tempfile.TemporaryDirectory(dir=argument["scratch"]) as folder, ExitStack() as opened:
        stores = {}
        for shards in settings["storage_shards"]:
            changed = config.model_copy(update={"shards": shards})
            stores[shards] = storage.create(changed, Path(folder) / str(shards))
            opened.callback(stores[shards].close)
        yield
        for store in stores.values():
            _write(store, first)
            store.texts([document.id for document in first.documents[:_READ]])
        written = _in_turn("memory.storage.write", stores, batches, _write)
        read = _in_turn("memory.storage.read", stores, reads, DocumentStore.texts)
    return trial.report(*written, *read)


class _Batch(NamedTuple):
    """Documents with their vectors, float32 (n, d)."""

    documents: list[Document]
    vectors: FloatArray

    def __len__(self) -> int:
        return len(self.documents)


def _batches(count: int, seed: int) -> Iterator[_Batch]:
    random = np.random.default_rng(seed)
    texts = prose.texts(count, _WORDS, seed)
    for start in range(0, count, _BATCH):
        rows = range(start, min(start + _BATCH, count))
        documents = [Document(f"document {row}", texts[row]) for row in rows]
        yield _Batch(documents, random.standard_normal((len(rows), _DIMENSION), dtype=np.float32))


def _write(store: DocumentStore, batch: _Batch) -> None:
    store.add(batch.documents, batch.vectors, "random")


def _in_turn(
    series: str,
    stores: Mapping[int, DocumentStore],
    tasks: Sequence[Task],
    do: Callable[[DocumentStore, Task], object],
) -> list[Samples]:
    """Do each task with every store before the next one, in an order that rotates."""
    samples = {shards: Samples(series, shards=str(shards)) for shards in stores}
    begin = time.perf_counter()
    for turn, task in enumerate(tasks):
        for shards in np.roll(list(stores), turn).tolist():
            start = time.perf_counter()
            do(stores[shards], task)
            end = time.perf_counter()
            samples[shards].add(end - start, start - begin, items=len(task))
    return list(samples.values())
