"""A GGUF file, run in this process by llama.cpp. Needs the extra `llm`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from pydantic import Field

from brein.agents.generation import prompt
from brein.agents.generation.base import Generated, Generator
from brein.errors import GenerationError, GenerationTimeoutError, ModelError
from brein.records import Hit
from brein.settings import Settings


class LlamaCppConfig(Settings):
    """Settings of a model in a GGUF file."""

    kind: Literal["llama_cpp"] = "llama_cpp"
    path: Path = Field(description="the GGUF file")
    context: int = Field(4096, ge=512, le=131_072, description="tokens of prompt and answer together")
    threads: int | None = Field(None, ge=1, le=256, description="null: half of the machine's cores")
    timeout: float = Field(
        30, gt=0, le=600, description="seconds an answer may take, once the model is loaded"
    )
    max_evidence: int = Field(8_000, ge=100, le=1_000_000, description="characters of documents to read")


class LlamaCppGenerator(Generator):
    """A model in a GGUF file, loaded when it is first asked; one question at a time.

    Raises:
        ModelError: the extra or the file is missing.
    """

    def __init__(
        self, name: str, config: LlamaCppConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(name)
        if find_spec("llama_cpp") is None:
            raise ModelError(f"{name}: kind = 'llama_cpp' needs the extra llm: pip install 'brein-lab[llm]'")
        if not config.path.is_file():
            raise ModelError(f"{name}: path = {str(config.path)!r} is no file; give a GGUF file")
        self._config = config
        self._clock = clock
        self._lock = Lock()
        self._model: Any = None

    def _write(
        self,
        question: str,
        evidence: Sequence[Hit],
        max_tokens: int,
        remaining: Callable[[], float],
        feeling: str | None,
    ) -> Generated:
        deadline = self._clock() + self._config.timeout
        if not self._lock.acquire(timeout=min(self._config.timeout, remaining())):
            raise self._too_slow()
        try:
            if remaining() <= 0:
                raise self._too_slow()
            if self._model is None:
                self._model = self._load()
                deadline = self._clock() + self._config.timeout
            asked = prompt.write(question, evidence, self._config.max_evidence, feeling)
            pieces, cut = self._complete(asked.messages, max_tokens, deadline, remaining)
        finally:
            self._lock.release()
        return prompt.read("".join(pieces), asked, self.name, cut=cut, tokens=len(pieces))

    def _load(self) -> Any:
        from llama_cpp import Llama

        config = self._config
        try:
            return Llama(
                str(config.path), n_ctx=config.context, n_threads=config.threads, seed=0, verbose=False
            )
        except ValueError as error:
            raise ModelError(
                f"{self.name}: {config.path} cannot be loaded: {error}; give a GGUF file that is whole"
            ) from None

    def _complete(
        self,
        messages: Sequence[dict[str, str]],
        max_tokens: int,
        deadline: float,
        remaining: Callable[[], float],
    ) -> tuple[list[str], bool]:
        """The answer piece by piece, and whether it was cut at `max_tokens`.

        Whether there is time left is looked at between tokens: reading the prompt is not interrupted.
        """
        pieces: list[str] = []
        reason = None
        try:
            stream = self._model.create_chat_completion(
                list(messages), max_tokens=max_tokens, temperature=0, stream=True
            )
            for chunk in stream:
                choice = chunk["choices"][0]
                reason = choice["finish_reason"]
                if piece := choice["delta"].get("content"):
                    pieces.append(piece)
                if self._clock() > deadline or remaining() <= 0:
                    raise self._too_slow()
        except (ValueError, RuntimeError) as error:  # the prompt is longer than the context, above all
            raise GenerationError(
                f"{self.name}: {error}; raise context = {self._config.context}, or lower "
                f"max_evidence = {self._config.max_evidence}"
            ) from None
        return pieces, reason == "length"

    def _too_slow(self) -> GenerationTimeoutError:
        return GenerationTimeoutError(
            f"{self.name} did not answer within timeout = {self._config.timeout:g} s; raise it, or ask a "
            "smaller model"
        )
