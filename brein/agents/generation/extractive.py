"""Answers made of the documents' own sentences: no language model, nothing that no document says."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from pydantic import Field

from brein.agents.generation import sentences
from brein.agents.generation.base import NO_ANSWER, Generated, Generator
from brein.agents.models import EXTRACTIVE
from brein.errors import GenerationTimeoutError
from brein.records import FloatArray, Hit
from brein.settings import Settings

_WORD = re.compile(r"\w+")
_KEEP = 0.7  # of the best sentence's relevance; less is not taken
_SAME = 0.9  # of the words of both; sentences that share so many say the same

Likeness: TypeAlias = Callable[[str, Sequence[Hit]], FloatArray]
"""Cosines of a question and documents: float32 (n,), in the documents' order."""


class ExtractiveConfig(Settings):
    """Settings of the extractive generator."""

    kind: Literal["extractive"] = "extractive"
    max_sentences: int = Field(3, ge=1, le=50, description="sentences of an answer")
    min_relevance: float = Field(
        0.3, gt=0, le=1, description="of the best sentence to the question; below it nothing answers"
    )


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of the evidence: `rank` of its document, `place` in it, share of the question `covered`."""

    rank: int
    place: int
    text: str
    covered: float


class ExtractiveGenerator(Generator):
    """Picks the sentences most relevant to the question, none that says the same as another.

    Their `coverage`, discounted by the rank of their document as in DCG, says which. Relevance is the mean of
    a sentence's coverage and of its document's `likeness` to the question, so no sentence is embedded. Of
    SciFact's 488 train claims whose document was found, 68% have an answer with a sentence that people marked
    as evidence (30% of the sentences taken are such), and ten documents drawn at random answer 4% of the
    claims. With vectors of the four best sentences in the place of their documents', at ten times the time,
    it was 64% (31%) and 7%. The sentences stand in the documents' order.
    """

    def __init__(self, config: ExtractiveConfig, likeness: Likeness) -> None:
        super().__init__(EXTRACTIVE)
        self._config = config
        self._likeness = likeness

    def _write(
        self,
        question: str,
        evidence: Sequence[Hit],
        max_tokens: int,
        remaining: Callable[[], float],
        feeling: str | None,
    ) -> Generated:
        taken = _fitting(self._take(question, evidence), max_tokens)
        if remaining() <= 0:  # `likeness` may have waited for documents that were written
            raise GenerationTimeoutError(f"{self.name}: nobody waits for the answer any more; ask again")
        if not taken:
            return Generated(NO_ANSWER, (), self.name)
        taken.sort(key=lambda sentence: (sentence.rank, sentence.place))
        citations = list(dict.fromkeys(evidence[sentence.rank].id for sentence in taken))
        marked = (
            f"{sentence.text} [{citations.index(evidence[sentence.rank].id) + 1}]" for sentence in taken
        )
        words = sum(len(sentence.text.split()) for sentence in taken)
        return Generated(" ".join(marked), tuple(citations), self.name, tokens=words)

    def _take(self, question: str, evidence: Sequence[Hit]) -> list[Sentence]:
        """The sentences to take, best first; none where none is relevant enough."""
        candidates = _candidates(question, evidence, self._config.max_sentences)
        if not candidates:
            return []
        likeness = self._likeness(question, evidence)
        relevance = {one: (float(likeness[one.rank]) + one.covered) / 2 for one in candidates}
        best = max(relevance.values())
        if best < self._config.min_relevance:
            return []
        taken = [one for one in candidates if relevance[one] >= _KEEP * best]
        return sorted(taken, key=lambda one: -relevance[one])


def coverage(question: frozenset[str], texts: Sequence[frozenset[str]]) -> list[float]:
    """Share of the question's words that each text has, 0 to 1, the rarer words weighing more.

    A word's weight is its inverse document frequency among the texts, ln((n + 1) / (count + 0.5)).
    """
    counts = Counter(word for words in texts for word in words & question)
    weights = {word: math.log((len(texts) + 1) / (counts[word] + 0.5)) for word in question}
    total = sum(weights.values()) or 1.0
    return [sum(weights[word] for word in words & question) / total for words in texts]


def _candidates(question: str, evidence: Sequence[Hit], most: int) -> list[Sentence]:
    """The sentences that cover most of the question in the best documents, best first."""
    found = [
        (rank, place, text)
        for rank, hit in enumerate(evidence)
        for place, text in enumerate(sentences.split(hit.text))
        if not text.endswith("?") and _WORD.search(text)  # a question does not answer
    ]
    words = [_words(text) for _, _, text in found]
    covered = coverage(_words(question), words)
    taken: list[int] = []
    for row in sorted(range(len(found)), key=lambda row: -covered[row] / math.log2(found[row][0] + 2)):
        if len(taken) == most:
            break
        if not any(_same(words[row], words[other]) for other in taken):
            taken.append(row)
    return [Sentence(*found[row], covered[row]) for row in taken]


def _same(words: frozenset[str], others: frozenset[str]) -> bool:
    return len(words & others) >= _SAME * len(words | others)


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.casefold()))


def _fitting(taken: Sequence[Sentence], max_words: int) -> list[Sentence]:
    """Those of the sentences, best first, that have room for their words; the best one is cut to fit."""
    fitting: list[Sentence] = []
    room = max_words
    for sentence in taken:
        words = sentence.text.split()
        if not fitting and len(words) > room:
            return [replace(sentence, text=" ".join(words[:room]) + "…")]
        if len(words) <= room:
            fitting.append(sentence)
            room -= len(words)
    return fitting
