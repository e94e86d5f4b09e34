"""What every suite is given."""

from __future__ import annotations

from dataclasses import dataclass

from bench.artifacts import Store
from bench.config import ExperimentConfig
from bench.errors import UsageError
from bench.record import DatasetFacts
from bench.workload import embeddings
from bench.workload.dataset import Dataset, TextDataset, VectorDataset
from bench.workload.embeddings import Vectors


@dataclass(frozen=True)
class Experiment:
    """A configured experiment with its data loaded.

    `memory_vectors` is what the memory suite searches where that is not the data set itself.
    """

    config: ExperimentConfig
    dataset: Dataset
    memory_vectors: VectorDataset | None
    store: Store

    def vector_count(self) -> int:
        """How many vectors the memory suite searches."""
        source = self.memory_vectors or self.dataset
        return len(source.vectors) if isinstance(source, VectorDataset) else len(source.documents)

    def vectors(self) -> Vectors:
        """The vectors the memory suite searches, made now if they are not stored yet."""
        if self.memory_vectors is not None:
            return embeddings.of_vectors(self.memory_vectors, self.store)
        if isinstance(self.dataset, VectorDataset):
            return embeddings.of_vectors(self.dataset, self.store)
        return self.embedded(self.dataset)

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
