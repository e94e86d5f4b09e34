"""The interface of everything that writes an answer."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from brein.errors import DataError
from brein.records import Hit
from brein.texts import check_question, readable

NO_ANSWER = "The documents given do not answer this."
MAX_EVIDENCE = 50  # documents read, the first ones
MAX_DOCUMENT = 20_000  # characters read of each, the first ones

MARK = re.compile(r"(?<![A-Za-z_)])\[([0-9]{1,4}(?:\s*,\s*[0-9]{1,4})*)\]")  # [3], [1, 4]; not items[3]


@dataclass(frozen=True, slots=True)
class Generated:
    """A text written from documents.

    [1], [2], … in `text` are places in `citations`, ids of documents that were given, in the order of their
    first use. `model` is the generator's name. `tokens` (of the text) and `prompt_tokens` are as the backend
    counts them; None where it does not say. `notes` say what a reader should know.
    """

    text: str
    citations: tuple[str, ...]
    model: str
    tokens: int | None = None
    prompt_tokens: int | None = None
    notes: tuple[str, ...] = ()


def for_ever() -> float:
    """Seconds that somebody has who waits however long it takes."""
    return math.inf


class Generator(ABC):
    """Writes answers from documents and nothing else. Safe to use from several threads.

    A call blocks until the answer is there, so an event loop makes it in a thread.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def generate(
        self,
        question: str,
        evidence: Sequence[Hit],
        max_tokens: int = 256,
        remaining: Callable[[], float] = for_ever,
        feeling: str | None = None,
    ) -> Generated:
        """Answer `question` from `evidence`, best first, in at most `max_tokens` tokens.

        Of the evidence, the first `MAX_EVIDENCE` documents are read, and of each the first `MAX_DOCUMENT`
        characters. Without documents the text is `NO_ANSWER`. `remaining` says how many seconds the answer is
        waited for; it is asked now and then, and once it says 0 the work ends as soon as it can. `feeling` is
        the label of the question's emotion, None where it is not known: a language model is told.

        Raises:
            DataError: the question is blank, too long or no text, the evidence are no hits, or `max_tokens`
                is not from 1 to 4096.
            GenerationError: the backend cannot be reached, refuses, or answers nonsense.
            GenerationTimeoutError: it took longer than its timeout, or nobody waits for it any more.
            ModelError: its model cannot be loaded.
        """
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or not 1 <= max_tokens <= 4096:
            raise DataError(f"max_tokens = {max_tokens!r}: must be an integer from 1 to 4096")
        question = check_question(question)
        documents = [_checked(hit) for hit in evidence[:MAX_EVIDENCE]]
        if not documents:
            return Generated(NO_ANSWER, (), self.name)
        return self._write(question, documents, max_tokens, remaining, feeling)

    @abstractmethod
    def _write(
        self,
        question: str,
        evidence: Sequence[Hit],
        max_tokens: int,
        remaining: Callable[[], float],
        feeling: str | None,
    ) -> Generated:
        """Answer from at least one document; every text is checked and readable."""


def _checked(hit: Hit) -> Hit:
    if not isinstance(hit, Hit) or not isinstance(hit.text, str):
        raise DataError(f"the evidence holds {hit!r:.80}; give the hits of a search")
    # A document's own [1] would be read as a citation of ours.
    return Hit(hit.id, hit.score, MARK.sub(r"(\1)", readable(hit.text[:MAX_DOCUMENT])))
