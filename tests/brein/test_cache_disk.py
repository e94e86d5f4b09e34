import sqlite3
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brein.cache import DiskCache, codec


def sealed(text):
    return codec.seal(text.encode(), compression=False)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "cache.sqlite"


@pytest.fixture
def open_cache(path):
    """Open caches on `path`; closed when the test ends."""
    made = []

    def open_cache(maxsize=100, ttl=60, **clocks):
        made.append(DiskCache(path, maxsize, ttl, **clocks))
        return made[-1]

    yield open_cache
    for cache in made:
        cache.close()


def change(path, statement, *values):
    with closing(sqlite3.connect(path)) as file, file:
        return file.execute(statement, values)


def test_entries_outlive_the_process_with_their_order_and_their_end(open_cache):
    clock = Clock()
    cache = open_cache(now=clock)
    for clock.now, key in enumerate("abc"):
        cache.set(key, sealed(key))
    cache.get("a")
    cache.close()
    cache = open_cache(maxsize=3, now=clock)
    cache.set("d", sealed("d"))
    assert [cache.get(key) for key in "abcd"] == [sealed("a"), None, sealed("c"), sealed("d")]
    clock.now = 61
    assert [cache.get(key) for key in "abcd"] == [None, None, sealed("c"), sealed("d")]


@pytest.mark.parametrize("junk", [b"", b"junk", sealed("1")[:-1], sealed("2")[:14] + b"1"])
def test_a_value_that_is_damaged_is_a_miss_and_removed(open_cache, path, junk):
    cache = open_cache()
    cache.set("a", sealed("1"))
    cache.set("b", sealed("2"))
    change(path, "UPDATE entries SET value = ? WHERE value = ?", junk, sealed("1"))
    assert (cache.get("a"), cache.get("b")) == (None, sealed("2"))
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.errors, stats.entries) == (1, 1, 1, 1)
    assert stats.available


def _garbage(path):
    path.write_bytes(b"not a database " * 1000)


def _truncated(path):
    path.write_bytes(path.read_bytes()[:5000])


def _foreign(path):
    path.unlink()
    change(path, "CREATE TABLE entries (key, value)")


def _older(path):
    change(path, "PRAGMA user_version = 0")


def _of_another_type(path):
    change(path, "UPDATE entries SET value = 7")


@pytest.mark.parametrize("damage", [_garbage, _truncated, _foreign, _older, _of_another_type])
def test_a_damaged_foreign_or_older_file_is_replaced_by_an_empty_one(open_cache, path, damage):
    cache = open_cache()
    for number in range(50):
        cache.set(str(number), sealed("x" * 1000))
    cache.close()
    damage(path)
    cache = open_cache()
    assert cache.get("0") is None
    cache.set("b", sealed("2"))
    assert cache.get("b") == sealed("2")
    stats = cache.stats()
    assert (stats.entries, stats.errors, stats.available) == (1, 1, True)


@pytest.mark.parametrize(
    "damage", ["DROP TABLE totals", "DELETE FROM totals", "UPDATE totals SET entries = 1e9"]
)
def test_a_file_that_cannot_tell_what_it_holds_is_replaced_by_the_next_write(open_cache, path, damage):
    cache = open_cache()
    cache.set("a", sealed("1"))
    change(path, damage)
    cache.set("b", sealed("2"))
    assert (cache.get("a"), cache.get("b")) == (None, sealed("2"))
    stats = cache.stats()
    assert (stats.entries, stats.errors, stats.available) == (1, 1, True)


@given(
    st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=600)), min_size=1, max_size=4)
)
def test_whatever_is_written_over_the_file_no_wrong_value_is_found(damages):
    with TemporaryDirectory() as folder:
        path = Path(folder, "cache.sqlite")
        cache = DiskCache(path, maxsize=30, ttl=60)
        for number in range(30):
            cache.set(str(number), sealed(str(number) * 500))
        cache.close()
        data = bytearray(path.read_bytes())
        for start, junk in damages:
            place = start % len(data)
            data[place : place + len(junk)] = junk
        path.write_bytes(data)
        cache = DiskCache(path, maxsize=30, ttl=60)
        for number in range(60):
            assert cache.get(str(number)) in {None, sealed(str(number) * 500)}
            cache.set(str(number), sealed(str(number) * 500))
        cache.stats()
        cache.clear()
        cache.close()


def test_a_locked_file_costs_one_wait_per_try_and_hits_resume(open_cache, path):
    clock = Clock()
    cache = open_cache(clock=clock)
    cache.set("kept", sealed("1"))
    cache.set("replaced", sealed("old"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        cache.set("replaced", sealed("new"))
        assert [cache.get("kept") for _ in range(50)] == [None] * 50
        stats = cache.stats()
        assert (stats.errors, stats.skipped, stats.available) == (1, 50, False)
        other.execute("ROLLBACK")
    clock.now = 0.1
    assert cache.get("kept") == sealed("1")
    assert cache.get("replaced") is None  # the write was lost, and so is what it replaced
    assert cache.stats().available


def test_more_lost_writes_than_can_be_remembered_empty_the_level(open_cache, path):
    clock = Clock()
    cache = open_cache(clock=clock)
    cache.set("kept", sealed("1"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(1_100):
            cache.delete(str(number))
        other.execute("ROLLBACK")
    clock.now = 0.1
    assert cache.get("kept") is None
    assert (cache.stats().entries, cache.stats().available) == (0, True)


def test_a_disk_that_is_full_is_an_error_and_not_an_exception(open_cache, path):
    clock = Clock()
    cache = open_cache(clock=clock)
    cache.set("a", sealed("1"))
    pages = path.stat().st_size // 4096
    cache._connection.execute(f"PRAGMA max_page_count = {pages + 20}")  # SQLite's own full disk
    for number in range(10):
        clock.now += 60
        cache.set(str(number), sealed("x" * 20_000))
    stats = cache.stats()
    assert stats.errors > 0
    clock.now += 60
    assert cache.get("a") == sealed("1")


def test_a_folder_that_cannot_be_made_is_an_error_and_not_an_exception(open_cache, path):
    path.parent.write_text("a file where the folder should be")
    cache = open_cache()
    cache.set("a", sealed("1"))
    assert cache.get("a") is None
    stats = cache.stats()
    assert (stats.errors, stats.skipped, stats.available) == (1, 1, False)


def test_processes_share_a_file(open_cache, path):
    cache = open_cache()
    cache.set("a", sealed("1"))
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(_get_and_set, path).result(60) == sealed("1")
    assert cache.get("b") == sealed("2")
    assert cache.stats().entries == 2


def _get_and_set(path):
    cache = DiskCache(path, maxsize=10, ttl=60)
    found = cache.get("a")
    cache.set("b", sealed("2"))
    cache.close()
    return found
