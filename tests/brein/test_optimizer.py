"""Query analysis on documents whose words are known."""

import math
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brein import Document, storage
from brein.records import Complexity
from brein.retrieval.optimizer import ExpansionConfig, QueryOptimizer, Reading, strategy_for
from brein.storage import StorageConfig

SIZE = 400


def documents():
    """All have "the"; a tenth has "engine", of which most have "piston"; one has "zebra"."""
    texts = ["the " + " ".join(f"filler{n}x{m}" for m in range(4)) for n in range(SIZE)]
    for n in range(40):
        texts[n] += " engine" + (" piston" if n < 30 else "")
    texts[99] += " zebra"
    return [Document(f"d{n}", text) for n, text in enumerate(texts)]


def stored(config, some):
    made = storage.create(config, None)
    if some:
        made.add(some, np.ones((len(some), 2), np.float32), "space")
    return made


@pytest.fixture(scope="module", params=[1, 3], ids=["plain", "sharded"])
def words(request):
    with closing(stored(StorageConfig(shards=request.param), documents())) as made:
        yield made


@pytest.fixture
def optimizer(words):
    return QueryOptimizer(ExpansionConfig(), 0.2, words)


def expanding(store, **settings):
    return QueryOptimizer(ExpansionConfig(**settings), 0.2, store)


def parts(complexity):
    return [complexity.length, complexity.rarity, complexity.clauses, complexity.ambiguity]


# --- complexity --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared():
    with closing(stored(StorageConfig(), documents())) as made:
        yield QueryOptimizer(ExpansionConfig(words=3), 0.2, made)


@given(text=st.text(max_size=200) | st.text("theengine zebra,();", max_size=80))
def test_every_part_of_any_text_is_between_0_and_1(shared, text):
    analysis = shared.optimize(text)
    assert all(0 <= part <= 1 for part in parts(analysis.complexity))
    assert analysis.strategy == strategy_for(analysis.complexity.score)
    assert analysis.original == text


@pytest.mark.parametrize("text", ["", "  ", "?!", "\0", "a", "the", "知识 检索", "の", '" OR NEAR(', "é"])
def test_odd_queries_are_analysed(optimizer, text):
    analysis = optimizer.optimize(text)
    assert all(0 <= part <= 1 for part in parts(analysis.complexity))


@pytest.mark.parametrize("words_given", [1, 8, 16, 40])
def test_length_grows_with_the_words_up_to_sixteen(optimizer, words_given):
    found = optimizer.optimize(" ".join(["word"] * words_given)).complexity.length
    assert found == min(1, words_given / 16)


def test_rarity_falls_with_the_documents_that_have_a_word(optimizer):
    rarity = {
        word: optimizer.optimize(word).complexity.rarity for word in ("okapi", "zebra", "engine", "the")
    }
    assert rarity == {
        "okapi": 1,
        "zebra": pytest.approx(1 - math.log(2) / math.log(SIZE + 1)),
        "engine": pytest.approx(1 - math.log(41) / math.log(SIZE + 1)),
        "the": pytest.approx(0, abs=1e-12),
    }
    both = optimizer.optimize("okapi the").complexity.rarity
    assert both == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("zebra engine", 0),
        ("zebra, engine", 1),
        ("zebra and engine", 1),
        ("engines that stop when cold", 2),
        ("(zebra; engine) or piston", 4),
        ("a, b, c, d, e, f, g", 4),
        ("Andes oratory", 0),  # words that only begin like a conjunction
    ],
)
def test_clauses_are_counted_up_to_four(optimizer, text, clauses):
    assert optimizer.optimize(text).complexity.clauses == clauses / 4


def test_ambiguity_is_what_the_next_candidates_have_of_the_first_ones_score(optimizer):
    reading = optimizer.read("engine")

    def ambiguity(*scores):
        matches = [(f"d{n}", score) for n, score in enumerate(scores)]
        return optimizer.analysis(reading, matches, "engine").complexity.ambiguity

    assert ambiguity() == ambiguity(0.0) == ambiguity(5.0) == 0
    assert ambiguity(*[2.0] * 10) == 1
    assert ambiguity(4.0, 2.0, 1.0) == pytest.approx(3 / (4 * 9))
    assert ambiguity(*[2.0] * 10, *[1.0] * 50) == 1  # the eleventh and later do not count


@pytest.mark.parametrize(
    ("score", "strategy"),
    [
        (0.0, "single_stage"),
        (math.nextafter(0.3, 0), "single_stage"),
        (0.3, "two_stage"),
        (math.nextafter(0.7, 0), "two_stage"),
        (0.7, "multi_stage"),
        (1.0, "multi_stage"),
    ],
)
def test_the_strategies_begin_at_the_guides_thresholds(score, strategy):
    assert strategy_for(score) == strategy


