"""Links against a plain dictionary, and what holds whatever happens to them."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brein.retrieval.links import Edges, Links

SIZE = 7
HALF_LIFE = 100.0

nodes = st.integers(0, SIZE - 1)
pairs = st.tuples(nodes, nodes).filter(lambda pair: pair[0] != pair[1])
weights = st.floats(0.125, 1)
merges = st.tuples(st.sampled_from([np.add, np.maximum]), st.dictionaries(pairs, weights, max_size=8))
removals = st.sets(nodes, max_size=3)
waits = st.floats(0, 5 * HALF_LIFE)
histories = st.lists(st.one_of(merges, removals, waits), max_size=12)


def links_of(degree, half_life=HALF_LIFE):
    links = Links(degree, half_life)
    links.grow(SIZE)
    return links


def merge(links, given, now=0.0, combine=np.maximum):
    """Add {(source, target): weight}; return what changed."""
    sources, targets = np.array(list(given), dtype=np.int64).reshape(-1, 2).T
    edges = Edges(sources, targets, np.array(list(given.values()), dtype=np.float64))
    return links.merge(edges, combine, now).tolist()


def remove(links, gone):
    return links.remove(np.array(sorted(gone), dtype=np.int64)).tolist()


def seen(links, now=0.0):
    """All edges, from both ends: {(source, target): weight}."""
    edges = links.of(np.arange(SIZE), now)
    found = list(zip(edges.sources.tolist(), edges.targets.tolist(), strict=True))
    assert len(set(found)) == len(found)
    return dict(zip(found, edges.weights.tolist(), strict=True))


def happen(links, history):
    """Let a history happen, and yield the time after each step."""
    now = 0.0
    for step in history:
        match step:
            case float():
                now += step
            case set():
                remove(links, step)
            case (combine, given):
                merge(links, given, now, combine)
        yield now


def both_ways(given):
    return given | {(target, source): weight for (source, target), weight in given.items()}


def test_an_edge_is_seen_from_both_ends():
    links = links_of(3)
    assert merge(links, {(0, 1): 0.5, (4, 1): 0.25}) == [0, 1, 4]
    assert seen(links) == both_ways({(0, 1): 0.5, (4, 1): 0.25})


def test_weights_of_one_pair_become_one():
    links = links_of(3)
    merge(links, {(0, 1): 0.5})
    merge(links, {(1, 0): 0.25}, combine=np.add)
    assert seen(links) == both_ways({(0, 1): 0.75})
    merge(links, {(0, 1): 0.5}, combine=np.maximum)
    assert seen(links) == both_ways({(0, 1): 0.75})
    merge(links, {(0, 1): 1.0, (1, 0): 2.0}, combine=np.add)
    assert seen(links) == both_ways({(0, 1): 3.75})


def test_of_too_many_edges_the_weakest_goes_at_both_ends():
    links = links_of(2)
    merge(links, {(0, 1): 0.25, (0, 2): 0.5})
    assert merge(links, {(0, 3): 0.75}) == [0, 1, 3]
    assert seen(links) == both_ways({(0, 2): 0.5, (0, 3): 0.75})


def test_an_edge_weaker_than_all_of_a_full_node_is_not_made():
    links = links_of(2)
    merge(links, {(0, 1): 0.75, (0, 2): 0.5})
    merge(links, {(3, 0): 0.25, (3, 4): 0.25})
    assert seen(links) == both_ways({(0, 1): 0.75, (0, 2): 0.5, (3, 4): 0.25})


def test_of_equal_edges_those_to_lower_numbers_stay():
    links = links_of(2)
    merge(links, {(6, n): 0.5 for n in (5, 3, 4)})
    assert set(seen(links)) == {(6, 3), (3, 6), (6, 4), (4, 6)}


def test_removing_a_node_takes_its_edges_from_the_others():
    links = links_of(3)
    merge(links, {(0, 1): 0.5, (1, 2): 0.5, (2, 3): 0.5})
    assert remove(links, {1, 5}) == [0, 1, 2]
    assert seen(links) == both_ways({(2, 3): 0.5})
    assert links.isolated(np.arange(SIZE)).tolist() == [0, 1, 4, 5, 6]


def test_weights_halve_in_a_half_life_and_never_where_there_is_none():
    fading, lasting = links_of(3), Links(3)
    lasting.grow(SIZE)
    for links in (fading, lasting):
        merge(links, {(0, 1): 1.0}, now=1000.0)
    assert seen(fading, 1000 + HALF_LIFE) == both_ways({(0, 1): 0.5})
    assert seen(fading, 1000 + 3 * HALF_LIFE) == both_ways({(0, 1): 0.125})
    assert seen(lasting, 1e12) == both_ways({(0, 1): 1.0})


def test_time_stands_still_while_a_clock_that_was_set_back_catches_up():
    links = links_of(3)
    merge(links, {(0, 1): 1.0}, now=1000.0)
    assert seen(links, 500.0) == both_ways({(0, 1): 1.0})
    merge(links, {(0, 2): 1.0}, now=500.0)
    assert seen(links, 1000.0 + HALF_LIFE) == both_ways({(0, 1): 0.5, (0, 2): 0.5})


@given(first=waits, second=waits)
def test_fading_in_two_steps_is_fading_in_one(first, second):
    once, twice = links_of(3), links_of(3)
    for links in (once, twice):
        merge(links, {(0, 1): 1.0})
    merge(twice, {(0, 2): 0.5, (1, 3): 0.5}, now=first)  # writes the faded weights of 0 and 1
    expected = seen(once, first + second)[0, 1]
    assert seen(twice, first + second)[0, 1] == pytest.approx(expected, rel=1e-6)
    assert seen(twice, first + second)[1, 0] == pytest.approx(expected, rel=1e-6)


@given(history=histories)
def test_with_room_for_all_it_is_a_dictionary_of_pairs(history):
    links, model, before = links_of(SIZE), {}, 0.0
    for step, now in zip(history, happen(links, history), strict=True):
        model = {pair: weight * 2 ** ((before - now) / HALF_LIFE) for pair, weight in model.items()}
        match step:
            case set():
                model = {pair: weight for pair, weight in model.items() if not step & {*pair}}
            case (combine, given):
                for (one, other), weight in given.items():
                    for pair in ((one, other), (other, one)):
                        model[pair] = combine(model[pair], weight) if pair in model else weight
        before = now
        assert seen(links, now) == pytest.approx(model, rel=1e-5)


@given(history=histories, degree=st.integers(1, 4))
def test_whatever_happens_degrees_are_bounded_and_edges_symmetric(history, degree):
    links = links_of(degree)
    for step, now in zip(history, happen(links, history), strict=True):
        edges = seen(links, now)
        assert all(count <= degree for count in Counter(source for source, _ in edges).values())
        for (one, other), weight in edges.items():
            assert one != other
            assert edges[other, one] == pytest.approx(weight, rel=1e-5)
        if isinstance(step, set):
            assert not any(step & {*pair} for pair in edges)


@given(history=histories, degree=st.integers(1, 4))
def test_what_changed_is_told(history, degree):
    """Rows that are not named are as they were, to the bit."""
    links, now = links_of(degree), 0.0
    for step in history:
        before = [links.dump(node) for node in range(SIZE)]
        match step:
            case float():
                now += step
                changed = []
            case set():
                changed = remove(links, step)
            case (combine, given):
                changed = merge(links, given, now, combine)
        assert {n for n in range(SIZE) if links.dump(n) != before[n]} <= set(changed)


@given(history=histories, degree=st.integers(1, 4))
def test_what_is_dumped_loads_as_it_was(history, degree):
    links = links_of(degree)
    now = [0.0, *happen(links, history)][-1]
    rows, written = zip(*(links.dump(node) for node in range(SIZE)), strict=True)
    loaded = Links(degree, HALF_LIFE)
    loaded.load(range(SIZE), rows, written)
    assert seen(loaded, now) == seen(links, now)


@given(history=histories)
def test_loaded_with_a_smaller_degree_the_strongest_stay(history):
    links = links_of(4)
    now = [0.0, *happen(links, history)][-1]
    rows, written = zip(*(links.dump(node) for node in range(SIZE)), strict=True)
    loaded = Links(2, HALF_LIFE)
    loaded.load(range(SIZE), rows, written)
    edges, before = seen(loaded, now), seen(links, now)
    assert edges.items() <= before.items()
    assert all((other, one) in edges for one, other in edges)
    assert all(count <= 2 for count in Counter(source for source, _ in edges).values())
    assert bool(edges) == bool(before)


@pytest.mark.parametrize(
    ("row", "reason"), [(b"\1", "cut short"), (b"\5\0\0\0\0\0\x80\x3f", "a node that is not there")]
)
def test_a_row_that_was_not_dumped_is_refused(row, reason):
    with pytest.raises(ValueError, match=reason):
        Links(3).load([0, 1], [row, b""], [0.0, 0.0])
