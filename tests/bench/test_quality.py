import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import quality

TRUTH = [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize(
    ("found", "distances", "expected"),
    [
        ([5, 6, 7], [0.1, 0.2, 0.3], 1.0),
        ([5, 6, 8], [0.1, 0.2, 0.9], 2 / 3),
        ([], [], 0.0),
        ([5, 5, 5], [0.1, 0.1, 0.1], 1 / 3),  # a duplicate counts once
        ([5, -1, -1], [0.1, 0.0, 0.0], 1 / 3),  # padding never counts
        ([9, 8, 5], [0.3, 0.3, 0.3], 1.0),  # ties with the k-th are as good as it
        ([1, 2, 3, 4], [0.9, 0.9, 0.9, 0.1], 0.0),  # what comes after k is ignored
    ],
)
def test_neighbour_recall(found, distances, expected):
    assert quality.neighbour_recall(found, distances, TRUTH, 3) == pytest.approx(expected)


def test_a_short_truth_list_takes_the_place_of_k():
    assert quality.neighbour_recall([1, 2, 3, 4, 5], [0.1, 0.2, 0.3, 0.4, 0.5], TRUTH, 10) == 1.0
    with pytest.raises(ValueError, match="empty"):
        quality.neighbour_recall([1], [0.1], [], 10)


@given(st.lists(st.floats(-1, 1, width=32), min_size=10, max_size=50), st.integers(1, 10))
def test_exact_results_have_recall_one_in_any_order_of_ties(distances, k):
    nearest = sorted(range(len(distances)), key=lambda row: (distances[row], -row))[:k]
    truth = sorted(distances)
    assert quality.neighbour_recall(nearest, [distances[row] for row in nearest], truth, k) == 1.0


def test_ndcg_against_a_worked_example():
    # gains 0, 2, 1 at ranks 1, 2, 3 against the best order 2, 1
    expected = (2 / math.log2(3) + 1 / 2) / (2 + 1 / math.log2(3))
    assert quality.ndcg(["x", "a", "b"], {"a": 2, "b": 1}, 10) == pytest.approx(expected)


def test_ndcg_counts_a_duplicate_once_and_cuts_at_k():
    assert quality.ndcg(["x", "x", "a"], {"a": 1}, 2) == pytest.approx(1 / math.log2(3))
    assert quality.ndcg(["x", "y", "a"], {"a": 1}, 2) == 0


@given(st.permutations(["a", "b", "c", "x", "y"]))
def test_ndcg_is_between_0_and_1_and_1_for_the_best_order(order):
    relevant = {"a": 3, "b": 2, "c": 1}
    value = quality.ndcg(order, relevant, 5)
    assert 0 < value <= 1
    assert (value == pytest.approx(1)) == (order[:3] == ["a", "b", "c"])


def test_ndcg_agrees_with_scikit_learn():
    from sklearn.metrics import ndcg_score

    relevance, scores = [3, 0, 2, 1, 0], [0.2, 0.9, 0.7, 0.1, 0.3]
    order = sorted("01234", key=lambda id_: -scores[int(id_)])
    relevant = {str(n): gain for n, gain in enumerate(relevance) if gain}
    assert quality.ndcg(order, relevant, 3) == pytest.approx(ndcg_score([relevance], [scores], k=3))


def test_recall_is_the_share_of_the_relevant():
    assert quality.recall(["a", "x", "a"], {"a": 1, "b": 1}, 10) == 0.5
    assert quality.recall(["x", "a"], {"a": 1}, 1) == 0
