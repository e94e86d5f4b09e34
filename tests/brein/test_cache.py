import itertools
import math
import os
import tempfile
from collections import OrderedDict
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brein.cache import DiskCache, MemoryCache, codec
from brein.cache.redis import RedisCache, RedisConnection, RedisServer
from brein.records import Analysis, Complexity, Hit, Retrieval, Stage

DATASETS = Path(os.environ.get("BREIN_DATASETS", Path(__file__).resolve().parents[3] / "shared" / "datasets"))
LEVELS = ["memory", "redis", "disk"]
namespaces = itertools.count()


def sealed(text):
    return codec.seal(text.encode(), compression=False)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def connection():
    server = RedisServer()
    connection = RedisConnection(server.url, timeout=5)  # a busy machine is not a slow Redis
    yield connection
    connection.close()
    server.close()


@contextmanager
def opened(level, connection, clock, bounds):
    with tempfile.TemporaryDirectory() as folder:
        if level == "memory":
            cache = MemoryCache(*bounds, clock)
        elif level == "redis":
            cache = RedisCache(connection, str(next(namespaces)), *bounds, now=clock)
        else:
            cache = DiskCache(Path(folder, "cache.sqlite"), *bounds, now=clock)
        yield cache
        cache.close()


@pytest.fixture(params=LEVELS)
def make(request, connection):
    """Open caches of one level; closed when the test ends."""
    with ExitStack() as closing:

        def make(maxsize=100, ttl=10, max_bytes=None, clock=None):
            level = opened(request.param, connection, clock or Clock(), (maxsize, ttl, max_bytes))
            return closing.enter_context(level)

        yield make


# --- every level ---------------------------------------------------------------------------------------


def test_what_is_set_is_found_until_it_is_replaced_or_deleted(make):
    cache = make()
    assert cache.get(b"a") is None
    cache.set(b"a", sealed("1"))
    cache.set(bytes(range(16)), sealed(""))
    assert (cache.get(b"a"), cache.get(bytes(range(16)))) == (sealed("1"), sealed(""))
    cache.set(b"a", sealed("2"))
    assert cache.get(b"a") == sealed("2")
    cache.delete(b"a")
    cache.delete(b"nobody")
    assert cache.get(b"a") is None
    assert cache.stats().entries == 1


def test_the_least_recently_used_entry_makes_room(make):
    cache = make(maxsize=2)
    cache.set(b"a", sealed("1"))
    cache.set(b"b", sealed("2"))
    assert cache.get(b"a") == sealed("1")
    cache.set(b"c", sealed("3"))
    assert cache.get(b"b") is None
    assert (cache.get(b"a"), cache.get(b"c")) == (sealed("1"), sealed("3"))
    assert cache.stats().evictions == 1


def test_an_entry_ends_with_its_time_to_live(make):
    clock = Clock()
    cache = make(ttl=10, clock=clock)
    cache.set(b"a", sealed("1"))
    clock.now = 9.9
    assert cache.get(b"a") == sealed("1")
    clock.now = 10.1
    assert cache.get(b"a") is None
    stats = cache.stats()
    assert (stats.entries, stats.stored_bytes, stats.evictions) == (0, 0, 0)


def test_an_expired_entry_makes_room_before_a_living_one(make):
    clock = Clock()
    cache = make(maxsize=2, ttl=10, clock=clock)
    cache.set(b"old", sealed("1"))
    clock.now = 5
    cache.set(b"young", sealed("2"))
    assert cache.get(b"old") == sealed("1")  # used last, and yet it goes
    clock.now = 11
    cache.set(b"new", sealed("3"))
    assert (cache.get(b"young"), cache.get(b"new")) == (sealed("2"), sealed("3"))
    assert cache.stats().evictions == 0


def test_bytes_are_bounded_too(make):
    size = len(sealed("123456"))
    cache = make(max_bytes=size + 4)
    cache.set(b"a", sealed("123456"))
    cache.set(b"b", sealed("123456"))
    assert cache.get(b"a") is None
    assert cache.stats().stored_bytes == size
    cache.set(b"huge", sealed("x" * 11))
    assert cache.get(b"huge") is None
    assert cache.get(b"b") == sealed("123456")
    cache.set(b"b", sealed("x" * 11))
    assert cache.get(b"b") is None  # never the value before


def test_size_zero_switches_it_off(make):
    cache = make(maxsize=0)
    cache.set(b"a", sealed("1"))
    assert cache.get(b"a") is None
    assert cache.stats().entries == 0


def test_counts_and_hit_rate(make):
    cache = make(maxsize=2)
    assert cache.stats().hit_rate is None
    cache.get(b"a")
    cache.set(b"a", sealed("1"))
    for _ in range(3):
        cache.get(b"a")
    cache.clear()
    assert cache.get(b"a") is None
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.hit_rate, stats.entries) == (3, 2, 0.6, 0)
    assert (stats.errors, stats.skipped, stats.available) == (0, 0, True)


