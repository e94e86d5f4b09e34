"""brein whole: text in, hits out."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.suites.peers.base import Embed, Parameters, TextPeer
from brein import Document, Engine, EngineConfig


class BreinEngine(TextPeer):
    """`brein.Engine` in a folder. Build: an engine's configuration.

    A query comes as its vector, so no cache answers: the others have none.
    """

    IS_ENGINE = True
    MODULES = ("faiss",)

    def build(self, texts: Sequence[str], embed: Embed, parameters: Parameters) -> None:
        """Store, index and commit the texts to disk."""
        self._folder = tempfile.TemporaryDirectory()
        config = EngineConfig.model_validate({**parameters, "path": Path(self._folder.name) / "engine"})
        self._engine = Engine.open(config)
        self._embed = embed
        documents = [Document(str(row), text) for row, text in enumerate(texts)]
        self._engine.ingest(documents, embed(texts))

    def tune(self, setting: Parameters) -> None:
        """Change what acts at search time, such as nprobe."""
        index = self._engine.config.index.model_dump(mode="json")
        self._engine.retune(EngineConfig.model_validate({"index": {**index, **setting}}).index)

    def search(self, text: str, k: int) -> list[int]:
        """The nearest rows."""
        return [int(hit.id) for hit in self._engine.search(self._embed([text])[0], k)]

    def close(self) -> None:
        """Close the engine and remove its folder."""
        self._engine.close()
        self._folder.cleanup()
