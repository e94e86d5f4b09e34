import sqlite3
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from brein.cache import DiskCache, codec
from brein.errors import ConfigError


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

    def open_cache(maxsize=100, ttl=60, kind=DiskCache, **options):
        made.append(kind(path, maxsize, ttl, **options))
        return made[-1]

    yield open_cache
    for cache in made:
        cache.close()


def change(path, statement, *values):
    with closing(sqlite3.connect(path)) as file, file:
        return file.execute(statement, values).fetchall()


def test_entries_outlive_the_process_with_their_order_and_their_end(open_cache):
    clock = Clock()
    cache = open_cache(now=clock)
    for clock.now, key in enumerate("abc"):
        cache.set(key.encode(), sealed(key))
    cache.get(b"a")
    cache.close()
    cache = open_cache(maxsize=3, now=clock)
    cache.set(b"d", sealed("d"))
    assert [cache.get(key.encode()) for key in "abcd"] == [sealed("a"), None, sealed("c"), sealed("d")]
    clock.now = 61
    assert [cache.get(key.encode()) for key in "abcd"] == [None, None, sealed("c"), sealed("d")]


@pytest.mark.parametrize("junk", [b"", b"junk", sealed("1")[:-1], sealed("2")[:14] + b"1"])
def test_a_value_that_is_damaged_is_a_miss_and_removed(open_cache, path, junk):
    cache = open_cache()
    cache.set(b"a", sealed("1"))
    cache.set(b"b", sealed("2"))
    change(path, "UPDATE entries SET value = ? WHERE value = ?", junk, sealed("1"))
    assert (cache.get(b"a"), cache.get(b"b")) == (None, sealed("2"))
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.errors, stats.entries) == (1, 1, 1, 1)
    assert stats.available


def _garbage(path):
    path.write_bytes(b"not a database " * 1000)


def _truncated(path):
    path.write_bytes(path.read_bytes()[:5000])


def _older(path):
    change(path, "PRAGMA user_version = 0")


def _of_another_type(path):
    change(path, "UPDATE entries SET value = 7")


@pytest.mark.parametrize(
    ("damage", "own_folder"),
    [(_garbage, True), (_truncated, False), (_older, False), (_of_another_type, False)],
)
def test_a_damaged_or_older_cache_is_replaced_by_an_empty_one(open_cache, path, damage, own_folder):
    cache = open_cache()
    for number in range(50):
        cache.set(b"%d" % number, sealed("x" * 1000))
    cache.close()
    damage(path)
    cache = open_cache(own_folder=own_folder)
    assert cache.get(b"0") is None
    cache.set(b"b", sealed("2"))
    assert cache.get(b"b") == sealed("2")
    stats = cache.stats()
    assert (stats.entries, stats.errors, stats.available) == (1, 1, True)


def _text(path):
    path.write_text("call the dentist")


def _tables(path):
    change(path, "CREATE TABLE payroll (name, amount)")


def _tables_in_a_log(path):
    change(path, "PRAGMA journal_mode = WAL")
    _tables(path)


def _marked(path):
    change(path, "PRAGMA application_id = 7")


@pytest.mark.parametrize(
    ("write", "own_folder"),
    [
        (_text, False),
        (_garbage, False),
        (_tables, False),
        (_tables, True),
        (_tables_in_a_log, True),
        (_marked, True),
    ],
)
def test_a_file_that_is_not_a_cache_is_refused_and_left_alone(open_cache, path, write, own_folder):
    path.parent.mkdir()
    write(path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"cache\.sqlite is not a cache .*; give another cache\.l3\.path"):
        open_cache(own_folder=own_folder)
    assert path.read_bytes() == before


def test_a_file_that_takes_the_place_of_the_cache_later_is_left_alone(open_cache, path):
    cache = open_cache()
    path.parent.mkdir()
    _tables(path)
    cache.set(b"a", sealed("1"))
    assert cache.get(b"a") is None
    assert not cache.stats().available
    assert change(path, "SELECT count(*) FROM payroll") == [(0,)]


@pytest.mark.parametrize(
    "damage", ["DROP TABLE totals", "DELETE FROM totals", "UPDATE totals SET entries = 1e9"]
)
def test_a_file_that_cannot_tell_what_it_holds_is_replaced_by_the_next_write(open_cache, path, damage):
    cache = open_cache()
    cache.set(b"a", sealed("1"))
    change(path, damage)
    cache.set(b"b", sealed("2"))
    assert (cache.get(b"a"), cache.get(b"b")) == (None, sealed("2"))
    stats = cache.stats()
    assert (stats.entries, stats.errors, stats.available) == (1, 1, True)


