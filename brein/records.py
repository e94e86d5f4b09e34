"""What goes into the engine and what comes out: small frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Metadata = Mapping[str, str | int | float | bool | None]
Strategy = Literal["single_stage", "two_stage", "multi_stage"]


@dataclass(frozen=True, slots=True)
class Document:
    """A text to remember, under the caller's own id."""

    id: str
    text: str
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Query:
    """A text to search for."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result.

    `score` of a search by vector is in the index's metric: a similarity for cosine and inner product (larger
    is nearer), a squared Euclidean distance for l2 (smaller is nearer). Of a search by text it is what the
    last stage gave: the same where that is the vectors', else larger is better.
    """

    id: str
    score: float
    text: str


@dataclass(frozen=True, slots=True)
class Complexity:
    """How hard a query is to answer, by parts in [0, 1] (see `brein.retrieval.optimizer`)."""

    length: float
    rarity: float
    clauses: float
    ambiguity: float

    @property
    def score(self) -> float:
        """The mean of the parts, in [0, 1]."""
        return (self.length + self.rarity + self.clauses + self.ambiguity) / 4


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was found out about a query before it is asked.

    `expanded` is what its words are searched with. `strategy` is the one its complexity calls for.
    `estimated_latency`, seconds, is None as long as too few searches were measured.
    """

    original: str
    expanded: str
    complexity: Complexity
    strategy: Strategy
    estimated_latency: float | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """What one stage of a retrieval did: documents in and out, and `seconds` it took.

    `skipped` says why its result was not used: it spent its budget, or failed. None: it was. `missing` says
    which shards of the index took no part in it, by number, and why.
    """

    name: str
    seconds: float
    given: int
    found: int
    skipped: str | None = None
    missing: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Hits of a text, best first, with the stages that led to them, in order.

    `strategy` is the one used. A retrieval that comes from a cache tells of the one that filled it.
    """

    hits: tuple[Hit, ...]
    analysis: Analysis
    strategy: Strategy
    stages: tuple[Stage, ...]

    @property
    def degraded(self) -> str | None:
        """Which stages, and shards of the index, were meant to take part and did not, and why; None where all
        did."""
        reasons = [f"{stage.name}: {stage.skipped}" for stage in self.stages if stage.skipped]
        reasons += [f"shard {number}: {reason}" for number, reason in self.missing.items()]
        return "; ".join(reasons) or None

    @property
    def missing(self) -> dict[int, str]:
        """Which shards of the index took no part, by number, and why; with any, the hits are partial."""
        return {number: reason for stage in self.stages for number, reason in stage.missing.items()}


@dataclass(frozen=True, slots=True)
class Answer:
    """A text that answers a question from documents.

    [1], [2], … in `text` are places in `citations`, ids of documents that were given, in the order of their
    first use. `model` wrote it, `wanted` is the one that the question's complexity asks for. `notes` say what
    a reader should know: that another model stood in, that nothing was found, that the text was cut.
    """

    text: str
    citations: tuple[str, ...]
    model: str
    wanted: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Emotion:
    """What a text feels like: `valence` from -1, bad, to 1, good; `arousal` from 0, calm, to 1, stirred."""

    valence: float
    arousal: float
    label: str