def test_a_peek_counts_no_miss_and_answers_from_memory_alone(make):
    clock = Clock()
    cache = make(ttl=10, clock=clock)
    assert cache.peek(b"a") is None
    cache.set(b"a", sealed("1"))
    found = cache.peek(b"a")
    assert found == (sealed("1") if isinstance(cache, MemoryCache) else None)
    clock.now = 11
    assert cache.peek(b"a") is None
    assert (cache.stats().hits, cache.stats().misses) == (int(found is not None), 0)


def test_a_closed_cache_finds_and_keeps_nothing(make):
    cache = make()
    cache.set(b"a", sealed("1"))
    cache.close()
    cache.set(b"b", sealed("2"))
    cache.delete(b"a")
    cache.clear()
    assert (cache.get(b"a"), cache.get(b"b"), cache.stats().entries) == (None, None, 0)
    cache.close()


def test_threads_share_it_within_its_bounds(make):
    cache, barrier, wrong = make(maxsize=20), Barrier(4), []

    def work(seed):
        keys = np.random.default_rng(seed).integers(0, 40, size=150)
        barrier.wait(10)
        for key in keys:
            value, own = cache.get(b"%d" % key), sealed(str(key))
            if value not in {None, own}:
                wrong.append((key, value))
            cache.set(b"%d" % key, own)

    threads = [Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    stats = cache.stats()
    assert wrong == []
    assert stats.entries == 20
    assert stats.hits + stats.misses == 600
    assert stats.errors == 0


KEYS = st.sampled_from([b"%c" % letter for letter in b"abcdefgh"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, st.text("xyz", max_size=8)),
        st.tuples(st.just("get"), KEYS),
        st.tuples(st.just("delete"), KEYS),
        st.tuples(st.just("wait"), st.integers(1, 6)),
    ),
    max_size=40,
)


class PlainLru:
    """What a cache must do, said without regard to speed."""

    def __init__(self, maxsize, ttl, max_bytes):
        self.maxsize, self.ttl, self.max_bytes = maxsize, ttl, max_bytes
        self.entries = OrderedDict()  # key: (value, end of life), the least recently used first
        self.now = self.evictions = 0

    def wait(self, seconds):
        self.now += seconds
        self.entries = OrderedDict((k, e) for k, e in self.entries.items() if e[1] > self.now)

    def get(self, key):
        if key not in self.entries:
            return None
        self.entries.move_to_end(key)
        return self.entries[key][0]

    def delete(self, key):
        self.entries.pop(key, None)

    def set(self, key, value):
        self.delete(key)
        if len(value) > self.max_bytes:
            return
        while len(self.entries) >= self.maxsize or self.stored_bytes + len(value) > self.max_bytes:
            self.entries.popitem(last=False)
            self.evictions += 1
        self.entries[key] = value, self.now + self.ttl

    @property
    def stored_bytes(self):
        return sum(len(value) for value, _ in self.entries.values())


@pytest.mark.parametrize("level", LEVELS)
@given(STEPS, st.tuples(st.integers(1, 4), st.integers(1, 10), st.integers(15, 80)))
def test_agrees_with_a_plain_lru(level, connection, steps, bounds):
    clock, model = Clock(), PlainLru(*bounds)
    with opened(level, connection, clock, bounds) as cache:
        for step, *arguments in steps:
            if step == "wait":
                clock.now += arguments[0]
                model.wait(arguments[0])
            elif step == "set":
                cache.set(arguments[0], sealed(arguments[1]))
                model.set(arguments[0], sealed(arguments[1]))
            else:
                assert getattr(cache, step)(*arguments) == getattr(model, step)(*arguments)
        stats = cache.stats()
        assert (stats.entries, stats.stored_bytes) == (len(model.entries), model.stored_bytes)
        assert stats.evictions == model.evictions


# --- L1 ------------------------------------------------------------------------------------------------


def test_shrinking_evicts_the_least_recently_used_first():
    cache = MemoryCache(maxsize=10, ttl=60)
    keys = [b"a", b"b", b"c", b"d"]
    for key in keys:
        cache.set(key, b"1234")
    cache.get(b"a")
    cache.shrink(9)
    assert [cache.get(key) for key in keys] == [b"1234", None, None, b"1234"]
    assert (cache.stats().evictions, cache.stats().stored_bytes) == (2, 8)
    cache.shrink(9)
    assert cache.stats().stored_bytes == 8
    cache.shrink(0)
    assert cache.stats().entries == 0


class Ticking(Clock):
    """A clock that goes on with every look at it."""

    def __call__(self):
        self.now += 1
        return self.now


def test_entries_that_expire_during_an_operation_do_no_harm():
    for ttl in range(1, 30):
        cache = MemoryCache(maxsize=1, ttl=ttl, clock=Ticking())
        for _ in range(30):
            cache.set(b"a", b"1")
            cache.set(b"b", b"2")
            cache.shrink(0)
        stats = cache.stats()
        assert (stats.entries, stats.stored_bytes) == (0, 0)


