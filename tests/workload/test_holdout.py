"""Hold-outs: nothing is on both sides, nothing is lost, and nobody moves when others come or go."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data_config import HoldoutConfig
from bench.errors import UsageError
from bench.workload import holdout
from bench.workload.dataset import TextDataset, VectorDataset
from bench.workload.subset import mixed
from brein.records import Document, Query


def texts(documents: int = 300, queries: int = 200) -> TextDataset:
    return TextDataset(
        "t",
        tuple(Document(f"d{n}", f"document {n}") for n in range(documents)),
        tuple(Query(f"q{n}", f"query {n}") for n in range(queries)),
        {f"q{n}": {f"d{n}": 1, f"d{(n + 1) % documents}": 1} for n in range(queries)},
        {"kept": True},
    )


def vectors() -> VectorDataset:
    rows = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    return VectorDataset("v", rows, rows[:200] + 1, np.arange(200, dtype=np.int64)[:, None], "l2")


def split(dataset: Any, queries: float = 0.0, side: Any = "test", documents: float = 0.0) -> Any:
    return holdout.apply(dataset, HoldoutConfig(queries=queries, side=side, documents=documents))


def contents(rows: Any) -> list[Any]:
    return [row.tobytes() if isinstance(row, np.ndarray) else row.text for row in rows]


def searched(dataset: Any) -> Any:
    return dataset.documents if isinstance(dataset, TextDataset) else dataset.vectors


@pytest.mark.parametrize("dataset", [texts(), vectors()], ids=["texts", "vectors"])
def test_nothing_held_out_changes_nothing(dataset: Any) -> None:
    assert split(dataset) is dataset


@pytest.mark.parametrize("dataset", [texts(), vectors()], ids=["texts", "vectors"])
@given(share=st.floats(0.1, 0.9))
def test_a_query_is_on_one_side_and_none_is_lost(dataset: Any, share: float) -> None:
    tune, test = (contents(split(dataset, share, side).queries) for side in ("tune", "test"))
    assert not set(tune) & set(test)
    assert sorted(tune + test) == sorted(contents(dataset.queries))
    assert len(tune) == pytest.approx(share * 200, abs=40)


@pytest.mark.parametrize("dataset", [texts(), vectors()], ids=["texts", "vectors"])
@given(share=st.floats(0.1, 0.9))
def test_a_document_is_searched_or_held_out(dataset: Any, share: float) -> None:
    made = split(dataset, documents=share)
    kept, out = contents(searched(made)), contents(made.held_out)
    assert not set(kept) & set(out)
    assert sorted(kept + out) == sorted(contents(searched(dataset)))
    assert contents(searched(made)) == [row for row in contents(searched(dataset)) if row in set(kept)]


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30), st.floats(0.2, 0.8))
def test_equal_texts_stay_together_whoever_else_is_there(letters: list[str], share: float) -> None:
    queries = tuple(Query(f"q{n}", letter) for n, letter in enumerate(letters))
    every = tuple(Query(letter, letter) for letter in "abcdefgh")

    def tuned(asked: tuple[Query, ...]) -> set[str]:
        try:
            made: TextDataset = split(TextDataset("t", (Document("d", "text"),), asked, {}), share, "tune")
        except UsageError:
            return set()
        return {query.text for query in made.queries}

    assert tuned(queries) == tuned(every) & set(letters)


def test_a_larger_share_takes_all_that_a_smaller_one_takes() -> None:
    small, large = (set(contents(split(texts(), share, "tune").queries)) for share in (0.2, 0.6))
    assert small < large


def test_a_limit_keeps_queries_of_both_sides() -> None:
    first = mixed([f"query {n}" for n in range(2000)])[:200]
    limited = TextDataset("t", (Document("d", "text"),), tuple(Query(text, text) for text in first), {})
    assert len(split(limited, 0.5, "tune").queries) == pytest.approx(100, abs=30)


def test_a_judgement_goes_with_its_document_and_a_query_with_its_last() -> None:
    before, made = texts(), split(texts(), documents=0.5)
    there = {document.id for document in made.documents}
    for query in before.queries:
        left = {id_: 1 for id_ in before.judgements[query.id] if id_ in there}
        assert (query in made.queries) == bool(left)
        assert made.judgements.get(query.id, {}) == left
    assert set(made.judgements) == {query.id for query in made.queries}


def test_a_published_truth_goes_with_its_queries_and_is_dropped_without_all_vectors() -> None:
    made = split(vectors(), 0.5, "tune")
    np.testing.assert_array_equal(vectors().queries[made.truth[:, 0]], made.queries)
    assert made.truth_metric == "l2"
    made = split(vectors(), documents=0.5)
    assert (made.truth, made.truth_metric) == (None, None)


@pytest.mark.parametrize("dataset", [texts(), vectors()], ids=["texts", "vectors"])
def test_a_split_is_part_of_the_hash_and_of_what_the_record_says(dataset: Any) -> None:
    made = [
        split(dataset, *how) for how in ((0.5, "tune"), (0.5, "test"), (0.0, "test", 0.5), (0.0, "test", 0.4))
    ]
    assert len({one.sha256 for one in (*made, dataset)}) == 5
    said = made[0].facts["holdout"]
    assert said["side"] == "tune"
    assert said["queries_left_out"] == len(made[1].queries)
    assert said["documents_left_out"] == 0


def test_what_leaves_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^holdout.queries = 0 .side tune. leaves none of 200 queries"):
        split(texts(), 0.0, "tune")
    with pytest.raises(UsageError, match=r"^holdout.documents = 0.9999 .* leaves none of 1 documents"):
        split(texts(1, 1), documents=0.9999)