@given(
    st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=600)), min_size=1, max_size=4)
)
@example([(3994, b"\x80")])  # a name in the schema, which SQLite's error message repeats
def test_whatever_is_written_over_the_file_no_wrong_value_is_found(damages):
    with TemporaryDirectory() as folder:
        path = Path(folder, "cache.sqlite")
        cache = DiskCache(path, maxsize=30, ttl=60)
        for number in range(30):
            cache.set(b"%d" % number, sealed(str(number) * 500))
        cache.close()
        data = bytearray(path.read_bytes())
        for start, junk in damages:
            place = start % len(data)
            data[place : place + len(junk)] = junk
        path.write_bytes(data)
        cache = DiskCache(path, maxsize=30, ttl=60, own_folder=True)
        for number in range(60):
            assert cache.get(b"%d" % number) in {None, sealed(str(number) * 500)}
            cache.set(b"%d" % number, sealed(str(number) * 500))
        cache.stats()
        cache.clear()
        cache.close()


def test_a_locked_file_costs_one_wait_per_try_and_hits_resume(open_cache, path):
    clock = Clock()
    cache = open_cache(clock=clock)
    cache.set(b"kept", sealed("1"))
    cache.set(b"replaced", sealed("old"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        cache.set(b"replaced", sealed("new"))
        assert [cache.get(b"kept") for _ in range(50)] == [None] * 50
        stats = cache.stats()
        assert (stats.errors, stats.skipped, stats.available) == (1, 50, False)
        other.execute("ROLLBACK")
    clock.now = 0.1
    assert cache.get(b"kept") == sealed("1")
    assert cache.get(b"replaced") is None  # the write was lost, and so is what it replaced
    assert cache.stats().available


def test_more_lost_writes_than_can_be_remembered_empty_the_level(open_cache, path):
    clock = Clock()
    cache = open_cache(clock=clock)
    cache.set(b"kept", sealed("1"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(1_100):
            cache.delete(b"%d" % number)
        other.execute("ROLLBACK")
    clock.now = 0.1
    assert cache.get(b"kept") is None
    assert (cache.stats().entries, cache.stats().available) == (0, True)


class Interrupted(DiskCache):
    """A cache in which `then` happens right after the next removal."""

    then = None

    def _remove(self, *keys):
        return super()._remove(*keys) and self._interrupt()

    def _remove_all(self):
        return super()._remove_all() and self._interrupt()

    def _interrupt(self):
        if (then := self.then) is not None:
            self.then = None
            then()
        return True


@pytest.mark.parametrize("change", [lambda cache: cache.clear(), lambda cache: cache.delete(b"a")])
def test_a_change_lost_while_an_earlier_one_is_made_up_for_is_not_forgotten(open_cache, path, change):
    clock = Clock()
    cache, other = open_cache(kind=Interrupted, clock=clock), open_cache()
    other.set(b"a", sealed("old"))
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("BEGIN IMMEDIATE")
        change(cache)
        file.execute("ROLLBACK")

    def lose_another():
        other.set(b"a", sealed("old"))
        change(cache)  # while the level is left alone

    cache.then = lose_another
    clock.now = 0.1
    cache.get(b"b")
    assert cache.get(b"a") is None
    assert cache.stats().available


def test_an_operation_overtaken_by_close_does_not_open_the_file_again(open_cache, path):
    def close_when_asked_again():
        clock.now += 1
        if clock.now > 1:
            cache.close()
        return clock.now

    clock = Clock()
    path.parent.write_text("a file where the folder should be")
    cache = open_cache(clock=close_when_asked_again)
    cache.set(b"a", sealed("1"))
    path.parent.unlink()
    assert cache.get(b"a") is None
    assert not path.exists()


def test_a_disk_that_is_full_is_an_error_and_not_an_exception(open_cache, path):
    clock = Clock()
    cache = open_cache(clock=clock)
    cache.set(b"a", sealed("1"))
    pages = path.stat().st_size // 4096
    cache._connection.execute(f"PRAGMA max_page_count = {pages + 20}")  # SQLite's own full disk
    for number in range(10):
        clock.now += 60
        cache.set(b"%d" % number, sealed("x" * 20_000))
    stats = cache.stats()
    assert stats.errors > 0
    clock.now += 60
    assert cache.get(b"a") == sealed("1")


def test_a_folder_that_cannot_be_made_is_an_error_and_not_an_exception(open_cache, path):
    path.parent.write_text("a file where the folder should be")
    cache = open_cache()
    cache.set(b"a", sealed("1"))
    assert cache.get(b"a") is None
    stats = cache.stats()
    assert (stats.errors, stats.skipped, stats.available) == (1, 1, False)


def test_processes_share_a_file(open_cache, path):
    cache = open_cache()
    cache.set(b"a", sealed("1"))
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(_get_and_set, path).result(60) == sealed("1")
    assert cache.get(b"b") == sealed("2")
    assert cache.stats().entries == 2


def _get_and_set(path):
    cache = DiskCache(path, maxsize=10, ttl=60)
    found = cache.get(b"a")
    cache.set(b"b", sealed("2"))
    cache.close()
    return found
