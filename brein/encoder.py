"""The embedding model as queries reach it: behind the embedding cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from brein.cache import TieredCache, codec
from brein.cache.tiered import MISS
from brein.embedding import Embedder
from brein.records import FloatArray
from brein.retrieval.pipeline import Embedded


class QueryEmbedder(Embedder):
    """Has the vectors of queries from the cache, where several parts ask for the same one.

    Other texts are embedded past the cache and do not fill it. `model` gives the model, which is loaded when
    it is first needed; `space` tells its vectors from others.
    """

    def __init__(self, model: Callable[[], Embedder], cache: TieredCache, space: str) -> None:
        self._model = model
        self._cache = cache
        self._space = space

    @property
    def dimension(self) -> int:
        """Components of a vector."""
        return self._model().dimension

    def embed_query(self, text: str) -> Embedded:
        """The vector of one text, and whether it had to be computed."""

        def compute() -> bytes:
            return codec.encode_vector(self._model().embed([text])[0])

        data, level = self._cache.get_or_compute(self._key(text), compute)
        return Embedded(codec.decode_vector(data), computed=level == MISS)

    def embed_queries(self, texts: Sequence[str]) -> FloatArray:
        """Embed `texts` as float32 (n, dimension), in one call those that the cache lacks."""
        if len(texts) == 1:
            return self.embed_query(texts[0]).vector[None, :]
        cached = {text: self._cache.get(self._key(text))[0] for text in texts}
        found = {text: data for text, data in cached.items() if data is not None}
        missing = [text for text in cached if text not in found]
        computed = self._model().embed(missing) if missing else ()
        for text, vector in zip(missing, computed, strict=True):
            compute = partial(codec.encode_vector, vector)  # not `set`: that overtakes what others compute
            found[text], _ = self._cache.get_or_compute(self._key(text), compute)
        vectors = [codec.decode_vector(found[text]) for text in texts]
        return np.array(vectors, dtype=np.float32).reshape(len(texts), self.dimension)

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Embed `texts` as float32 (n, dimension), past the cache."""
        return self._model().embed(texts)

    def embed_tokens(self, texts: Sequence[str]) -> list[FloatArray]:
        """Embed each token of each text."""
        return self._model().embed_tokens(texts)

    def _key(self, text: str) -> str:
        return json.dumps([self._space, text])
