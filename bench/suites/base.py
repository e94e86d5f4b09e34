"""What every suite is given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from bench import process
from bench.artifacts import Artifact, Store
from bench.config import ExperimentConfig
from bench.errors import UsageError
from bench.record import DatasetFacts
from bench.workload import embeddings
from bench.workload.dataset import Dataset, TextDataset, VectorDataset
from bench.workload.embeddings import Vectors
from brein import EngineConfig


@dataclass(frozen=True)
class Experiment:
    """A configured experiment with its data loaded.

    `memory_vectors` is what the memory suite searches where that is not the data set itself.
    """

    config: ExperimentConfig
    dataset: Dataset
    memory_vectors: VectorDataset | None
    store: Store

    @property
    def engine(self) -> EngineConfig:
        """The engine that trials open, with caches empty at first and nobody else's, free to be cleared.

        L3 lies in the trial's own folder, whatever `cache.l3.path`; L2 is left out where it is a server that
        others may use (`cache.l2.url`).
        """
        engine = self.config.engine
        l2, l3 = engine.cache.l2, engine.cache.l3
        own = {
            "l2": l2.model_copy(update={"enabled": l2.enabled and l2.url is None, "url": None}),
            "l3": l3.model_copy(update={"path": None}),
        }
        return engine.model_copy(update={"cache": engine.cache.model_copy(update=own)})

    @property
    def caches_left_out(self) -> str:
        """What a condition adds where `engine` leaves a cache level out, else nothing."""
        l2 = self.config.cache.l2
        shared = l2.enabled and l2.url is not None
        return "; without L2, whose server (cache.l2.url) others may use" if shared else ""

    @property
    def wants_gpu(self) -> bool:
        """Whether the index, or its first pass, is to be searched on a GPU."""
        index = self.config.index
        return any(getattr(part, "device", "cpu") == "gpu" for part in (index, getattr(index, "first", None)))

    def lacks_gpu(self) -> bool:
        """Whether the index is to be searched on a GPU and faiss has none."""
        return self.wants_gpu and _gpus() == 0

    @property
    def searched(self) -> Dataset:
        """The data set whose vectors the memory suite searches."""
        return self.memory_vectors or self.dataset

    def vector_count(self) -> int:
        """How many vectors the memory suite searches."""
        source = self.searched
        return len(source.vectors) if isinstance(source, VectorDataset) else len(source.documents)

    def vectors(self) -> Vectors:
        """The vectors the memory suite searches, made now if they are not stored yet."""
        source = self.searched
        if isinstance(source, VectorDataset):
            return embeddings.of_vectors(source, self.store)
        return self.embedded(source)

    def vector_artifact(self) -> Artifact:
        """What `vectors` makes, known without making it."""
        source = self.searched
        if isinstance(source, VectorDataset):
            return embeddings.vector_artifact(source)
        return embeddings.text_artifact(source, self.config.embedding)

    def embedded(self, dataset: TextDataset) -> Vectors:
        """The embeddings of a text data set, made now if they are not stored yet."""
        return embeddings.of_text(dataset, self.config.embedding, self.store)

    def text(self, suite: str) -> TextDataset:
        """The data set, which has to be text.

        Raises:
            UsageError: it is vectors.
        """
        if isinstance(self.dataset, TextDataset):
            return self.dataset
        raise UsageError(
            f"suites = [{suite}] needs a data set of texts; {self.dataset.name} holds vectors only: choose "
            "dataset=pydocs or dataset=beir, or suites=[memory]"
        )

    def check_size(self, count: int, things: str, k: int) -> None:
        """Refuse data too small for the index or for `k`, before anything is made of it.

        Raises:
            UsageError: naming the setting and the bound.
        """
        minimum, setting = self.config.index.training_minimum
        if count < minimum:
            raise UsageError(
                f"{self.config.index.kind} needs at least {setting} = {minimum} vectors to train, got "
                f"{count:,} {things}; lower the index's setting or take more data"
            )
        if count < k:
            raise UsageError(f"k = {k}: there are only {count:,} {things}; lower k or take more data")


@cache
def _gpus() -> int:
    found: int = process.call("bench.suites.base:count_gpus", {}, threads=1)["gpus"]
    return found


def count_gpus(argument: dict[str, Any]) -> dict[str, Any]:
    """In a child: how many GPUs faiss can use."""
    from brein.index import gpu

    return {"gpus": gpu.count()}


def facts(dataset: Dataset) -> DatasetFacts:
    """What the record says of a data set."""
    if isinstance(dataset, TextDataset):
        judgements = sum(len(relevant) for relevant in dataset.judgements.values())
        counts = {
            "documents": len(dataset.documents),
            "queries": len(dataset.queries),
            "judgements": judgements,
        }
    else:
        count, dimension = dataset.vectors.shape
        counts = {"vectors": count, "queries": len(dataset.queries), "dimension": dimension}
    return DatasetFacts(name=dataset.name, sha256=dataset.sha256, counts=counts, facts=dict(dataset.facts))
