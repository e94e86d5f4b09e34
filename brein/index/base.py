"""What every index kind shares: configuration, results, and the two interfaces.

`Index` is what callers see: vectors under their own text ids. `Structure` is what each FAISS family is:
vectors under integer labels. `faiss` is imported where a structure is made, not at the top: reading a
configuration must stay cheap, because the lab's parent process never loads it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from brein.errors import ConfigError, DataError
from brein.records import FloatArray
from brein.settings import Settings

Metric = Literal["cosine", "inner_product", "l2"]
LabelArray = npt.NDArray[np.int64]
POINTS_PER_CENTROID = 256  # training on more moves centroids no further; FAISS's own default


class IndexConfig(Settings):
    """What every index kind has. Names of parameters are FAISS's own."""

    # Parameters that act at search time: changing one needs no rebuild.
    QUERY_PARAMETERS: ClassVar[frozenset[str]] = frozenset()

    kind: str
    metric: Metric = Field("cosine", description="cosine is inner product over normalised vectors")
    shards: int = Field(
        1, ge=1, le=256, description="parts the vectors are spread over by a hash of their id"
    )
    memory_map: bool = Field(False, description="leave a loaded index in its file until it is changed")

    @property
    def training_minimum(self) -> tuple[int, str]:
        """Fewest vectors the index can be made from, and the setting that asks for them."""
        return 0, "nothing"

    @property
    def training_maximum(self) -> int:
        """Most vectors the index learns from; a larger set is sampled."""
        return 0

    def check_same_build(self, other: IndexConfig) -> None:
        """Raise ConfigError where an index with these parameters cannot take over those of `other`."""
        if other.build_parameters != self.build_parameters:
            raise ConfigError(
                f"index was built with {self.build_parameters}, asked for {other.build_parameters}; "
                "these need a rebuild"
            )

    @property
    def build_parameters(self) -> dict[str, Any]:
        """Everything a built index depends on; two equal ones can share one index."""
        return self.model_dump(mode="json", exclude={*self.QUERY_PARAMETERS, "memory_map"})


Config = TypeVar("Config", bound=IndexConfig)


class Neighbours(NamedTuple):
    """Nearest neighbours of m queries, best first.

    `scores` is float32 (m, k): similarities for cosine and inner_product, squared Euclidean distances for
    l2. `ids` has m rows of at most k ids: a row is shorter where the index holds fewer vectors, or an
    approximate search reached fewer.
    """

    scores: FloatArray
    ids: list[list[str]]


class Footprint(NamedTuple):
    """Bytes an index holds, by part: codes, links, ids, centroids, refinement.

    `on_disk` is what a search reads from files, of which the system keeps in memory what it sees fit.
    """

    resident: dict[str, int]
    on_disk: dict[str, int]


class Structure(ABC, Generic[Config]):
    """Vectors under integer labels from 0 up, searched by nearness.

    Its callers check shapes, normalise for cosine, and never add a label that is there.
    """

    def __init__(self, config: Config, dimension: int) -> None:
        self.config = config
        self.dimension = dimension

    @property
    @abstractmethod
    def is_trained(self) -> bool:
        """Whether vectors can be added."""

    @abstractmethod
    def train(self, vectors: FloatArray) -> None:
        """Learn centroids, codebooks or ranges from float32 (n, d)."""

    @abstractmethod
    def adopt_training(self, other: Self) -> None:
        """Become an empty structure with what `other` has learnt."""

    @abstractmethod
    def add(self, labels: LabelArray, vectors: FloatArray) -> None:
        """Add float32 (n, d) under int64 (n,)."""

    @abstractmethod
    def remove(self, labels: LabelArray) -> None:
        """Remove these labels; each may be added again."""

    @abstractmethod
    def search(
        self, queries: FloatArray, k: int, among: LabelArray | None = None
    ) -> tuple[FloatArray, LabelArray]:
        """The `k` nearest of each query: scores (m, k), and labels (m, k) padded with −1.

        With `among`, ascending labels that are there, at least one, nothing else is found.
        """

    @abstractmethod
    def vectors(self, labels: LabelArray) -> FloatArray:
        """The vectors under these labels as they are held: exact, or decoded; float32 (n, d)."""

    @abstractmethod
    def tune(self, config: Config) -> None:
        """Take over the query parameters of `config`."""

    @abstractmethod
    def footprint(self) -> Footprint:
        """Bytes held now, by part."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write everything into an empty folder."""

    @abstractmethod
    def read(self, folder: Path) -> None:
        """Take over what `write` wrote, leaving it in its file where `config.memory_map` says so."""


