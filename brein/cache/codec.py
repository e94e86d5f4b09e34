"""Cached values as bytes in a stated format; nothing is ever unpickled.

A vector is its float32 components, little-endian. Search hits are a JSON list of [id, score, text],
compressed with zlib where the first byte says so: `z` for zlib, `j` for plain JSON.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from brein.records import Hit


def encode_vector(vector: npt.NDArray[np.float32]) -> bytes:
    """float32 (d,) → 4·d bytes."""
    return vector.astype("<f4", copy=False).tobytes()


def decode_vector(data: bytes) -> npt.NDArray[np.float32]:
    """4·d bytes → float32 (d,), read-only."""
    return np.frombuffer(data, dtype="<f4")


def encode_hits(hits: Sequence[Hit], compression: bool) -> bytes:
    """Hits → bytes."""
    text = json.dumps([[hit.id, hit.score, hit.text] for hit in hits], separators=(",", ":")).encode()
    return b"z" + zlib.compress(text, level=1) if compression else b"j" + text


def decode_hits(data: bytes) -> list[Hit]:
    """Bytes of `encode_hits` → the same hits."""
    text = zlib.decompress(data[1:]) if data[:1] == b"z" else data[1:]
    return [Hit(*fields) for fields in json.loads(text)]