@pytest.mark.slow
def test_hits_on_a_real_trace_equal_those_of_an_independent_lru():
    trace = DATASETS / "arc_oltp" / "OLTP.lis.zst"
    if not trace.is_file():
        pytest.skip(f"needs {trace}")
    with pa.input_stream(trace, compression="zstd") as file:
        rows = [line.split() for line in file.read().decode().splitlines()]
    pages = [b"%d" % (int(start) + n) for start, count, *_ in rows for n in range(int(count))]
    hits = {size: _lru_hits(pages, size) for size in (1_000, 5_000, 20_000)}
    # LRU hit ratios in per cent for OLTP: Megiddo and Modha, "ARC", FAST 2003.
    assert [round(100 * hits[size] / len(pages), 2) for size in (1_000, 5_000)] == [32.83, 53.65]
    for size, expected in hits.items():
        cache = MemoryCache(maxsize=size, ttl=86_400)
        for page in pages:
            if cache.get(page) is None:
                cache.set(page, b"page")
        assert (size, cache.stats().hits) == (size, expected)


def _lru_hits(keys, size):
    recent, hits = OrderedDict(), 0
    for key in keys:
        if key in recent:
            recent.move_to_end(key)
            hits += 1
        else:
            recent[key] = None
            if len(recent) > size:
                recent.popitem(last=False)
    return hits


# --- formats -------------------------------------------------------------------------------------------


@given(st.binary() | st.binary(min_size=1, max_size=9).map(lambda part: part * 50), st.booleans())
def test_a_value_survives_its_envelope(value, compression):
    assert codec.unseal(codec.seal(value, compression)) == value


@given(st.binary(max_size=200), st.booleans(), st.data())
def test_a_changed_byte_is_refused(value, compression, data):
    damaged = bytearray(codec.seal(value, compression))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    assert not codec.is_sealed(bytes(damaged))
    with pytest.raises(ValueError, match="damaged or not of cache format"):
        codec.unseal(bytes(damaged))


@given(st.binary(max_size=100), st.booleans())
def test_every_truncation_and_extension_is_refused(value, compression):
    whole = codec.seal(value, compression)
    for wrong in [*(whole[:n] for n in range(len(whole))), whole + b"\0"]:
        with pytest.raises(ValueError, match="damaged or not of cache format"):
            codec.unseal(wrong)


def test_compression_is_kept_only_where_it_makes_a_value_smaller():
    noise, words = os.urandom(1000), b"the same words " * 50
    assert codec.seal(noise, True) == codec.seal(noise, False)
    assert len(codec.seal(words, True)) < len(words) / 5


NUMBERS = st.floats(allow_nan=False)
COMPLEXITIES = st.builds(Complexity, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
ANALYSES = st.builds(Analysis, complexity=COMPLEXITIES, estimated_latency=st.none() | NUMBERS)
RETRIEVALS = st.builds(
    Retrieval,
    hits=st.lists(st.builds(Hit, score=NUMBERS)).map(tuple),
    analysis=ANALYSES,
    stages=st.lists(st.builds(Stage, seconds=NUMBERS)).map(tuple),
)


@given(RETRIEVALS)
def test_a_retrieval_survives_its_encoding(retrieval):
    assert codec.decode_retrieval(codec.encode_retrieval(retrieval)) == retrieval


def test_the_bytes_of_a_retrieval_are_those_of_their_form():
    """Who changes the bytes, or what they mean, gives the form another number, here too."""
    complexity = Complexity(length=1.0, rarity=0.5, clauses=0.25, ambiguity=0.0)
    analysis = Analysis("q", "q s", complexity, "two_stage", 0.5)
    retrieval = Retrieval(
        (Hit("a", -math.inf, "é"),), analysis, "multi_stage", (Stage("mesh", 0.1, 2, 3, "late", {1: "gone"}),)
    )
    assert (codec.RETRIEVAL_FORM, codec.encode_retrieval(retrieval).decode()) == (
        4,
        '{"hits":[{"id":"a","score":"-Infinity","text":"é"}],"strategy":"multi_stage",'
        '"analysis":{"original":"q","expanded":"q s","complexity":{"length":1.0,"rarity":0.5,"clauses":0.25,'
        '"ambiguity":0.0},"strategy":"two_stage","estimated_latency":0.5},"stages":[{"name":"mesh","seconds":0.1,'
        '"given":2,"found":3,"skipped":"late","missing":{"1":"gone"}}],'
        '"degraded":"mesh: late; shard 1: gone","partial":true,"missing_shards":[1]}',
    )


def test_vectors_survive_their_encoding():
    vector = np.random.default_rng(0).normal(size=384).astype(np.float32)
    np.testing.assert_array_equal(codec.decode_vector(codec.encode_vector(vector)), vector)
