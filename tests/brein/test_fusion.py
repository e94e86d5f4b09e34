"""Reciprocal rank fusion against its definition."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brein.retrieval.fusion import best_first, reciprocal_rank

IDS = st.lists(st.sampled_from("abcdefgh"), unique=True)
LEGS = st.lists(IDS, max_size=4)
CONSTANTS = st.integers(1, 100)


def ranking(ids):
    """Ids with scores that fusion must not look at."""
    return [(id_, 1000.0 - n) for n, id_ in enumerate(ids)]


def fused(legs, constant=10):
    return reciprocal_rank([ranking(leg) for leg in legs], constant)


def defined(legs, constant):
    """The definition, in exact numbers."""
    return {
        id_: sum(Fraction(1, constant + leg.index(id_) + 1) for leg in legs if id_ in leg)
        for id_ in {id_ for leg in legs for id_ in leg}
    }


def test_ranks_count_from_one_and_a_leg_that_lacks_a_document_adds_nothing():
    assert fused([["a", "b"], ["b", "c"]]) == [
        ("b", pytest.approx(1 / 12 + 1 / 11)),
        ("a", pytest.approx(1 / 11)),
        ("c", pytest.approx(1 / 12)),
    ]


@given(legs=LEGS, constant=CONSTANTS)
def test_a_score_is_the_sum_of_the_inverse_ranks(legs, constant):
    expected = defined(legs, constant)
    found = fused(legs, constant)
    assert dict(found) == pytest.approx({id_: float(score) for id_, score in expected.items()})
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


@given(legs=LEGS, data=st.data())
def test_the_order_of_the_legs_does_not_matter(legs, data):
    other = data.draw(st.permutations(legs))
    assert dict(fused(legs)) == pytest.approx(dict(fused(other)))


@given(legs=LEGS.filter(any), data=st.data())
def test_a_better_rank_in_one_leg_is_never_worse(legs, data):
    place = data.draw(st.sampled_from([n for n, leg in enumerate(legs) if leg]))
    id_ = data.draw(st.sampled_from(legs[place]))
    better = [list(leg) for leg in legs]
    better[place].remove(id_)
    better[place].insert(data.draw(st.integers(0, legs[place].index(id_))), id_)
    before, after = defined(legs, 10), dict(fused(better))
    assert after[id_] >= float(before[id_]) * (1 - 1e-12)
    worse = {other for other in before if before[other] < before[id_]}
    assert all(after[other] < after[id_] for other in worse)


def test_equals_are_ordered_by_id():
    assert [id_ for id_, _ in fused([["b", "a"], ["a", "b"]])] == ["a", "b"]
    assert best_first([("b", 1.0), ("c", 2.0), ("a", 1.0)]) == [("c", 2.0), ("a", 1.0), ("b", 1.0)]


def test_nothing_fuses_to_nothing():
    assert fused([]) == fused([[], []]) == []
