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


def test_duplicates_and_padding_take_no_rank():
    found, away = [5, 5, -1, 6, 7], [0.1, 0.1, 0.0, 0.2, 0.3]
    assert quality.neighbour_recall(found, away, TRUTH, 3) == 1
    assert quality.recall(["a", "a", "b"], {"a": 1, "b": 1}, 2) == 1
    assert quality.reciprocal_rank(["x", "x", "a"], {"a": 1}, 2) == 1 / 2


@given(st.integers(2, 10), st.floats(1e-3, 1e3), st.floats(-0.9, 0.9))
def test_distances_within_the_tolerance_are_ties_and_others_are_not(k, limit, share):
    truth = [limit * rank / k for rank in range(1, k + 1)]
    nearer = truth[:-1]
    assert quality.neighbour_recall(range(k), [*nearer, limit * (1 + share * quality.TIE)], truth, k) == 1
    away = [*nearer, limit * (1 + 2 * quality.TIE)]
    assert quality.neighbour_recall(range(k), away, truth, k) == pytest.approx(1 - 1 / k)


def test_reciprocal_rank_is_that_of_the_first_relevant_result_within_k():
    relevant = {"a": 1, "b": 3}
    assert quality.reciprocal_rank(["a", "b"], relevant, 10) == 1
    assert quality.reciprocal_rank(["x", "y", "b", "a"], relevant, 10) == pytest.approx(1 / 3)
    assert quality.reciprocal_rank(["x", "y", "b"], relevant, 2) == 0
    assert quality.reciprocal_rank([], relevant, 10) == 0


# --- beside trec_eval --------------------------------------------------------------------------------

DOCUMENTS = [f"d{number}" for number in range(20)]
# Few scores for many documents: ties are common. A gain of 0 is a document judged not relevant.
SCORED = st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-2, 2).map(float), max_size=20)
JUDGED = st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(0, 3), min_size=1, max_size=8)
QUERIES = st.dictionaries(st.sampled_from(["q1", "q2", "q3"]), st.tuples(SCORED, JUDGED), min_size=1)


@given(QUERIES, st.sampled_from([1, 3, 10]))
def test_quality_agrees_with_trec_eval(queries, k):
    import pytrec_eval

    # A query without results is not in trec_eval's run, nor in its answer: that is our 0.
    run = {query: scores for query, (scores, _) in queries.items() if scores}
    judgements = {query: judged for query, (_, judged) in queries.items()}
    measures = {f"recall.{k}", f"ndcg_cut.{k}", "recip_rank"}
    theirs = pytrec_eval.RelevanceEvaluator(judgements, measures).evaluate(run)
    for query, (scores, judged) in queries.items():
        relevant = {document: gain for document, gain in judged.items() if gain > 0}
        if not relevant:
            continue  # what we never judge by: a data set's queries have a relevant document each
        # trec_eval orders equal scores by name, the last first.
        found = sorted(scores, key=lambda document: (scores[document], document), reverse=True)
        expected = theirs.get(query, {})
        assert quality.recall(found, relevant, k) == pytest.approx(expected.get(f"recall_{k}", 0))
        assert quality.ndcg(found, relevant, k) == pytest.approx(expected.get(f"ndcg_cut_{k}", 0))
        rank = expected.get("recip_rank", 0)
        assert quality.reciprocal_rank(found, relevant, len(DOCUMENTS)) == pytest.approx(rank)
        # recip_rank has no cut of its own.
        cut = rank if rank >= 1 / k else 0
        assert quality.reciprocal_rank(found, relevant, k) == pytest.approx(cut)


@given(st.permutations(range(12)), st.permutations(range(12)), st.integers(0, 12), st.integers(1, 10))
def test_neighbour_recall_is_trec_evals_where_nothing_is_tied(away, found, returned, k):
    import pytrec_eval

    found = found[:returned]
    nearest = {"q": {str(row): 1 for row, distance in enumerate(away) if distance < k}}
    run = {"q": {str(row): float(-rank) for rank, row in enumerate(found)}} if found else {}
    theirs = pytrec_eval.RelevanceEvaluator(nearest, {f"recall.{k}"}).evaluate(run)
    ours = quality.neighbour_recall(found, [away[row] for row in found], sorted(away), k)
    assert ours == pytest.approx(theirs["q"][f"recall_{k}"] if found else 0)
