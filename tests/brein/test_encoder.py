"""Texts that are asked: what was embedded before comes from the cache, the rest in one call."""

import numpy as np
import pytest

from brein.cache.memory import MemoryCache
from brein.cache.tiered import TieredCache
from brein.embedding.hashing import HashingConfig, HashingEmbedder
from brein.encoder import QueryEmbedder

TEXTS = ["a violin", "a cello", "bread"]


class Noting(HashingEmbedder):
    """Notes what each call embeds."""

    def __init__(self):
        super().__init__(HashingConfig())
        self.calls = []

    def embed(self, texts):
        self.calls.append(list(texts))
        return super().embed(texts)


@pytest.fixture
def model():
    return Noting()


@pytest.fixture
def queries(model):
    return QueryEmbedder(lambda: model, TieredCache({"l1": MemoryCache(100, 3600)}), "space")


def test_of_several_texts_those_that_the_cache_lacks_are_embedded_in_one_call(queries, model):
    queries.embed_query(TEXTS[1])
    vectors = queries.embed_queries([*TEXTS, TEXTS[0]])
    assert model.calls == [[TEXTS[1]], [TEXTS[0], TEXTS[2]]]
    np.testing.assert_array_equal(vectors, HashingEmbedder(HashingConfig()).embed([*TEXTS, TEXTS[0]]))


def test_texts_that_were_asked_together_are_known_alone(queries, model):
    queries.embed_queries(TEXTS)
    assert not any(queries.embed_query(text).computed for text in TEXTS)
    queries.embed_queries(TEXTS)
    assert model.calls == [TEXTS]


def test_texts_that_are_not_asked_stay_out_of_the_cache(queries, model):
    for _ in range(2):
        queries.embed(TEXTS[:1])
    assert model.calls == [TEXTS[:1]] * 2
    assert queries.embed_query(TEXTS[0]).computed


def test_no_texts_have_no_vectors(queries, model):
    assert queries.embed_queries([]).shape == (0, model.dimension)
