"""Query analysis: how complex a query is, which strategy that calls for, what it is expanded by."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from pydantic import Field

from brein.records import Analysis, Complexity, Strategy
from brein.settings import Settings
from brein.storage import Where

# Of the performance guide: below the first one stage is enough, below the second two are.
_TWO_STAGES, _MANY_STAGES = 0.3, 0.7
_LONG = 24  # words of a query that counts as longest
_CLAUSES = 4  # marks of a clause in a query that counts as most nested
_AMBIGUOUS = 10  # first candidates by whose scores ambiguity is judged
_WORD = re.compile(r"[^\W_]+")
_CLAUSE = re.compile(
    r"[,;:()]|\b(?:and|or|but|not|nor|because|although|though|unless|whereas|while|whether|if|when|where|which|"
    r"who|whose|that|than|versus|vs|between|after|before|since|until)\b",
    re.IGNORECASE,
)


class ExpansionConfig(Settings):
    """Settings of query expansion, from the documents that a query finds by its words."""

    words: int = Field(0, ge=0, le=64, description="words added to the lexical search; 0 switches it off")
    documents: int = Field(5, ge=1, le=100, description="best documents these words are taken from")


class Words(Protocol):
    """What query analysis asks of the documents; `brein.storage.DocumentStore` has it."""

    def __len__(self) -> int:
        """How many there are."""

    def match(self, text: str, limit: int, where: Where | None = None) -> list[tuple[str, float]]:
        """Ids and scores of the `limit` best matches."""

    def texts(self, ids: Sequence[str]) -> Mapping[str, str]:
        """The texts of those of `ids` that are there."""

    def frequencies(self, text: str) -> Mapping[str, int]:
        """How many documents have each word, by its stem."""


class QueryOptimizer:
    """Analyses queries against the documents there are."""

    def __init__(self, config: ExpansionConfig, words: Words) -> None:
        self._config = config
        self._words = words

    def optimize(self, query: str, first: Sequence[tuple[str, float]] | None = None) -> Analysis:
        """Analyse a query. `first` are its best matches by words, where they are known already.

        Complexity is the mean of four parts. Length: words, 24 and more being 1. Rarity: mean over the
        words of 1 − log(n + 1) / log(N + 1), where n of N documents have the word. Clauses: commas,
        conjunctions and the like, four and more being 1. Ambiguity: the mean score of the second to tenth
        match over that of the first, since scores that fall fast say that one document stands out.
        """
        if first is None:
            first = self._words.match(query, max(_AMBIGUOUS, self._config.documents))
        frequencies = self._words.frequencies(query)
        complexity = Complexity(
            length=min(1.0, len(_WORD.findall(query)) / _LONG),
            rarity=self._rarity(frequencies),
            clauses=min(1.0, len(_CLAUSE.findall(query)) / _CLAUSES),
            ambiguity=_ambiguity([score for _, score in first[:_AMBIGUOUS]]),
        )
        return Analysis(query, self._expanded(query, first), complexity, strategy_for(complexity.score))

    def _rarity(self, frequencies: Mapping[str, int]) -> float:
        most = math.log(len(self._words) + 1)
        if not frequencies or most == 0:
            return 0.0
        each = [max(0.0, 1 - math.log(count + 1) / most) for count in frequencies.values()]
        return sum(each) / len(each)

    def _expanded(self, query: str, first: Sequence[tuple[str, float]]) -> str:
        """The query, and the words that say most about its best matches: after RM1, Lavrenko and Croft 2001.

        A word weighs what the documents give it, their score times its share of their words, times its
        inverse document frequency; without the latter the commonest words would win.
        """
        scores = dict(first[: self._config.documents])
        if not self._config.words or not scores:
            return query
        weights: Counter[str] = Counter()
        for id_, text in self._words.texts(list(scores)).items():
            words = _WORD.findall(text.lower())
            for word, count in Counter(words).items():
                weights[word] += scores[id_] * count / len(words)
        known = set(_WORD.findall(query.lower()))
        candidates = [word for word, _ in weights.most_common(8 * self._config.words) if word not in known]
        best = sorted(candidates, key=lambda word: -weights[word] * self._idf(word))
        return " ".join([query, *best[: self._config.words]])

    def _idf(self, word: str) -> float:
        count = max(self._words.frequencies(word).values(), default=0)
        return math.log((len(self._words) + 1) / (count + 1))


def strategy_for(complexity: float) -> Strategy:
    """The performance guide's choice: one stage below 0.3, two below 0.7, else all."""
    if complexity < _TWO_STAGES:
        return "single_stage"
    return "two_stage" if complexity < _MANY_STAGES else "multi_stage"


def _ambiguity(scores: Sequence[float]) -> float:
    if not scores or scores[0] <= 0:
        return 0.0
    return sum(scores[1:]) / (scores[0] * (_AMBIGUOUS - 1))
