"""Scalar quantisation: each component of a vector in a few bits."""

from __future__ import annotations

from typing import Literal

# FAISS's own names: bits within the range seen in training, or short floating-point numbers.
QType = Literal["QT_4bit", "QT_6bit", "QT_8bit", "QT_fp16", "QT_bf16"]
RANGES = (256, "what a component's range is learnt from")  # vectors, and what asks for them
TRAINING_MAXIMUM = 65_536


def qtype_of(name: QType) -> int:
    """FAISS's number of a quantiser type."""
    import faiss

    return int(getattr(faiss.ScalarQuantizer, name))


def learns(name: QType) -> bool:
    """Whether the type learns ranges from vectors."""
    return name.endswith("bit")
