"""The interface of every embedder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from pydantic import Field

from brein.records import FloatArray
from brein.settings import Settings

Span = tuple[int, int]


class EmbedderConfig(Settings):
    """What all embedders can be set to."""

    shared_batch: int = Field(
        32, ge=1, le=4096, description="short texts of several threads in one call; 1: each thread alone"
    )


class Embedder(ABC):
    """Texts to vectors; equal texts give equal vectors up to rounding.

    `parallel_calls` small calls side by side have a core each; more gain nothing.
    """

    parallel_calls = 1

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Components of a vector."""

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Embed `texts` as float32 (n, dimension), rows of length 1."""

    def embed_queries(self, texts: Sequence[str]) -> FloatArray:
        """As `embed`, texts that others may ask for, too: an embedder with a cache keeps their vectors."""
        return self.embed(texts)

    @abstractmethod
    def embed_tokens(self, texts: Sequence[str]) -> list[FloatArray]:
        """Embed each token of each text, special tokens left out: float32 (tokens, d), rows of length 1."""


class Tokenizer(ABC):
    """Texts to tokens, as an embedder counts them, without loading its model."""

    @abstractmethod
    def __call__(self, texts: Sequence[str]) -> list[list[Span]]:
        """For each text the (start, end) character positions of its tokens, special tokens left out."""