def test_complexity_is_the_mean_of_its_parts():
    assert Complexity(length=1, rarity=0.5, clauses=0.25, ambiguity=0.25).score == 0.5


def test_there_is_nothing_to_know_without_documents():
    with closing(stored(StorageConfig(), [])) as empty:
        analysis = expanding(empty, words=3).optimize("the zebra")
    assert (analysis.complexity.rarity, analysis.complexity.ambiguity) == (0, 0)
    assert analysis.expanded == "the zebra"


# --- which words are searched for --------------------------------------------------------------------------


def test_common_words_are_left_out_unless_all_are(optimizer):
    assert optimizer.optimize("the Engine").expanded == "engine"
    assert optimizer.optimize("the").expanded == "the"
    assert optimizer.optimize("The the").expanded == "the"


def test_a_word_in_no_document_is_searched_for_all_the_same(optimizer):
    assert optimizer.optimize("the okapi").expanded == "okapi"


def test_the_share_that_makes_a_word_common_is_itself_allowed(words):
    assert QueryOptimizer(ExpansionConfig(), 0.1, words).optimize("engine zebra").expanded == "engine zebra"
    assert QueryOptimizer(ExpansionConfig(), 0.099, words).optimize("engine zebra").expanded == "zebra"


def test_a_word_in_few_documents_is_never_common():
    few = [Document(f"d{n}", "zebra") for n in range(10)]
    with closing(stored(StorageConfig(), few)) as words:
        assert QueryOptimizer(ExpansionConfig(), 0.2, words).optimize("zebra okapi").expanded == "zebra okapi"
        words.add([Document("d10", "zebra")], np.ones((1, 2), np.float32), "space")
        assert QueryOptimizer(ExpansionConfig(), 0.2, words).optimize("zebra okapi").expanded == "okapi"


def test_expansion_is_off_by_default(optimizer):
    assert optimizer.optimize("engine").expanded == "engine"


def test_expansion_adds_the_word_that_the_best_matches_share(words):
    assert expanding(words, words=1, documents=40).optimize("engine").expanded == "engine piston"


@given(
    query=st.lists(st.sampled_from(["engine", "the", "zebra", "piston", "ENGINE"]), min_size=1),
    added=st.integers(1, 8),
)
def test_expansion_is_bounded_and_never_repeats_a_word_of_the_query(words, query, added):
    optimizer = expanding(words, words=added)
    expanded = optimizer.optimize(" ".join(query)).expanded.split()
    searched = optimizer.read(" ".join(query)).searched.split()
    new = expanded[len(searched) :]
    assert expanded[: len(searched)] == searched
    assert len(new) <= added
    assert len(set(new)) == len(new)
    assert {word.lower() for word in query}.isdisjoint(new)
    assert "the" not in new  # too common to be searched for


@pytest.mark.parametrize("shards", [1, 3])
def test_expansion_adds_one_form_of_a_word_and_none_of_those_of_the_query(shards):
    texts = ["price prices priced pricing rebate rebates tariff", *(f"filler{n}" for n in range(30))]
    given = [Document(f"d{n}", text) for n, text in enumerate(texts)]
    with closing(stored(StorageConfig(shards=shards), given)) as words:
        for query in ("price", "Prices", "pricing"):
            searched, *added = expanding(words, words=4).optimize(query).expanded.split()
            assert searched == query.lower()
            assert sorted(added) == ["rebate", "tariff"]


def test_expansion_of_what_matches_nothing_adds_nothing(words):
    assert expanding(words, words=5).optimize("okapi").expanded == "okapi"


# --- how long it will take ---------------------------------------------------------------------------------


def test_nothing_is_estimated_at_first(optimizer):
    assert optimizer.optimize("engine").estimated_latency is None


def test_the_estimate_is_of_the_strategy_asked_for_or_else_of_the_one_called_for(words):
    seen = []

    def estimate(reading, strategy):
        seen.append((reading.query, strategy))
        return 0.25

    optimizer = QueryOptimizer(ExpansionConfig(), 0.2, words, estimate)
    wanted = optimizer.optimize("engine")
    assert wanted.estimated_latency == 0.25
    optimizer.optimize("engine", "multi_stage")
    assert seen == [("engine", wanted.strategy), ("engine", "multi_stage")]


def test_a_lexical_search_takes_longer_the_more_documents_have_its_words():
    reading = Reading("the engine", {"the": 40, "engine": 4, "zebra": 1}, "engine zebra")
    assert reading.drivers("lexical") == (5.0,)
    assert reading.drivers("analysis") == (10.0,)
    assert reading.drivers("embedding") == (10.0,)
    assert reading.drivers("rerank") == ()
