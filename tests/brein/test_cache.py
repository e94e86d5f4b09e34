import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from brein.cache import MemoryCache, codec
from brein.records import Hit


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_the_least_recently_used_entry_makes_room():
    cache = MemoryCache(maxsize=2, ttl=60)
    cache.set("a", b"1")
    cache.set("b", b"2")
    assert cache.get("a") == b"1"
    cache.set("c", b"3")
    assert cache.get("b") is None
    assert (cache.get("a"), cache.get("c")) == (b"1", b"3")
    assert cache.stats().evictions == 1


def test_an_entry_ends_with_its_time_to_live():
    clock = Clock()
    cache = MemoryCache(maxsize=2, ttl=10, clock=clock)
    cache.set("a", b"1")
    clock.now = 9.9
    assert cache.get("a") == b"1"
    clock.now = 10.1
    assert cache.get("a") is None
    assert cache.stats().entries == 0
    assert cache.stats().evictions == 0


def test_bytes_are_bounded_too():
    cache = MemoryCache(maxsize=100, ttl=60, max_bytes=10)
    cache.set("a", b"123456")
    cache.set("b", b"123456")
    assert cache.get("a") is None
    assert cache.stats().stored_bytes == 6
    cache.set("huge", b"x" * 11)
    assert cache.get("huge") is None
    assert cache.get("b") == b"123456"


def test_size_zero_switches_it_off():
    cache = MemoryCache(maxsize=0, ttl=60)
    cache.set("a", b"1")
    assert cache.get("a") is None


def test_counts_and_hit_rate():
    cache = MemoryCache(maxsize=2, ttl=60)
    assert cache.stats().hit_rate is None
    cache.get("a")
    cache.set("a", b"1")
    for _ in range(3):
        cache.get("a")
    cache.clear()
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.hit_rate, stats.entries) == (3, 1, 0.75, 0)


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.binary(max_size=8)), max_size=60),
    st.integers(1, 4),
    st.integers(1, 20),
)
def test_agrees_with_a_plain_lru_model(writes, maxsize, max_bytes):
    cache, model = MemoryCache(maxsize, ttl=60, max_bytes=max_bytes), {}
    for key, value in writes:
        cache.set(key, value)
        model.pop(key, None)
        if len(value) <= max_bytes:
            while len(model) >= maxsize or sum(map(len, model.values())) + len(value) > max_bytes:
                del model[next(iter(model))]
            model[key] = value
        stats = cache.stats()
        assert stats.entries == len(model) <= maxsize
        assert stats.stored_bytes == sum(map(len, model.values())) <= max_bytes
    assert {key: cache.get(key) for key in "abcdefgh"} == {key: model.get(key) for key in "abcdefgh"}


@given(st.lists(st.builds(Hit, st.text(), st.floats(allow_nan=False, width=32), st.text())), st.booleans())
def test_hits_survive_their_encoding(hits, compression):
    assert codec.decode_hits(codec.encode_hits(hits, compression)) == hits


def test_compression_makes_repetitive_hits_smaller():
    hits = [Hit(str(n), 0.5, "the same words " * 20) for n in range(10)]
    assert len(codec.encode_hits(hits, True)) < len(codec.encode_hits(hits, False)) / 5


def test_vectors_survive_their_encoding():
    vector = np.random.default_rng(0).normal(size=384).astype(np.float32)
    np.testing.assert_array_equal(codec.decode_vector(codec.encode_vector(vector)), vector)
