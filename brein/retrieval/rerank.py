"""Rerankers: one interface, one table (`RERANKERS`). They give candidates a better order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field

from brein.embedding import Embedder
from brein.errors import ModelError, first_line
from brein.records import FloatArray
from brein.settings import Settings
from brein.vectors import unit

_AT_ONCE = 4  # texts a model reads between two looks at the clock

DoubleArray = npt.NDArray[np.float64]


class Contents(Protocol):
    """What rerankers ask of the documents; `brein.storage.DocumentStore` has it."""

    def texts(self, ids: Sequence[str]) -> Mapping[str, str]:
        """The texts of those of `ids` that are there."""

    def vectors(self, ids: Sequence[str]) -> tuple[list[str], FloatArray]:
        """Those of `ids` that are there, with vectors, float32 (n, d)."""


@dataclass(frozen=True)
class Candidates:
    """What is to be put in order: documents, with the scores that their words gave them.

    `check` raises where the time for this is spent; who works in pieces calls it between them.
    """

    query: str
    vector: FloatArray  # float32 (d,)
    ids: Sequence[str]
    lexical: Mapping[str, float]
    contents: Contents
    check: Callable[[], None]


class Reranker(ABC):
    """Scores candidates. Safe to use from several threads."""

    @abstractmethod
    def scores(self, candidates: Candidates) -> dict[str, float]:
        """Scores in [0, 1], larger being better, of those candidates that are still there."""

    def warm_up(self) -> None:  # noqa: B027  most have nothing of their own to load
        """Load now what would be loaded by the first `scores`, at the cost of its budget."""


class RerankerConfig(Settings):
    """What every reranker has."""

    kind: str
    candidates: int = Field(100, ge=1, le=10_000, description="best fused documents that are put in order")
    budget: float = Field(0.5, gt=0, le=60, description="seconds; where it takes longer, the order stays")


class InterpolationConfig(RerankerConfig):
    """Settings of the interpolation of lexical and vector scores."""

    kind: Literal["interpolation"] = "interpolation"
    lexical_weight: float = Field(
        0.3, ge=0, le=1, description="weight of BM25 over the best; the rest is the cosine's"
    )


class Interpolation(Reranker):
    """w · BM25 ÷ the best BM25 + (1 − w) · cosine, from the stored vectors, not the index's codes.

    A document that the lexical search did not hand on has a BM25 of 0. A convex combination of scores keeps
    what ranks lose, by how much one document is better than the next: Bruch, Gai and Ingber, "An Analysis of
    Fusion Functions for Hybrid Retrieval", 2023. The weight was chosen on the training judgements of SciFact.
    """

    def __init__(self, config: InterpolationConfig, embedder: Embedder) -> None:
        self._weight = config.lexical_weight

    def scores(self, candidates: Candidates) -> dict[str, float]:
        """Scores in [0, 1] of those candidates that are still there."""
        ids, vectors = candidates.contents.vectors(candidates.ids)
        if not ids:
            return {}
        cosines = unit(vectors) @ unit(candidates.vector[None, :])[0]
        best = max(candidates.lexical.values(), default=1.0)
        lexical = np.array([candidates.lexical.get(id_, 0.0) / best for id_ in ids])
        return _bounded(ids, self._weight * lexical + (1 - self._weight) * cosines)


class LateInteractionConfig(RerankerConfig):
    """Settings of late interaction."""

    kind: Literal["late_interaction"] = "late_interaction"
    candidates: int = Field(20, ge=1, le=10_000, description="best fused documents that are put in order")


class LateInteraction(Reranker):
    """MaxSim over the embedding model's own token vectors: Khattab and Zaharia, "ColBERT", 2020.

    The mean over the query's tokens of the largest cosine with a token of the document; 0 where either has
    none. The documents' tokens are embedded when they are asked for, which is what it costs.
    """

    def __init__(self, config: LateInteractionConfig, embedder: Embedder) -> None:
        self._embedder = embedder

    def scores(self, candidates: Candidates) -> dict[str, float]:
        """Scores in [0, 1] of those candidates that are still there."""
        texts = candidates.contents.texts(candidates.ids)
        embedder = self._embedder
        (query,) = embedder.embed_tokens([candidates.query])
        found: list[float] = []
        for some in _pieces(list(texts.values())):
            candidates.check()
            found += [_max_sim(query, tokens) for tokens in embedder.embed_tokens(some)]
        return _bounded(list(texts), np.array(found))


class CrossEncoderConfig(RerankerConfig):
    """Settings of a cross-encoder."""

    kind: Literal["cross_encoder"] = "cross_encoder"
    model: str = Field(min_length=1, description="model name, or the folder it is in")
    candidates: int = Field(20, ge=1, le=10_000, description="best fused documents that are put in order")


class CrossEncoderReranker(Reranker):
    """A sentence-transformers `CrossEncoder` on the CPU, loaded when it is first asked."""

    def __init__(self, config: CrossEncoderConfig, embedder: Embedder) -> None:
        self._name = config.model
        self._model: Any = None
        self._broken: str | None = None  # why it cannot be loaded: looked for once, not for each query
        self._lock = Lock()  # the tokenizer fails where two threads set its padding at once

    def scores(self, candidates: Candidates) -> dict[str, float]:
        """Scores in [0, 1] of those candidates that are still there: the logistic function of the model's.

        Raises:
            ModelError: the model cannot be loaded, fails, or gives more than one score.
        """
        texts = candidates.contents.texts(candidates.ids)
        found: list[DoubleArray] = []
        for some in _pieces(list(texts.values())):
            candidates.check()
            pairs = [(candidates.query, text) for text in some]
            found.append(self._predicted(pairs))
        return _bounded(list(texts), np.concatenate(found) if found else np.empty(0))

    def warm_up(self) -> None:
        """Load the model.

        Raises:
            ModelError: it cannot be loaded, or gives more than one score.
        """
        with self._lock:
            self._loaded()

    def _predicted(self, pairs: Sequence[tuple[str, str]]) -> DoubleArray:
        with self._lock:
            model = self._loaded()
            try:
                return np.asarray(model.predict(pairs, show_progress_bar=False), dtype=np.float64)
            except (RuntimeError, ValueError, IndexError) as error:  # of torch, the tokenizer, the embeddings
                raise ModelError(
                    f"retrieval.reranker.model = {self._name!r} fails: {first_line(error)}; take another "
                    "model"
                ) from None

    def _loaded(self) -> Any:
        if self._broken is not None:
            raise ModelError(self._broken)
        if self._model is None:
            try:
                self._model = self._load()
            except ModelError as error:
                self._broken = str(error)
                raise
        return self._model

    def _load(self) -> Any:
        from sentence_transformers import CrossEncoder
        from torch.nn import Sigmoid

        try:
            model = CrossEncoder(self._name, device="cpu", activation_fn=Sigmoid())
        except Exception as error:  # of whatever library reads the broken part, in its own classes
            raise ModelError(
                f"retrieval.reranker.model = {self._name!r} cannot be loaded: {first_line(error)}; give a "
                "folder that holds a cross-encoder"
            ) from None
        if model.num_labels != 1:
            raise ModelError(
                f"retrieval.reranker.model = {self._name!r} gives {model.num_labels} scores for a pair; "
                "take a model that gives one"
            )
        return model


RERANKERS: dict[str, type[Any]] = {
    "interpolation": Interpolation,
    "late_interaction": LateInteraction,
    "cross_encoder": CrossEncoderReranker,
}
AnyReranker = Annotated[
    InterpolationConfig | LateInteractionConfig | CrossEncoderConfig, Field(discriminator="kind")
]


def create(config: AnyReranker, embedder: Embedder) -> Reranker:
    """Make the reranker of `config`. Models are loaded when they are first needed."""
    reranker: Reranker = RERANKERS[config.kind](config, embedder)
    return reranker


def _max_sim(query: FloatArray, document: FloatArray) -> float:
    if not (len(query) and len(document)):
        return 0.0
    return float((query @ document.T).max(axis=1).mean())


def _pieces(texts: Sequence[str]) -> list[Sequence[str]]:
    return [texts[start : start + _AT_ONCE] for start in range(0, len(texts), _AT_ONCE)]


def _bounded(ids: Sequence[str], scores: DoubleArray) -> dict[str, float]:
    return dict(zip(ids, np.clip(scores, 0, 1).tolist(), strict=True))
