"""Text generation: one file per backend, one interface (`base.Generator`), one table (`BACKENDS`)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from brein.agents.generation.base import NO_ANSWER, Generated, Generator, for_ever
from brein.agents.generation.extractive import ExtractiveConfig, ExtractiveGenerator, Likeness
from brein.agents.generation.llama_cpp import LlamaCppConfig, LlamaCppGenerator
from brein.agents.generation.openai import OpenAIConfig, OpenAIGenerator
from brein.agents.models import EXTRACTIVE, ModelName
from brein.settings import Settings

BACKENDS: dict[str, type[Any]] = {"openai": OpenAIGenerator, "llama_cpp": LlamaCppGenerator}
BackendConfig = Annotated[OpenAIConfig | LlamaCppConfig, Field(discriminator="kind")]


class GenerationConfig(Settings):
    """Who writes the answers: the extractive generator, and the language models that there are."""

    extractive: ExtractiveConfig = Field(default_factory=ExtractiveConfig)
    models: dict[ModelName, BackendConfig] = Field(
        default_factory=dict, description="where each of the guide's models is; none: the extractive answers"
    )
    max_tokens: int = Field(256, ge=1, le=4096, description="tokens of an answer")


def create(config: GenerationConfig, likeness: Likeness) -> dict[str, Generator]:
    """Make every generator of `config`, under its name. Models are loaded when they are first asked.

    `likeness` is the extractive generator's.

    Raises:
        ConfigError: the environment variable of an API key is not set.
        ModelError: a model's file, or the extra that runs it, is missing.
    """
    generators: dict[str, Generator] = {EXTRACTIVE: ExtractiveGenerator(config.extractive, likeness)}
    for name, backend in config.models.items():
        generators[name] = BACKENDS[backend.kind](name, backend)
    return generators


__all__ = [
    "BACKENDS",
    "NO_ANSWER",
    "BackendConfig",
    "ExtractiveGenerator",
    "Generated",
    "GenerationConfig",
    "Generator",
    "Likeness",
    "LlamaCppGenerator",
    "OpenAIGenerator",
    "create",
    "for_ever",
]
