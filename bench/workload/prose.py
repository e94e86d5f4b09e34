"""Made-up texts, where a measurement needs bytes that behave like text and no meaning."""

from __future__ import annotations

import numpy as np

_VOCABULARY = 4_000
_LETTERS = "etaoinshrdlcumwfgypbvk"


def texts(count: int, words: int, seed: int) -> list[str]:
    """`count` texts of `words` words of Zipf-distributed frequency; zlib halves them, as it does prose."""
    random = np.random.default_rng(seed)
    letters = np.array(list(_LETTERS))[random.integers(0, len(_LETTERS), (_VOCABULARY, 10))]
    lengths = random.integers(2, 11, _VOCABULARY)
    vocabulary = ["".join(row[:length]) for row, length in zip(letters, lengths, strict=True)]
    weights = np.arange(1, _VOCABULARY + 1, dtype=np.float64) ** -1.0
    chosen = random.choice(_VOCABULARY, (count, words), p=weights / weights.sum())
    return [" ".join(vocabulary[word] for word in row) for row in chosen.tolist()]