class Index(ABC):
    """Vectors under their callers' ids, searched by nearness.

    Not safe for concurrent writes; concurrent searches are safe.
    """

    def __init__(self, config: IndexConfig, dimension: int) -> None:
        self.config = config
        self.dimension = dimension
        self.trained_on = 0  # vectors it has learnt from

    @abstractmethod
    def __len__(self) -> int:
        """How many vectors there are."""

    @abstractmethod
    def __contains__(self, id_: object) -> bool:
        """Whether a vector is there under this id."""

    @property
    @abstractmethod
    def is_trained(self) -> bool:
        """Whether vectors can be added without training first."""

    def train(self, vectors: FloatArray) -> None:
        """Learn from `vectors`, float32 (n, d), or from a random sample of them where there are more than
        `config.training_maximum`; does nothing where nothing is to be learnt, or it has been.

        Raises:
            DataError: too few vectors for this index's parameters, of the wrong shape, or not finite.
        """
        self._check(vectors)
        if self.is_trained:
            return
        minimum, setting = self.config.training_minimum
        if len(vectors) < minimum:
            raise DataError(
                f"{self.config.kind} needs at least {setting} = {minimum} vectors to train, got "
                f"{len(vectors)}; give it more, or lower the setting"
            )
        if len(vectors) > self.config.training_maximum:
            chosen = np.random.default_rng(0).choice(
                len(vectors), self.config.training_maximum, replace=False
            )
            vectors = vectors[np.sort(chosen)]
        self._train(self._prepared(vectors))
        self.trained_on = len(vectors)

    def outgrown(self, count: int) -> bool:
        """Whether `count` vectors are so many more than it was trained on that it should be built anew."""
        return 0 < self.trained_on < self.config.training_maximum and count >= 4 * self.trained_on

    def add(self, ids: Sequence[str], vectors: FloatArray) -> None:
        """Add `vectors`, float32 (n, d), under `ids`; an untrained index is trained on them first.

        Raises:
            DataError: ids repeat or are already there, shapes disagree, vectors are not finite, or the index
                cannot train on so few.
        """
        self._check(vectors)
        if len(ids) != len(vectors):
            raise DataError(f"{len(ids)} ids for {len(vectors)} vectors; give one id a vector")
        seen: set[str] = set()
        for id_ in ids:
            if id_ in seen or id_ in self:
                raise DataError(f"id {id_!r} is given twice or already in the index; remove it first")
            seen.add(id_)
        if ids:
            self.train(vectors)
            self._add(ids, self._prepared(vectors))

    def remove(self, ids: Sequence[str]) -> int:
        """Remove what is there of `ids`; return how many that was."""
        there = [id_ for id_ in dict.fromkeys(ids) if id_ in self]
        if there:
            self._remove(there)
        return len(there)

    def search(self, queries: FloatArray, k: int, among: Collection[str] | None = None) -> Neighbours:
        """Find the `k` nearest vectors of each query, float32 (m, d).

        With `among`, only these ids are found; those that are not there are passed over. As many as there
        are, up to `k`, are found however few they are.

        Raises:
            DataError: k is below 1, or the queries have the wrong shape or are not finite.
        """
        if k < 1:
            raise DataError(f"k = {k}: must be at least 1")
        self._check(queries)
        return self._search(self._prepared(queries), k, among)

    @abstractmethod
    def vectors(self, ids: Sequence[str]) -> FloatArray:
        """The vectors under `ids` as they are held, float32 (n, d): normalised for cosine; exact, or decoded.

        Raises:
            DataError: an id is not there.
        """

    def retune(self, config: IndexConfig) -> None:
        """Change query parameters without rebuilding.

        Raises:
            ConfigError: `config` differs in a build parameter.
        """
        self.config.check_same_build(config)
        self._tune(config)
        self.config = config

    @abstractmethod
    def footprint(self) -> Footprint:
        """Bytes held now, by part."""

    @abstractmethod
    def write(self, folder: Path) -> dict[str, Any]:
        """Write everything into an empty folder; return the facts that `read` needs. See `index.save`."""

    @abstractmethod
    def read(self, folder: Path, facts: dict[str, Any]) -> None:
        """Take over what `write` wrote. See `index.load`."""

    @abstractmethod
    def _train(self, vectors: FloatArray) -> None: ...

    @abstractmethod
    def _add(self, ids: Sequence[str], vectors: FloatArray) -> None: ...

    @abstractmethod
    def _remove(self, ids: Sequence[str]) -> None: ...

    @abstractmethod
    def _search(self, queries: FloatArray, k: int, among: Collection[str] | None) -> Neighbours: ...

    @abstractmethod
    def _tune(self, config: Any) -> None: ...

    def _check(self, vectors: FloatArray) -> None:
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise DataError(f"vectors have shape {vectors.shape}; this index takes (n, {self.dimension})")
        if not np.isfinite(vectors).all():
            raise DataError("vectors hold NaN or infinity, which are near to nothing; give finite numbers")

    def _prepared(self, vectors: FloatArray) -> FloatArray:
        contiguous = np.ascontiguousarray(vectors, dtype=np.float32)
        return normalised(contiguous) if self.config.metric == "cosine" else contiguous


def normalised(vectors: FloatArray) -> FloatArray:
    """Scale each row of float32 (n, d) to length 1; a zero row stays zero."""
    lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    lengths[lengths == 0] = 1
    scaled: FloatArray = vectors / lengths
    return scaled


def nothing_found(queries: int, k: int, metric: str) -> tuple[FloatArray, LabelArray]:
    """What a search finds in nothing: the worst scores and labels −1, as FAISS has them; both (m, k)."""
    worst = np.finfo(np.float32).max * (1 if metric == "l2" else -1)
    return np.full((queries, k), worst, dtype=np.float32), np.full((queries, k), -1, dtype=np.int64)


def check_known(ids: Sequence[str], known: Any) -> None:
    """Raise DataError for the first of `ids` that is not in `known`."""
    for id_ in ids:
        if id_ not in known:
            raise DataError(f"id {id_!r} is not in the index")
