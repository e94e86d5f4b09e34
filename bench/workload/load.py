"""From a data set's configuration to the data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.artifacts import Store
from bench.data_config import (
    BeirConfig,
    DatasetConfig,
    PydocsConfig,
    RecipeConfig,
    SyntheticConfig,
    VectorFileConfig,
)
from bench.workload import beir, pydocs, synthetic, vectors
from bench.workload.dataset import Dataset, TextDataset, VectorDataset
from brein.records import Document

# For each text, the (start, end) character positions of its tokens.
Tokenizer = Callable[[Sequence[str]], list[list[tuple[int, int]]]]

_BATCH = 256  # documents tokenised at once: the spans of a whole corpus would fill the memory
_CHARACTERS_PER_TOKEN = 6  # more than a token of English prose or code takes


@dataclass(frozen=True)
class Sources:
    """What loaders draw on: shared artifacts, a tokeniser, and the folder of fetched data sets."""

    store: Store
    tokenizer: Tokenizer
    fetched: Path


def load(config: DatasetConfig, store: Store, tokenizer: Tokenizer, fetched: Path) -> Dataset:
    """Load the data set that `config` describes.

    `store` keeps what is costly to build, `tokenizer` measures documents for `max_tokens`, and `fetched` is
    the folder that recipes download into.

    Raises:
        UsageError: files are missing, damaged or contradict each other; more is asked for than there is;
            or a recipe's data cannot be fetched.
    """
    dataset: Dataset = LOADERS[config.kind](config, Sources(store, tokenizer, fetched))
    return dataset


def cut(dataset: TextDataset, max_tokens: int | None, tokenizer: Tokenizer) -> TextDataset:
    """Cut each document at the end of its `max_tokens`-th token; `facts` says how many that shortened."""
    if max_tokens is None:
        return replace(dataset, facts={**dataset.facts, "max_tokens": None})
    documents: list[Document] = []
    for start in range(0, len(dataset.documents), _BATCH):
        documents += _cut_batch(dataset.documents[start : start + _BATCH], max_tokens, tokenizer)
    shorter = sum(
        len(after.text) < len(before.text) for before, after in zip(dataset.documents, documents, strict=True)
    )
    facts = {**dataset.facts, "max_tokens": max_tokens, "documents_cut": shorter}
    return replace(dataset, documents=tuple(documents), facts=facts)


def _cut_batch(documents: Sequence[Document], max_tokens: int, tokenizer: Tokenizer) -> list[Document]:
    # Tokenising a head is enough for most documents: no tokeniser's token spans white space.
    heads = [_head(document.text, max_tokens * _CHARACTERS_PER_TOKEN) for document in documents]
    spans = tokenizer(heads)
    rest = [
        i for i, document in enumerate(documents) if len(spans[i]) < max_tokens and heads[i] != document.text
    ]
    for i, whole in zip(rest, tokenizer([documents[i].text for i in rest]), strict=True):
        spans[i] = whole
    return [
        document
        if len(tokens) < max_tokens
        else replace(document, text=document.text[: tokens[max_tokens - 1][1]])
        for document, tokens in zip(documents, spans, strict=True)
    ]


def _head(text: str, characters: int) -> str:
    words = text[:characters].rsplit(maxsplit=1)
    return words[0] if len(text) > characters and len(words) == 2 else text


# --- loaders: what every kind of data set configuration becomes ----------------------------------


def _pydocs(config: PydocsConfig, sources: Sources) -> Dataset:
    return cut(pydocs.load(config, sources.store), config.max_tokens, sources.tokenizer)


def _synthetic(config: SyntheticConfig, _: Sources) -> Dataset:
    return synthetic.load(config)


def _beir(config: BeirConfig, sources: Sources) -> Dataset:
    return cut(beir.load(config), config.max_tokens, sources.tokenizer)


def _vectors(config: VectorFileConfig, _: Sources) -> Dataset:
    return vectors.load(config)


def _recipe(config: RecipeConfig, sources: Sources) -> Dataset:
    from bench.workload import recipes  # slow to load, and every trial loads this file

    recipe = recipes.find(config.name, sources.fetched)
    inner = recipe.dataset(recipes.fetch(recipe, sources.fetched))
    dataset: TextDataset | VectorDataset = LOADERS[inner.kind](inner, sources)
    facts = {**dataset.facts, "licence": recipe.licence, "source": recipe.source, "checksum": recipe.checksum}
    return replace(dataset, name=recipe.name, facts=facts)


LOADERS: dict[str, Callable[[Any, Sources], Dataset]] = {
    "pydocs": _pydocs,
    "synthetic": _synthetic,
    "beir": _beir,
    "fvecs": _vectors,
    "fbin": _vectors,
    "hdf5": _vectors,
    "npy": _vectors,
    "recipe": _recipe,
}
