"""The vector file formats: what a file's header says, checked against the file, and its rows on demand.

    .fvecs .bvecs .ivecs   texmex: each row is its int32 dimension, then float32, uint8 or int32 values
    .fbin .u8bin .ibin     big-ann-benchmarks: uint32 rows, uint32 dimension, then float32, uint8 or uint32
                           values; a ground truth .ibin may have float32 distances after its ids
    .npy                   NumPy's own, two-dimensional
    .hdf5 .h5              ann-benchmarks: data sets train, test and neighbors

All numbers are little-endian.
"""

from __future__ import annotations

import tokenize
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.errors import UsageError
from bench.workload.dataset import IntArray
from brein.records import FloatArray

MAX_DIMENSION = 65_536
_AGAIN = "fetch or write the file again"
_FLOAT, _BYTE, _INT, _UNSIGNED = (np.dtype(code) for code in ("<f4", "u1", "<i4", "<u4"))

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Rows:
    """The rows of one file: `count` rows of `dimension` values, read by `read(start, stop)`."""

    path: Path
    count: int
    dimension: int
    read: Callable[[int, int], Array]

    def floats(self, start: int, stop: int) -> FloatArray:
        """Read rows as float32 (stop - start, dimension).

        Raises:
            UsageError: a value is NaN or infinite, or becomes so as float32.
        """
        with np.errstate(over="ignore"):
            values = np.array(self.read(start, stop), dtype=np.float32, order="C")
        whole = np.isfinite(values).all(axis=1)
        if not whole.all():
            row = start + int(np.argmin(whole))
            raise UsageError(f"{self.path}: row {row} holds NaN or infinity; remove the row or correct it")
        return values

    def ids(self, start: int, stop: int, limit: int) -> IntArray:
        """Read row numbers as int64 (stop - start, dimension).

        Raises:
            UsageError: a number is negative, or `limit` or more, or not an integer.
        """
        found = self.read(start, stop)
        if found.dtype.kind not in "iu":
            raise UsageError(
                f"{self.path}: ground truth of {found.dtype}; expected integers, row numbers of the base"
            )
        values = np.array(found, dtype=np.int64, order="C")
        wrong = (values < 0) | (values >= limit)
        if wrong.any():
            row, column = (int(place[0]) for place in np.nonzero(wrong))
            raise UsageError(
                f"{self.path}: row {start + row} names vector {values[row, column]}; the base has rows 0 to "
                f"{limit - 1}; take the ground truth that belongs to this base"
            )
        return values


def open_rows(path: Path) -> Rows:
    """Open a file of one of `READERS`' formats and check its header against its size.

    Raises:
        UsageError: the file is missing, empty, of another format, or not as long as its header says.
    """
    try:
        return READERS[path.suffix](path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}; check dataset.path") from None


def _vecs(path: Path, dtype: np.dtype[Any]) -> Rows:
    data = _bytes(path, header=4)
    dimension = _dimension(int(data[:4].view(_INT)[0]), path)
    size = 4 + dimension * dtype.itemsize
    if len(data) % size:
        raise UsageError(
            f"{path}: {len(data)} bytes are not whole rows of dimension {dimension}, {size} bytes each: row "
            f"{len(data) // size} at byte {len(data) // size * size} is cut or its header is wrong; {_AGAIN}"
        )
    table = data.reshape(-1, size)

    def read(start: int, stop: int) -> Array:
        rows = table[start:stop]
        dimensions = np.ascontiguousarray(rows[:, :4]).view(_INT)[:, 0]
        wrong = np.flatnonzero(dimensions != dimension)
        if len(wrong):
            row = start + int(wrong[0])
            raise UsageError(
                f"{path}: row {row} at byte {row * size} has dimension {dimensions[wrong[0]]}, row 0 has "
                f"{dimension}; {_AGAIN}"
            )
        return np.ascontiguousarray(rows[:, 4:]).view(dtype)

    return Rows(path, len(table), dimension, read)


