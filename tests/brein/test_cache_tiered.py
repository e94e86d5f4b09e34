import os
import time
import tracemalloc
from threading import Barrier, Event, Thread

import pytest

from brein.cache import CacheConfig, MemoryCache, TieredCache, open_caches
from brein.cache.tiered import digest
from brein.errors import ConfigError


def memory(kind=MemoryCache):
    return kind(maxsize=1000, ttl=60)


@pytest.fixture
def levels():
    return {"l1": memory(), "l2": memory(), "l3": memory()}


@pytest.fixture
def cache(levels):
    return TieredCache(levels)


def in_threads(count, work):
    """Run `work(number)` in that many threads at once; return what each returned or raised."""
    barrier, results = Barrier(count), [None] * count

    def run(number):
        barrier.wait(10)
        try:
            results[number] = work(number)
        except Exception as error:
            results[number] = error

    threads = [Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def missed_by(count, cache):
    """Wait until that many look-ups have missed the first level."""
    deadline = time.monotonic() + 30
    while cache.levels["l1"].stats().misses < count:
        assert time.monotonic() < deadline, "too few came"
        time.sleep(0.001)


def found_in(levels, key):
    return [name for name, level in levels.items() if level.get(digest(key)) is not None]


# --- look-ups ------------------------------------------------------------------------------------------


def test_the_fastest_level_that_has_a_value_answers(cache, levels):
    assert cache.get("a") == (None, "miss")
    cache.set("a", b"1")
    assert cache.get("a") == (b"1", "l1")
    levels["l1"].clear()
    assert cache.get("a") == (b"1", "l2")
    assert cache.get("a") == (b"1", "l1")


def test_a_hit_is_promoted_into_every_faster_level_and_into_no_slower_one(cache, levels):
    cache.set("a", b"1")
    cache.set("b", b"2")
    for level in ("l1", "l2"):
        levels[level].clear()
    assert cache.get("a") == (b"1", "l3")
    assert found_in(levels, "a") == ["l1", "l2", "l3"]
    assert found_in(levels, "b") == ["l3"]
    levels["l1"].clear()
    levels["l3"].clear()
    assert cache.get("a") == (b"1", "l2")
    assert found_in(levels, "a") == ["l1", "l2"]


def test_without_promote_a_value_is_in_the_first_level_only(cache, levels):
    cache.set("a", b"old")
    cache.set("a", b"new", promote=False)
    assert found_in(levels, "a") == ["l1"]
    assert cache.get("a") == (b"new", "l1")


def test_invalidate_and_clear_reach_every_level(cache, levels):
    cache.set("a", b"1")
    cache.set("b", b"2")
    cache.invalidate("a")
    assert (found_in(levels, "a"), found_in(levels, "b")) == ([], ["l1", "l2", "l3"])
    cache.clear()
    assert found_in(levels, "b") == []


def test_every_level_counts_the_look_ups_that_reached_it(cache, levels):
    cache.get("a")
    cache.set("a", b"1")
    cache.get("a")
    levels["l1"].clear()
    cache.get("a")
    counts = {name: (stats.hits, stats.misses) for name, stats in cache.stats().items()}
    assert counts == {"l1": (1, 2), "l2": (1, 1), "l3": (0, 1)}


@pytest.mark.parametrize("compression", [True, False])
def test_a_peek_looks_into_the_first_level_alone(levels, compression):
    cache = TieredCache(levels, compression)
    cache.set("a", b"1" * 100)
    assert cache.peek("a") == b"1" * 100
    levels["l1"].delete(digest("a"))
    assert cache.peek("a") is None
    assert {name: (stats.hits, stats.misses) for name, stats in cache.stats().items()} == {
        "l1": (1, 0),
        "l2": (0, 0),
        "l3": (0, 0),
    }


class Outside(MemoryCache):
    """Stands in another process, as far as the cache above it knows."""

    in_process = False


@pytest.mark.parametrize("first", [MemoryCache, Outside])
@pytest.mark.parametrize("computed", [False, True])
def test_compression_makes_values_outside_of_memory_smaller(first, computed):
    words = b"the same words " * 100
    cache = TieredCache({"l1": memory(first), "l2": memory(), "l3": memory()}, compression=True)
    if computed:
        cache.get_or_compute("a", lambda: words)
    else:
        cache.set("a", words)
    assert (cache.get("a"), cache.peek("a")) == ((words, "l1"), words)
    cache.levels["l1"].clear()
    assert (cache.get("a"), cache.get("a")) == ((words, "l2"), (words, "l1"))
    kept, *sealed = (stats.stored_bytes for stats in cache.stats().values())
    assert max(sealed) < len(words) / 5
    assert kept == len(words) if first is MemoryCache else kept == sealed[0]


def test_any_text_is_a_key(cache):
    for key in ("", "ü \ud800", "x" * 1000):
        cache.set(key, key.encode("utf-8", "surrogatepass"))
    assert cache.get("") == (b"", "l1")
    assert cache.get("ü \ud800") == ("ü \ud800".encode("utf-8", "surrogatepass"), "l1")


def test_a_long_key_takes_no_more_memory_than_a_short_one(cache):
    tracemalloc.start()
    for number in range(100):
        cache.get_or_compute(str(number) * 100_000, lambda: b"1")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert cache.stats()["l1"].entries == 100
    assert held < 1_000_000


# --- computing what is missing -------------------------------------------------------------------------


def test_what_is_computed_is_kept_and_says_where_it_came_from(cache, levels):
    assert cache.get_or_compute("a", lambda: b"1") == (b"1", "miss")
    assert cache.get_or_compute("a", lambda: b"2") == (b"1", "l1")
    levels["l1"].clear()
    levels["l2"].clear()
    assert cache.get_or_compute("a", lambda: b"2") == (b"1", "l3")
    assert found_in(levels, "a") == ["l1", "l2", "l3"]


def test_one_miss_under_concurrency_computes_once(cache):
    computed = []

    def compute():
        missed_by(8, cache)
        computed.append(1)
        return b"1"

    assert in_threads(8, lambda _: cache.get_or_compute("a", compute)[0]) == [b"1"] * 8
    assert computed == [1]


def test_many_misses_under_concurrency_compute_each_key_once(cache):
    computed = []

    def work(_):
        for key in map(str, range(200)):
            cache.get_or_compute(key, lambda key=key: computed.append(key) or b"1")

    in_threads(8, work)
    assert sorted(computed) == sorted(map(str, range(200)))


def test_different_keys_are_computed_side_by_side(cache):
    together = Barrier(3)

    def work(number):
        return cache.get_or_compute(str(number), lambda: b"%d" % together.wait(10))[1]

    assert in_threads(3, work) == ["miss"] * 3


class Together(MemoryCache):
    """A level whose writes end only when three are under way."""

    def __init__(self, **bounds):
        super().__init__(**bounds)
        self.together = Barrier(3)

    def set(self, key, value):
        self.together.wait(10)
        super().set(key, value)


def test_slower_levels_are_written_side_by_side():
    cache = TieredCache({"l1": memory(), "l2": memory(Together)})
    assert in_threads(3, lambda number: cache.set(str(number), b"1")) == [None] * 3
    assert in_threads(3, lambda number: cache.get_or_compute(f"+{number}", lambda: b"1")[1]) == ["miss"] * 3
    assert cache.stats()["l2"].entries == 6


class Sooner(MemoryCache):
    """A level at which `then` happens right after the next look-up."""

    then = None

    def get(self, key):
        value = super().get(key)
        if (then := self.then) is not None:
            self.then = None
            then()
        return value


def test_a_computation_that_ended_during_the_look_up_is_not_done_again():
    first = memory(Sooner)
    cache = TieredCache({"l1": first})
    first.then = lambda: cache.get_or_compute("a", lambda: b"1")
    assert cache.get_or_compute("a", lambda: b"2") == (b"1", "l1")


def test_waiting_threads_get_the_error_and_the_next_call_computes_anew(cache, levels):
    def fail():
        missed_by(4, cache)
        raise ValueError("no")

    assert list(map(str, in_threads(4, lambda _: cache.get_or_compute("a", fail)))) == ["no"] * 4
    assert found_in(levels, "a") == []
    assert cache.get_or_compute("a", lambda: b"1") == (b"1", "miss")


def test_a_thread_does_not_wait_for_ever_for_the_computation_of_another(levels):
    cache, begun, finish = TieredCache(levels, patience=0.01), Event(), Event()

    def slow():
        begun.set()
        finish.wait(10)
        return b"slow"

    thread = Thread(target=cache.get_or_compute, args=("a", slow))
    thread.start()
    begun.wait(10)
    assert cache.get_or_compute("a", lambda: b"own") == (b"own", "miss")
    finish.set()
    thread.join(10)
    assert cache.get("a") == (b"slow", "l1")


# --- nothing stale is stored ---------------------------------------------------------------------------

CHANGES = {
    "invalidate": lambda cache: cache.invalidate("a"),
    "clear": lambda cache: cache.clear(),
    "set": lambda cache: cache.set("a", b"new"),
}


@pytest.fixture(params=CHANGES)
def change(request):
    return CHANGES[request.param], b"new" if request.param == "set" else None


def test_what_was_computed_before_a_change_is_not_stored_after_it(cache, change):
    make_stale, left = change

    def compute():
        make_stale(cache)
        return b"old"

    assert cache.get_or_compute("a", compute) == (b"old", "miss")
    assert cache.get("a")[0] == left


def test_what_was_read_before_a_change_is_not_promoted_after_it(change):
    make_stale, left = change
    slow = memory(Sooner)
    cache = TieredCache({"l1": memory(), "l2": slow})
    cache.set("a", b"old")
    cache.levels["l1"].clear()
    slow.then = lambda: make_stale(cache)
    assert cache.get("a") == (b"old", "l2")
    assert cache.get("a")[0] == left


def test_who_comes_after_a_change_does_not_wait_for_what_began_before_it(cache, change):
    make_stale, left = change
    begun, finish = Event(), Event()

    def slow():
        begun.set()
        finish.wait(10)
        return b"old"

    thread = Thread(target=cache.get_or_compute, args=("a", slow))
    thread.start()
    begun.wait(10)
    make_stale(cache)
    assert cache.get_or_compute("a", lambda: b"fresh")[0] == (left or b"fresh")
    finish.set()
    thread.join(10)
    assert cache.get("a")[0] == (left or b"fresh")


class Overtaken(MemoryCache):
    """A level in which the thread `overtaking` has time to do so before the next write."""

    overtaking = None

    def set(self, key, value):
        if (thread := self.overtaking) is not None and not thread.ident:
            thread.start()
            thread.join(0.1)
        super().set(key, value)


def test_a_change_during_a_write_to_a_slower_level_is_the_last_word(change):
    make_stale, left = change
    levels = {"l1": memory(), "l2": memory(Overtaken), "l3": memory()}
    cache = TieredCache(levels)
    thread = levels["l2"].overtaking = Thread(target=make_stale, args=(cache,))
    assert cache.get_or_compute("a", lambda: b"old") == (b"old", "miss")
    thread.join(10)
    for fastest in levels.values():
        assert cache.get("a")[0] == left
        fastest.clear()


# --- from the configuration ----------------------------------------------------------------------------


def caches_of(text, folder=None):
    return open_caches(CacheConfig.read(text), folder)


def test_by_default_there_is_one_level_of_each_kind():
    caches = caches_of("{}")
    assert (list(caches.embedding.levels), list(caches.search.levels)) == (["l1"], ["l1"])
    caches.close()


def test_all_levels_open_from_the_configuration_and_the_slow_ones_outlive_the_fast(tmp_path):
    text = '{"l2": {"enabled": true, "timeout": 5}, "l3": {"enabled": true}}'
    caches = caches_of(text, tmp_path)
    caches.embedding.set("a", b"vector")
    caches.search.set("a", b"hits")
    caches.search.levels["l1"].clear()
    assert caches.search.get("a") == (b"hits", "l2")
    assert caches.embedding.get("a") == (b"vector", "l1")
    assert caches.search.levels["l2"]._client is caches.embedding.levels["l2"]._client
    assert caches.search.levels["l2"]._client.config_get("maxmemory")["maxmemory"] != "0"
    socket = caches.search.levels["l2"]._client.connection_pool.connection_kwargs["path"]
    caches.close()
    caches.close()
    assert not os.path.exists(socket)
    caches = caches_of(text, tmp_path)
    assert (caches.search.get("a"), caches.embedding.get("a")) == ((b"hits", "l3"), (b"vector", "l3"))
    caches.close()
    assert sorted(os.listdir(tmp_path / "cache")) == ["embedding.sqlite", "search.sqlite"]


def test_caches_shrink_in_memory():
    caches = caches_of("{}")
    for key in "abcd":
        caches.embedding.set(key, b"x" * 1000)
        caches.search.set(key, os.urandom(1000))
    caches.embedding.set("e", b"x" * 1000)
    assert caches.l1_bytes() == 5 * 1000
    caches.shrink(2500)
    assert caches.l1_bytes() == 2 * 1000
    assert [levels["l1"].entries for levels in caches.stats().values()] == [2, 2]
    caches.close()


def test_a_disk_level_without_a_place_is_refused():
    with pytest.raises(ConfigError, match=r"cache\.l3\.path = null: .*; give one"):
        caches_of('{"l3": {"enabled": true}}')


def test_a_file_of_the_user_in_the_place_of_a_disk_level_is_refused(tmp_path):
    (tmp_path / "search.sqlite").write_text("call the dentist")
    with pytest.raises(ConfigError, match=r"search\.sqlite is not a cache .*; give another cache\.l3\.path"):
        caches_of(f'{{"l3": {{"enabled": true, "path": "{tmp_path}"}}}}')
    assert (tmp_path / "search.sqlite").read_text() == "call the dentist"


def test_a_damaged_disk_level_in_the_folder_of_the_engine_starts_anew(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "search.sqlite").write_bytes(b"noise" * 1000)
    caches = caches_of('{"l3": {"enabled": true}}', tmp_path)
    caches.search.set("a", b"1")
    caches.search.levels["l1"].clear()
    assert caches.search.get("a") == (b"1", "l3")
    caches.close()


def test_a_disk_level_goes_where_it_is_told(tmp_path):
    caches = caches_of(f'{{"l3": {{"enabled": true, "path": "{tmp_path}/elsewhere"}}}}')
    caches.search.set("a", b"1")
    caches.close()
    assert (tmp_path / "elsewhere" / "search.sqlite").is_file()
