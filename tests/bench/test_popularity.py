"""Streams of requests: the same for a seed, of the popularity, repetition and drift that are stated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.data_config import TracePopularity, UniformPopularity, ZipfPopularity
from bench.errors import UsageError
from bench.workload import popularity
from bench.workload.popularity import Stream

repetitions = {"repetition": st.floats(0, 0.99), "window": st.integers(1, 200)}
popularities = st.one_of(
    st.builds(UniformPopularity, **repetitions),
    st.builds(ZipfPopularity, exponent=st.floats(0, 3), drift=st.floats(0, 10), **repetitions),
)


def zipf(exponent=1.0, repetition=0.0, window=100, drift=0.0):
    return ZipfPopularity(exponent=exponent, repetition=repetition, window=window, drift=drift)


def uniform(repetition=0.0, window=100):
    return UniformPopularity(repetition=repetition, window=window)


def drawn(described, queries, requests, seed=3):
    return Stream(popularity=described, queries=queries, requests=requests).drawn(seed)


@given(popularities, st.integers(1, 50), st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_a_stream_is_within_range_and_survives_json_bit_by_bit(described, queries, requests, seed):
    stream = Stream(popularity=described, queries=queries, requests=requests)
    rows = stream.drawn(seed)
    assert (rows.dtype, rows.shape) == (np.int64, (requests,))
    assert 0 <= rows.min() <= rows.max() < queries
    np.testing.assert_array_equal(Stream.read(stream.model_dump_json()).drawn(seed), rows)


def test_a_seed_makes_the_stream_it_always_made():
    rows = drawn(zipf(repetition=0.3, window=5, drift=5.0), 10, 250)
    assert rows[:10].tolist() == [0, 0, 3, 4, 5, 0, 0, 8, 3, 0]
    assert int((rows * np.arange(250)).sum()) == 114_697


@given(popularities, st.integers(0, 2**32 - 1))
def test_what_is_repeated_is_one_of_the_last_requests(described, seed):
    """Two streams that differ in nothing but repetition differ only where the one repeats."""
    queries, requests, window = 1000, 300, described.window
    plain = drawn(described.model_copy(update={"repetition": 0.0}), queries, requests, seed)
    rows = drawn(described, queries, requests, seed)
    for place in np.flatnonzero(rows != plain):
        assert rows[place] in rows[max(0, place - window) : place]


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("repetition", [0.0, 0.4])
def test_popularity_follows_the_exponent_whatever_is_repeated(exponent, repetition):
    queries, apart = 20, 50  # requests so far apart repeat each other as good as never
    rows = drawn(zipf(exponent, repetition, window=3), queries, 400_000)[::apart]
    weights = np.arange(1, queries + 1) ** -exponent
    counts = np.sort(np.bincount(rows, minlength=queries))[::-1]
    assert stats.chisquare(counts, weights / weights.sum() * len(rows)).pvalue > 0.001


def test_uniform_popularity_is_an_exponent_of_nothing():
    for described in (uniform(), zipf(0.0)):
        counts = np.bincount(drawn(described, 50, 50_000), minlength=50)
        assert stats.chisquare(counts).pvalue > 0.001


def test_so_many_requests_repeat_one_of_the_last():
    rows = drawn(uniform(repetition=0.3, window=50), 10**9, 20_000)
    assert 1 - len(set(rows.tolist())) / len(rows) == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(("drift", "stationary"), [(0.0, True), (0.5, False)])
def test_without_drift_popularity_stays_and_with_it_moves(drift, stationary):
    rows = drawn(zipf(drift=drift), 20, 20_000)
    halves = [np.bincount(half, minlength=20) for half in np.split(rows, 2)]
    assert (stats.chi2_contingency(halves).pvalue > 0.001) == stationary


def test_drift_is_the_share_of_ranks_that_exchange_queries_in_a_thousand_requests():
    changes = 0
    for seed in range(4):  # nearly every request is for the query of the first rank
        rows = drawn(zipf(10.0, drift=0.5), 1000, 200_000, seed).reshape(-1, 100)
        first = np.array([np.bincount(block).argmax() for block in rows])
        changes += int((np.diff(first) != 0).sum())
    assert changes / 800 == pytest.approx(0.5, rel=0.15)


def test_another_repetition_leaves_the_other_requests_as_they_were():
    plain, repeated = drawn(zipf(), 10**5, 1000), drawn(zipf(repetition=0.2), 10**5, 1000)
    assert 700 < (plain == repeated).sum() < 1000


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("b\na\n\nc\n", None, [1, 0, 2]),
        ("2\n0\n", None, [2, 0, 2, 0, 2]),
        ("when,query\n09:00,c\n09:01,b\n", "query", [2, 1, 2, 1, 2]),
        ("a\nb\nc\nb\na\nc\nc\n", None, [0, 1, 2, 1, 0]),
        ("\ufeffquery,when\nc,9\nb,10\n", "query", [2, 1, 2, 1, 2]),
        ("\ufeffb\na\n", None, [1, 0, 1, 0, 1]),
    ],
)
def test_a_trace_is_replayed_in_order_cut_or_begun_again(tmp_path, text, column, expected):
    (tmp_path / "trace").write_text(text)
    stream = popularity.for_queries(trace(tmp_path, column), ["a", "b", "c"], 5)
    np.testing.assert_array_equal(stream.drawn(1), np.resize(expected, 5))


@pytest.mark.parametrize(
    ("text", "column", "named"),
    [
        ("", None, "it holds no requests"),
        (
            "a\nx\n",
            None,
            "entry 2 of .*'x', is not a query: give ids of queries, or numbers from 0 to 2 alone",
        ),
        ("0\n3\n", None, "entry 2 of .*'3', is not a query"),
        ("a\n1\n", None, "entry 2 of .*'1', is not a query"),
        ("when,what\n", "query", "popularity.column = 'query': .* no such column; it has when, what"),
        (None, None, "popularity.path = .*No such file"),
        (b"\xff\xfe", None, "popularity.path = .*can't decode"),
    ],
)
def test_a_trace_that_cannot_be_replayed_is_refused_in_a_line(tmp_path, text, column, named):
    if text is not None:
        (tmp_path / "trace").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=named) as caught:
        popularity.for_queries(trace(tmp_path, column), ["a", "b", "c"], 5)
    assert "\n" not in str(caught.value)


def test_each_different_entry_of_a_trace_is_a_key_of_its_own(tmp_path):
    (tmp_path / "trace").write_text("x\ny\nx\nz\n")
    stream = popularity.for_keys(trace(tmp_path), 3, 4)
    assert stream.drawn(1).tolist() == [0, 1, 0, 2]
    with pytest.raises(
        UsageError, match=r"cache_keys = 2: .* has 3 different entries in 4 requests; give as"
    ):
        popularity.for_keys(trace(tmp_path), 2, 4)
    assert popularity.for_keys(trace(tmp_path), 2, 3).drawn(1).tolist() == [0, 1, 0]


def test_what_is_said_of_a_stream_names_all_that_acts(tmp_path):
    (tmp_path / "trace").write_text("0\n1\n0\n")
    said = [
        popularity.for_queries(described, ["a", "b"], requests).described
        for described, requests in (
            (zipf(1.2, 0.3, 50, 0.1), 5), (uniform(0.25), 5), (trace(tmp_path), 2), (trace(tmp_path), 5)
        )
    ]  # fmt: skip
    assert said == [
        "Zipf exponent 1.2, repetition 0.3 of the last 50, drift 0.1",
        "uniform popularity, repetition 0.25 of the last 100",
        "trace trace, its first 2 requests",
        "trace trace of 3 requests, again and again",
    ]


def trace(folder, column=None):
    return TracePopularity(path=folder / "trace", column=column)
