"""Hashed bags of words: an embedder without a model, for tests and for machines without one."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from brein.embedding.base import Embedder, EmbedderConfig, Span, Tokenizer
from brein.records import FloatArray
from brein.vectors import unit

_WORD = re.compile(r"\w+")


class HashingConfig(EmbedderConfig):
    """Settings of the hashing embedder."""

    kind: Literal["hashing"] = "hashing"
    dimension: int = Field(384, ge=2, le=65_536, description="components of a vector")


class HashingEmbedder(Embedder):
    """Each word adds +1 or -1 to the component its CRC-32 names; rows are scaled to length 1.

    After the hashing trick of Weinberger et al. (2009). A text without words becomes the zero vector.
    """

    def __init__(self, config: HashingConfig) -> None:
        self._dimension = config.dimension

    @property
    def dimension(self) -> int:
        """Components of a vector."""
        return self._dimension

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Embed `texts` as float32 (n, dimension)."""
        vectors = np.zeros((len(texts), self._dimension), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in _WORD.findall(text.casefold()):
                code = zlib.crc32(word.encode("utf-8", "surrogatepass"))
                row[(code >> 1) % self._dimension] += 1.0 if code & 1 else -1.0
        return unit(vectors)

    def embed_tokens(self, texts: Sequence[str]) -> list[FloatArray]:
        """Embed each word of each text, as float32 (words, dimension)."""
        return [self.embed(_WORD.findall(text)) for text in texts]


class WordTokenizer(Tokenizer):
    """Words as the hashing embedder sees them, whatever its dimension."""

    def __init__(self, _: HashingConfig) -> None:
        pass

    def __call__(self, texts: Sequence[str]) -> list[list[Span]]:
        """Spans of the words of each text."""
        return [[match.span() for match in _WORD.finditer(text)] for text in texts]
