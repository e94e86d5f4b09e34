"""Vector files: what is written is read, and what is damaged is named, never believed."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stnp

from bench.errors import UsageError
from bench.workload.formats import READERS, Rows, open_hdf5, open_rows

Array = npt.NDArray[Any]
DTYPES: dict[str, np.dtype[Any]] = {
    ".fvecs": np.dtype("<f4"),
    ".bvecs": np.dtype("u1"),
    ".ivecs": np.dtype("<i4"),
    ".fbin": np.dtype("<f4"),
    ".u8bin": np.dtype("u1"),
    ".ibin": np.dtype("<u4"),
    ".npy": np.dtype("<f4"),
}


def as_vecs(array: Array) -> bytes:
    dimension = np.int32(array.shape[1]).tobytes()
    return b"".join(dimension + row.tobytes() for row in array)


def as_bin(array: Array) -> bytes:
    return np.array(array.shape, dtype="<u4").tobytes() + array.tobytes()


def as_npy(array: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def encode(suffix: str, array: Array) -> bytes:
    writers = {"vecs": as_vecs, "bin": as_bin, "npy": as_npy}
    return next(write for name, write in writers.items() if suffix.endswith(name))(array)


def tables(suffix: str) -> st.SearchStrategy[Array]:
    dtype = DTYPES[suffix]
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    return stnp.arrays(
        dtype,
        st.tuples(st.integers(1, 5), st.integers(1, 6)),
        elements=stnp.from_dtype(dtype, **finite),
    )


named_tables = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda suffix: st.tuples(st.just(suffix), tables(suffix))
)
many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def read_all(path: Path) -> Array:
    rows = open_rows(path)
    return rows.read(0, rows.count)


def read_or_refuse(path: Path) -> Array | None:
    """Read a damaged file: an array, or None where a UsageError names the file; anything else fails."""
    try:
        return read_all(path)
    except UsageError as error:
        message = str(error)
    assert path.name in message
    assert "\n" not in message
    return None


def test_every_format_is_tested() -> None:
    assert set(DTYPES) == set(READERS)


@many
@given(named_tables)
def test_what_is_written_is_read(tmp_path: Path, named: tuple[str, Array]) -> None:
    suffix, array = named
    path = tmp_path / f"file{suffix}"
    path.write_bytes(encode(suffix, array))
    rows = open_rows(path)
    assert (rows.count, rows.dimension) == array.shape
    np.testing.assert_array_equal(rows.read(0, rows.count), array)
    np.testing.assert_array_equal(rows.read(1, rows.count), array[1:])


@many
@given(named_tables, st.data())
def test_a_cut_file_is_refused(tmp_path: Path, named: tuple[str, Array], data: st.DataObject) -> None:
    suffix, array = named
    whole = encode(suffix, array)
    length = data.draw(st.integers(0, len(whole) - 1))
    path = tmp_path / f"file{suffix}"
    path.write_bytes(whole[:length])
    found = read_or_refuse(path)
    if suffix.endswith("vecs") and length and length % (len(whole) // len(array)) == 0:
        # Without a count in its header, fewer whole rows are a whole file.
        np.testing.assert_array_equal(found, array[: length * len(array) // len(whole)])
    else:
        assert found is None


@many
@given(named_tables.filter(lambda named: named[0] != ".npy"), st.integers(-(2**31), 2**31 - 1))
def test_a_wrong_dimension_is_refused(tmp_path: Path, named: tuple[str, Array], wrong: int) -> None:
    suffix, array = named
    whole = bytearray(encode(suffix, array))
    start = 0 if suffix.endswith("vecs") else 4
    if wrong == array.shape[1] or (
        suffix == ".ibin" and wrong * 2 == array.shape[1]
    ):  # then: ids and distances
        return
    whole[start : start + 4] = np.int32(wrong).tobytes()
    path = tmp_path / f"file{suffix}"
    path.write_bytes(bytes(whole))
    assert read_or_refuse(path) is None


@many
@given(st.binary(max_size=200), st.sampled_from(sorted(DTYPES)))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    read_or_refuse(path)


@many
@given(tables(".npy"), st.data())
def test_a_spoilt_npy_header_is_read_or_refused(tmp_path: Path, array: Array, data: st.DataObject) -> None:
    whole = bytearray(as_npy(array))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
    path = tmp_path / "file.npy"
    path.write_bytes(bytes(whole))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_or_refuse(path)


def test_a_row_of_another_dimension_is_named_with_its_byte(tmp_path: Path) -> None:
    rows = np.zeros((3, 4), "<f4")
    whole = bytearray(as_vecs(rows))
    whole[40:44] = np.int32(5).tobytes()
    path = tmp_path / "base.fvecs"
    path.write_bytes(bytes(whole))
    with pytest.raises(UsageError, match=r"base.fvecs: row 2 at byte 40 has dimension 5, row 0 has 4"):
        read_all(path)


def test_a_count_of_zero_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "base.fbin"
    path.write_bytes(np.array([0, 4], "<u4").tobytes())
    with pytest.raises(UsageError, match="0 rows"):
        open_rows(path)


def test_ground_truth_may_be_followed_by_distances(tmp_path: Path) -> None:
    ids = np.arange(6, dtype="<u4").reshape(2, 3)
    path = tmp_path / "truth.ibin"
    path.write_bytes(as_bin(ids) + np.zeros((2, 3), "<f4").tobytes())
    np.testing.assert_array_equal(read_all(path), ids)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_must_be_finite(tmp_path: Path, value: float) -> None:
    array = np.zeros((5, 2), np.float32)
    array[3, 1] = value
    path = tmp_path / "base.npy"
    np.save(path, array)
    with pytest.raises(UsageError, match=r"base.npy: row 3 holds NaN or infinity"):
        open_rows(path).floats(2, 5)


def test_a_value_too_large_for_float32_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "base.npy"
    np.save(path, np.full((1, 1), 1e300))
    with pytest.raises(UsageError, match="row 0 holds NaN or infinity"):
        open_rows(path).floats(0, 1)


@pytest.mark.parametrize("dtype", ["u1", "<i2", "<f2", "<f8", ">f4"])
def test_numbers_become_float32(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "base.npy"
    np.save(path, np.arange(6).reshape(2, 3).astype(dtype))
    found = open_rows(path).floats(0, 2)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3),
        np.zeros((2, 2, 2)),
        np.zeros((2, 2), bool),
        np.zeros((2, 2), complex),
        np.zeros((0, 3)),
        np.zeros((3, 0)),
        np.array([["a"]]),
        np.array([[{}]], dtype=object),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: Array) -> None:
    path = tmp_path / "base.npy"
    np.save(path, array, allow_pickle=True)
    assert read_or_refuse(path) is None


def test_ids_must_be_integers_within_the_base(tmp_path: Path) -> None:
    np.save(tmp_path / "truth.npy", np.array([[0, 1], [2, 9]]))
    rows = open_rows(tmp_path / "truth.npy")
    np.testing.assert_array_equal(rows.ids(0, 2, 10), [[0, 1], [2, 9]])
    with pytest.raises(UsageError, match="row 1 names vector 9; the base has rows 0 to 8"):
        rows.ids(0, 2, 9)
    np.save(tmp_path / "truth.npy", np.zeros((1, 2)))
    with pytest.raises(UsageError, match="expected integers"):
        open_rows(tmp_path / "truth.npy").ids(0, 1, 9)


def hdf5(path: Path, **tables: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, table in tables.items():
            file[name] = table
    return path


def test_hdf5_is_read(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "set.hdf5", train=np.arange(6.0).reshape(3, 2))
    rows = open_hdf5(path, "train")
    assert isinstance(rows, Rows)
    np.testing.assert_array_equal(rows.floats(1, 3), [[2, 3], [4, 5]])
    assert open_hdf5(path, "test") is None


@many
@given(st.data())
def test_a_cut_hdf5_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    whole = hdf5(tmp_path / "whole.hdf5", train=np.zeros((4, 3), np.float32)).read_bytes()
    path = tmp_path / "cut.hdf5"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(UsageError, match=r"cut.hdf5: cannot be read as HDF5"):
        open_hdf5(path, "train")


@pytest.mark.parametrize("spoil", [lambda: np.zeros(3), lambda: "text"])
def test_an_hdf5_data_set_must_be_a_table_of_numbers(tmp_path: Path, spoil: Callable[[], Any]) -> None:
    with pytest.raises(UsageError, match=r"set.hdf5: train: shape"):
        open_hdf5(hdf5(tmp_path / "set.hdf5", train=spoil()), "train")


def test_an_hdf5_group_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="train is a group"):
        open_hdf5(hdf5(tmp_path / "set.hdf5", **{"train/x": np.zeros((1, 1))}), "train")
