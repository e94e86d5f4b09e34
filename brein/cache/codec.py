"""Cached values as bytes in stated formats; nothing is ever unpickled.

A vector is its float32 components, little-endian. A retrieval is a JSON object of its fields and what follows
from them, in which a number that is not finite is a text; it is what the service answers. Whoever keeps one
keeps `RETRIEVAL_FORM` in its key.

Outside this process's memory a value is kept in an envelope, all numbers little-endian:

    byte 0       0xB1, which also says the version of this format
    byte 1       flags: bit 0 set where the payload is compressed with zlib; the others are 0
    bytes 2–9    length of the payload
    bytes 10–13  CRC-32 of bytes 0–9 followed by the payload
    bytes 14–    payload

The length refuses every truncation, the CRC every change confined to 32 bits, and others with a
probability of 1 − 2⁻³². It guards against accidents, not against forgers.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter
from pydantic_core import to_json

from brein.records import Retrieval

LONGEST = 1 << 53  # bytes of values; up to here sizes are exact in Redis, whose scripts count in doubles

RETRIEVAL_FORM = 4  # raised with every change of a retrieval's bytes, and of what they mean

_RETRIEVAL = TypeAdapter(Retrieval)
_FORMAT = 0xB1
_PLAIN, _ZLIB = 0, 1
_HEADER = struct.Struct("<BBQ")
_CRC = struct.Struct("<I")
_PAYLOAD = _HEADER.size + _CRC.size


def seal(value: bytes, compression: bool) -> bytes:
    """Put a value into the envelope, with `compression` compressed where that makes it smaller."""
    flags, payload = _PLAIN, value
    if compression and len(packed := zlib.compress(value, level=1)) < len(value):
        flags, payload = _ZLIB, packed
    header = _HEADER.pack(_FORMAT, flags, len(payload))
    return b"".join((header, _CRC.pack(zlib.crc32(payload, zlib.crc32(header))), payload))


def unseal(data: bytes) -> bytes:
    """Take a value out of the envelope.

    Raises:
        ValueError: the data are damaged, or not of this format.
    """
    if not is_sealed(data):
        raise ValueError(f"{len(data)} bytes are damaged or not of cache format {_FORMAT:#x}; delete them")
    payload = data[_PAYLOAD:]
    if data[1] == _PLAIN:
        return payload
    try:
        return zlib.decompress(payload)
    except zlib.error as error:
        raise ValueError(f"{len(data)} bytes do not decompress ({error}); delete them") from None


def is_sealed(data: bytes) -> bool:
    """Whether `seal` made these data and nothing has changed them since."""
    if len(data) < _PAYLOAD:
        return False
    version, flags, length = _HEADER.unpack_from(data)
    if version != _FORMAT or flags not in (_PLAIN, _ZLIB) or length != len(data) - _PAYLOAD:
        return False
    crc = zlib.crc32(memoryview(data)[_PAYLOAD:], zlib.crc32(data[: _HEADER.size]))
    return bool(_CRC.unpack_from(data, _HEADER.size)[0] == crc)


def encode_vector(vector: npt.NDArray[np.float32]) -> bytes:
    """float32 (d,) → 4·d bytes."""
    return vector.astype("<f4", copy=False).tobytes()


def decode_vector(data: bytes) -> npt.NDArray[np.float32]:
    """4·d bytes → float32 (d,), read-only."""
    return np.frombuffer(data, dtype="<f4")


def encode_retrieval(retrieval: Retrieval) -> bytes:
    """A retrieval → bytes."""
    content = {
        "hits": retrieval.hits,
        "strategy": retrieval.strategy,
        "analysis": retrieval.analysis,
        "stages": retrieval.stages,
        "degraded": retrieval.degraded,
        "partial": bool(retrieval.missing),
        "missing_shards": [*retrieval.missing],
    }
    return to_json(content, inf_nan_mode="strings")


def decode_retrieval(data: bytes) -> Retrieval:
    """Bytes of `encode_retrieval` → the same retrieval."""
    return _RETRIEVAL.validate_json(data)
