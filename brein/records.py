"""What goes into the engine and what comes out: small frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Metadata = Mapping[str, str | int | float | bool | None]


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

    `score` is in the index's metric: a similarity for cosine and inner product (larger is nearer),
    a squared Euclidean distance for l2 (smaller is nearer).
    """

    id: str
    score: float
    text: str


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