def _bin(path: Path, dtype: np.dtype[Any], trailers: tuple[int, ...] = (0,)) -> Rows:
    """Open a .fbin-like file; `trailers`: bytes that may follow the values, for each value."""
    data = _bytes(path, header=8)
    count, width = (int(number) for number in data[:8].view(_UNSIGNED))
    dimension = _dimension(width, path)
    sizes = [8 + count * dimension * (dtype.itemsize + trailer) for trailer in trailers]
    if len(data) not in sizes or not count:
        expected = " or ".join(str(size) for size in sizes)
        raise UsageError(
            f"{path}: {len(data)} bytes; its header says {count} rows of dimension {dimension}, "
            f"{expected} bytes; {_AGAIN}"
        )
    table = data[8 : 8 + count * dimension * dtype.itemsize].view(dtype).reshape(count, dimension)
    return Rows(path, count, dimension, lambda start, stop: table[start:stop])


def _npy(path: Path) -> Rows:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns about odd headers before it refuses them
            table = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, TypeError, EOFError, SyntaxError, OverflowError, tokenize.TokenError) as error:
        raise UsageError(f"{path}: not a whole .npy file of numbers ({_reason(error)}); {_AGAIN}") from None
    return _table(path, "", table.shape, table.dtype, lambda start, stop: table[start:stop])


def open_hdf5(path: Path, name: str) -> Rows | None:
    """Open one data set of an HDF5 file; None if the file has none of that name.

    Raises:
        UsageError: the file is missing, is not HDF5 or is cut short, or `name` is not a table of numbers.
    """

    def read(start: int, stop: int) -> Array:
        with _hdf5(path) as file:
            return np.asarray(file[name][start:stop])

    import h5py  # not above: every trial imports this module, and few need HDF5

    with _hdf5(path) as file:
        found = file.get(name)
        if found is None:
            return None
        if not isinstance(found, h5py.Dataset):
            raise UsageError(f"{path}: {name} is a group instead of a data set; {_AGAIN}")
        return _table(path, f"{name}: ", found.shape, found.dtype, read)


def hdf5_distance(path: Path) -> str | None:
    """Return the `distance` attribute of an ann-benchmarks file, or None if it has none.

    Raises:
        UsageError: the file cannot be read.
    """
    with _hdf5(path) as file:
        value = file.attrs.get("distance")
    if value is None:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


@contextmanager
def _hdf5(path: Path) -> Iterator[Any]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:  # what h5py makes of HDF5's own errors
        raise UsageError(f"{path}: cannot be read as HDF5 ({_reason(error)}); {_AGAIN}") from None


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _table(
    path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], read: Callable[[int, int], Array]
) -> Rows:
    if len(shape) != 2 or not shape[0] or dtype.kind not in "fiu":
        raise UsageError(
            f"{path}: {name}shape {tuple(shape)} of {dtype}; expected rows of numbers, at least one; {_AGAIN}"
        )
    return Rows(path, int(shape[0]), _dimension(int(shape[1]), path), read)


def _bytes(path: Path, header: int) -> npt.NDArray[np.uint8]:
    size = path.stat().st_size
    if size < header:
        raise UsageError(f"{path}: {size} bytes, too short for a header of {header}; {_AGAIN}")
    return np.memmap(path, dtype=np.uint8, mode="r")


def _dimension(found: int, path: Path) -> int:
    if not 1 <= found <= MAX_DIMENSION:
        raise UsageError(
            f"{path}: dimension {found} at the file's start is outside 1 to {MAX_DIMENSION}; {_AGAIN}"
        )
    return found


READERS: dict[str, Callable[[Path], Rows]] = {
    ".fvecs": lambda path: _vecs(path, _FLOAT),
    ".bvecs": lambda path: _vecs(path, _BYTE),
    ".ivecs": lambda path: _vecs(path, _INT),
    ".fbin": lambda path: _bin(path, _FLOAT),
    ".u8bin": lambda path: _bin(path, _BYTE),
    ".ibin": lambda path: _bin(path, _UNSIGNED, trailers=(0, 4)),
    ".npy": _npy,
}
