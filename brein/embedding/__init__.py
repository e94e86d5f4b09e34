"""Embedders: one file per kind, one interface (`base.Embedder`), one table (`EMBEDDERS`)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from brein.embedding.base import Embedder, Tokenizer
from brein.embedding.hashing import HashingConfig, HashingEmbedder, WordTokenizer
from brein.embedding.transformer import (
    ModelTokenizer,
    TransformerConfig,
    TransformerEmbedder,
    model_folder,
    model_sha256,
)

EMBEDDERS: dict[str, Any] = {
    "transformer": (TransformerEmbedder, ModelTokenizer),
    "hashing": (HashingEmbedder, WordTokenizer),
}
LEAVES_NO_MARK = {"batch_size", "shared_batch"}  # settings that vectors do not depend on
EmbeddingConfig = Annotated[TransformerConfig | HashingConfig, Field(discriminator="kind")]


def create(config: EmbeddingConfig) -> Embedder:
    """Load the embedder of `config.kind`.

    Raises:
        ModelError: the model is missing or is not the expected one.
    """
    embedder: Embedder = EMBEDDERS[config.kind][0](config)
    return embedder


def tokenizer(config: EmbeddingConfig) -> Tokenizer:
    """Load the tokeniser of the embedder of `config.kind`, without its model.

    Raises:
        ModelError: the model's tokeniser is missing.
    """
    made: Tokenizer = EMBEDDERS[config.kind][1](config)
    return made


def space(config: EmbeddingConfig) -> dict[str, Any]:
    """What makes vectors comparable, as JSON: those of equal spaces may lie in one index.

    A model that is neither the default nor a folder is known by its name alone.
    """
    facts: dict[str, Any] = config.model_dump(mode="json", exclude={*LEAVES_NO_MARK, "max_tokens"})
    folder = model_folder(config.model) if config.kind == "transformer" else None
    if folder is not None:
        facts["model"] = model_sha256(folder)
    return facts


def identity(config: EmbeddingConfig) -> dict[str, Any]:
    """What a text's vector depends on, as JSON: equal identities give equal vectors."""
    return {**space(config), "max_tokens": getattr(config, "max_tokens", None)}


__all__ = [
    "EMBEDDERS",
    "LEAVES_NO_MARK",
    "Embedder",
    "EmbeddingConfig",
    "Tokenizer",
    "create",
    "identity",
    "space",
    "tokenizer",
]
