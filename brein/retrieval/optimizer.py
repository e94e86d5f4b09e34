"""Query analysis: how complex a query is, which strategy that calls for, what it is expanded by."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from pydantic import Field

from brein.records import Analysis, Complexity, Strategy
from brein.settings import Settings
from brein.storage import Where

# Of the performance guide: below the first one stage is enough, below the second two are.
_TWO_STAGES, _MANY_STAGES = 0.3, 0.7
_LONG = 16  # words of a query that counts as longest
_CLAUSES = 4  # marks of a clause in a query that counts as most nested
_AMBIGUOUS = 10  # first candidates by whose scores ambiguity is judged
_FEW = 10  # documents that make no word common: of three documents, each word is in a third or more
_LOOKED_UP = 200  # words of the best matches whose frequency is looked up
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

    def stems(self, text: str) -> Mapping[str, str]:
        """The stem of each word."""


@dataclass(frozen=True)
class Reading:
    """What the words of a query say: in how many documents each is, and which are searched for."""

    query: str
    frequencies: Mapping[str, int]
    searched: str

    def drivers(self, stage: str) -> tuple[float, ...]:
        """What the time of a stage grows with, for `LatencyModel`."""
        if stage == "lexical":  # entries of the words' lists, each of which is read
            return (float(sum(self.frequencies.get(word, 0) for word in self.searched.split())),)
        # The analysis reads such lists for words that the store has not counted yet, and no one knows which.
        return (float(len(self.query)),) if stage in ("analysis", "embedding") else ()


class QueryOptimizer:
    """Analyses queries against the documents there are.

    Words in more than the share `common` of the documents, and in more than ten, are not searched for, unless
    all are. `estimate` gives the seconds that a query will take by a strategy, where they are known.
    """

    def __init__(
        self,
        expansion: ExpansionConfig,
        common: float,
        words: Words,
        estimate: Callable[[Reading, Strategy], float | None] = lambda reading, strategy: None,
    ) -> None:
        self._expansion = expansion
        self._common = common
        self._words = words
        self._estimate = estimate

    def optimize(self, query: str, strategy: Strategy | None = None) -> Analysis:
        """Analyse a query that is to be searched by `strategy`, or else by the one it calls for."""
        reading = self.read(query)
        first = self._words.match(reading.searched, max(_AMBIGUOUS, self._expansion.documents))
        return self.analysis(reading, first, self.expanded(reading, first), strategy)

    def read(self, query: str) -> Reading:
        """Look the words of a query up."""
        frequencies, most = self._words.frequencies(query), self._most(len(self._words))
        rare = [word for word, count in frequencies.items() if count <= most]
        return Reading(query, frequencies, " ".join(rare or frequencies))

    def analysis(
        self,
        reading: Reading,
        matches: Sequence[tuple[str, float]],
        expanded: str,
        strategy: Strategy | None = None,
    ) -> Analysis:
        """Analyse a query of which the documents that match its words, and its expansion by them, are known.

        Complexity is the mean of four parts. Length: words, 16 and more being 1. Rarity: the mean over the
        words of 1 − log(n + 1) / log(N + 1), where n of N documents have the word. Clauses: commas,
        conjunctions and the like, four and more being 1. Ambiguity: the mean score of the second to the tenth
        match over that of the first, since scores that fall fast say that one document stands out.
        """
        query = reading.query
        complexity = Complexity(
            length=min(1.0, len(_WORD.findall(query)) / _LONG),
            rarity=self._rarity(reading.frequencies.values()),
            clauses=min(1.0, len(_CLAUSE.findall(query)) / _CLAUSES),
            ambiguity=_ambiguity([score for _, score in matches[:_AMBIGUOUS]]),
        )
        wanted = strategy_for(complexity.score)
        return Analysis(
            original=query,
            expanded=expanded,
            complexity=complexity,
            strategy=wanted,
            estimated_latency=self._estimate(reading, strategy or wanted),
        )

    def expanded(self, reading: Reading, matches: Sequence[tuple[str, float]]) -> str:
        """The words searched for, and those that say most about the best matches.

        A word weighs what these documents give it, their score times its share of their words (Lavrenko and
        Croft, "Relevance-Based Language Models", 2001), times its inverse document frequency; without the
        latter the commonest words would win. Words of the query in any form, and those that are too common
        to be searched for, are not added; of each other word one form is.
        """
        scores = dict(matches[: self._expansion.documents])
        if not self._expansion.words or not scores:
            return reading.searched
        weights: defaultdict[str, float] = defaultdict(float)
        for id_, text in self._words.texts(list(scores)).items():
            words = _WORD.findall(text.lower())
            for word, count in Counter(words).items():
                weights[word] += scores[id_] * count / len(words)
        # Of the heaviest alone the frequency is looked up, of as many as a look-up takes.
        heaviest = " ".join(sorted(weights, key=lambda word: -weights[word])[:_LOOKED_UP])
        size = len(self._words)
        worth = {
            word: weights[word] * math.log((size + 1) / (count + 1))
            for word, count in self._words.frequencies(heaviest).items()
            if count <= self._most(size)
        }
        # Another form of a word finds nothing that the word does not.
        forms, known = self._words.stems(heaviest), set(self._words.stems(reading.query).values())
        by_stem: dict[str, str] = {}
        for word in sorted(worth, key=lambda word: (-worth[word], word)):
            if forms[word] not in known:
                by_stem.setdefault(forms[word], word)
        best = islice(by_stem.values(), self._expansion.words)
        return " ".join([reading.searched, *best])

    def _most(self, size: int) -> float:
        """Of `size` documents, those that a word may be in without being common."""
        return max(self._common * size, _FEW)

    def _rarity(self, counts: Collection[int]) -> float:
        most = math.log(len(self._words) + 1)
        if not counts or most == 0:
            return 0.0
        return sum(max(0.0, 1 - math.log(count + 1) / most) for count in counts) / len(counts)


def strategy_for(complexity: float) -> Strategy:
    """The performance guide's choice: one stage below 0.3, two below 0.7, else all."""
    if complexity < _TWO_STAGES:
        return "single_stage"
    return "two_stage" if complexity < _MANY_STAGES else "multi_stage"


def _ambiguity(scores: Sequence[float]) -> float:
    if not scores or scores[0] <= 0:
        return 0.0
    return sum(scores[1:]) / (scores[0] * (_AMBIGUOUS - 1))
