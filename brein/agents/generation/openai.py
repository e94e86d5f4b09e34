"""Any endpoint that speaks OpenAI's chat completions: vLLM, Ollama, a llama.cpp server, OpenAI itself."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError, field_validator

from brein.agents.generation import prompt
from brein.agents.generation.base import Generated, Generator
from brein.errors import ConfigError, GenerationError, GenerationTimeoutError
from brein.records import Hit
from brein.settings import Settings

_LOOK = 0.05  # seconds between two looks at whether the answer is waited for still
_LONGEST = 2**20  # bytes of an answer as they are sent; one of 4096 tokens has some 30,000
_REMEDIES = {
    401: "set key_variable to the variable that holds its key",
    403: "set key_variable to the variable that holds its key",
    404: "change model, or base_url",
    429: "ask less often",
}


class OpenAIConfig(Settings):
    """Settings of a model behind an OpenAI-compatible endpoint."""

    kind: Literal["openai"] = "openai"
    base_url: str = Field(
        pattern=r"^https?://[^\s/]\S*$", description="of the endpoint: http://localhost:8000/v1"
    )
    model: str = Field(min_length=1, description="what the endpoint calls the model")
    key_variable: str | None = Field(
        None, min_length=1, description="environment variable that holds the API key; null: none is sent"
    )
    timeout: float = Field(30, gt=0, le=600, description="seconds an answer may take, retries included")
    max_retries: int = Field(2, ge=0, le=10, description="new tries where it is busy, down or failing")
    max_evidence: int = Field(12_000, ge=100, le=1_000_000, description="characters of documents to send")

    @field_validator("base_url")
    @classmethod
    def _can_be_read(cls, url: str) -> str:
        if not urlsplit(url).hostname or urlsplit(url).port == 0:  # both raise where there is nonsense
            raise ValueError("names no host and port; give http://host:port/v1")
        if "@" in urlsplit(url).netloc:
            raise ValueError("holds a name or password, which records would keep; use key_variable")
        return url


class _Message(BaseModel):
    content: str | None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Reply(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class OpenAIGenerator(Generator):
    """A model behind an OpenAI-compatible endpoint, asked through the official client.

    Raises:
        ConfigError: the environment variable of the API key is not set.
    """

    def __init__(self, name: str, config: OpenAIConfig) -> None:
        super().__init__(name)
        self._config = config
        self._key = _key(config)
        self._tls = ssl.create_default_context()  # takes longer to make than all else that a call needs

    def _write(
        self,
        question: str,
        evidence: Sequence[Hit],
        max_tokens: int,
        remaining: Callable[[], float],
        feeling: str | None,
    ) -> Generated:
        asked = prompt.write(question, evidence, self._config.max_evidence, feeling)
        body = self._ask(asked.messages, max_tokens, remaining)
        try:
            reply = _Reply.model_validate_json(body)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise GenerationError(f"{self._where} answered no chat completion: {reason}") from None
        choice, usage = reply.choices[0], reply.usage or _Usage()
        return prompt.read(
            choice.message.content,
            asked,
            self.name,
            cut=choice.finish_reason == "length",
            tokens=usage.completion_tokens,
            prompt_tokens=usage.prompt_tokens,
        )

    def _ask(
        self, messages: Sequence[dict[str, str]], max_tokens: int, remaining: Callable[[], float]
    ) -> bytes:
        import openai

        timeout = f"timeout = {self._config.timeout:g} s"
        try:
            # A loop of its own for each call, because the client's timeouts bound every read, not the whole.
            with asyncio.Runner(loop_factory=_Loop) as runner:
                return runner.run(self._completion(messages, max_tokens, remaining))
        except (TimeoutError, openai.APITimeoutError):
            raise GenerationTimeoutError(
                f"{self._where} did not answer within {timeout}; raise it, or ask a smaller model"
            ) from None
        except openai.APIStatusError as error:
            remedy = _REMEDIES.get(error.status_code, "see what the endpoint logs")
            raise GenerationError(f"{self._where} does not answer: {self._told(error)}; {remedy}") from None
        except openai.OpenAIError as error:
            cause = error.__cause__ or error
            if isinstance(cause, GenerationError):
                raise cause from None
            raise GenerationError(
                f"{self._where} cannot be reached: {self._told(cause)}; see that it runs, or change base_url"
            ) from None

    async def _completion(
        self, messages: Sequence[dict[str, str]], max_tokens: int, remaining: Callable[[], float]
    ) -> bytes:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        from brein.bounded import bounded

        config = self._config
        # The types of the client's own dictionaries say no more than ours.
        chat: Any = list(messages)
        async with (
            asyncio.timeout(config.timeout) as limit,
            AsyncOpenAI(
                base_url=config.base_url,
                api_key=self._key or "none",  # the client insists on one
                max_retries=config.max_retries,
                timeout=config.timeout,
                http_client=DefaultAsyncHttpxClient(
                    verify=self._tls, event_hooks={"response": [bounded(_LONGEST, self._too_long)]}
                ),
            ) as client,
        ):
            watching = asyncio.create_task(_end_when_unwanted(limit, remaining))
            try:
                # Unparsed, because the client believes whatever it is sent.
                response = await client.chat.completions.with_raw_response.create(
                    model=config.model, messages=chat, max_tokens=max_tokens, temperature=0
                )
            finally:
                watching.cancel()
            body: bytes = response.content
            return body

    @property
    def _where(self) -> str:
        return f"{self.name} at {urlsplit(self._config.base_url).netloc}"

    def _too_long(self) -> GenerationError:
        return GenerationError(f"{self._where} sends more than 1 MiB; see what answers at base_url")

    def _told(self, error: BaseException) -> str:
        """The first line of what an error says, without the key."""
        text = str(error).replace(self._key, "…") if self._key else str(error)
        lines = text.splitlines()
        return lines[0][:200] if lines else type(error).__name__


class _Loop(asyncio.SelectorEventLoop):
    async def shutdown_default_executor(self, *_: Any) -> None:
        """Leave looking up a name to its thread, which nothing interrupts and nobody waits for any more."""


async def _end_when_unwanted(limit: asyncio.Timeout, remaining: Callable[[], float]) -> None:
    """Let a call end, and with it its connection, once nobody waits for its answer any more."""
    while remaining() > 0:
        await asyncio.sleep(_LOOK)
    if not limit.expired():
        limit.reschedule(asyncio.get_running_loop().time())


def _key(config: OpenAIConfig) -> str | None:
    if config.key_variable is None:
        return None
    key = os.environ.get(config.key_variable, "").strip()
    if not key or not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"key_variable = {config.key_variable!r}: the environment variable holds no API key; set it"
        )
    return key
