"""What several parts do to vectors."""

from __future__ import annotations

import numpy as np

from brein.records import FloatArray


def unit(vectors: FloatArray) -> FloatArray:
    """Scale the rows of float32 (n, d) to length 1; a row of zeros stays."""
    scaled: FloatArray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return scaled
