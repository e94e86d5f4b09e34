"""The interface of every embedder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from brein.records import FloatArray

Span = tuple[int, int]


class Embedder(ABC):
    """Texts to vectors; equal texts give equal vectors up to rounding."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Components of a vector."""

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Embed `texts` as float32 (n, dimension), rows of length 1."""


class Tokenizer(ABC):
    """Texts to tokens, as an embedder counts them, without loading its model."""

    @abstractmethod
    def __call__(self, texts: Sequence[str]) -> list[list[Span]]:
        """For each text the (start, end) character positions of its tokens, special tokens left out."""
