"""Emotional analysis: the agent that says what a text feels like."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from brein.agents.agent import Agent
from brein.agents.base import Batch
from brein.agents.limits import AgentConfig
from brein.agents.prototypes import PROTOTYPES
from brein.agents.workers import InThreads, Threads, attempt
from brein.embedding import Embedder
from brein.records import Emotion, FloatArray
from brein.texts import beginning

MAX_TEXT = 2_000  # characters of a text that are looked at, the first ones

_TEMPERATURE = 0.07  # of the weights of the prototypes; chosen with each left out in turn
_FELT = 0.25  # of valence, either way; less is neutral
_STIRRED = 0.5  # of arousal


class Amygdala:
    """Places a text on the circumplex of valence and arousal (Russell, 1980) by its meaning and its words.

    Meaning: the mean of the `PROTOTYPES`' valence and arousal, weighted by exp(cosine / temperature), a
    kernel regression after Nadaraya and Watson (1964). Words: VADER's lexicon and rules (Hutto and Gilbert,
    2014) know negation better but take every `kill` for a threat, so what they add to the valence is scaled
    by the squared weight of the prototypes that are not neutral. English only, and with an embedder that
    knows meanings, which `hashing` does not. Safe to use from several threads.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        # Only who asks needs it.
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        self._lexicon = SentimentIntensityAnalyzer()

    def analyse(self, text: str) -> Emotion:
        """What `text` feels like, judged by its first `MAX_TEXT` characters.

        Raises:
            DataError: it is no text, or blank.
        """
        return self._felt([_shown(text)])[0]

    def analyse_batch(self, batch: Batch[str]) -> list[Emotion | Exception]:
        """What each text of a batch feels like, all embedded in one call; what is no text fails alone."""
        shown = [attempt(_shown, text) for text in batch.requests]
        emotions = iter(self._felt([text for text in shown if isinstance(text, str)]))
        return [next(emotions) if isinstance(text, str) else text for text in shown]

    def warm_up(self) -> None:
        """Embed the prototypes, which the first text would wait for."""
        _ = self._prototypes

    def _felt(self, texts: Sequence[str]) -> list[Emotion]:
        return [self._feel(*pair) for pair in zip(texts, self._embedder.embed_queries(texts), strict=True)]

    def _feel(self, text: str, vector: FloatArray) -> Emotion:
        vectors, feelings = self._prototypes
        likeness = vectors @ vector
        weights = np.exp((likeness - likeness.max()) / _TEMPERATURE)
        weights /= weights.sum()
        meant, arousal = (float(mean) for mean in weights @ feelings)
        felt = float(weights[feelings[:, 0] != 0].sum())
        worded: float = self._lexicon.polarity_scores(text)["compound"]
        valence = min(1.0, max(-1.0, meant + felt**2 * worded))
        return Emotion(valence, arousal, label(valence, arousal))

    @cached_property
    def _prototypes(self) -> tuple[FloatArray, FloatArray]:
        """Vectors, (n, d), and their valence and arousal, (n, 2)."""
        texts = [text for group in PROTOTYPES.values() for text in group]
        feelings = [feeling for feeling, group in PROTOTYPES.items() for _ in group]
        return self._embedder.embed(texts), np.array(feelings, dtype=np.float32)


def open_amygdala(
    amygdala: Amygdala,
    config: AgentConfig,
    clock: Callable[[], float] = time.monotonic,
    threads: Threads | None = None,
) -> Agent[str, Emotion]:
    """The agent that says what texts feel like."""
    return Agent("amygdala", config, InThreads(amygdala.analyse_batch, "amygdala", threads), clock)


def label(valence: float, arousal: float) -> str:
    """The quadrant of the circumplex: excited, content, distressed or sad; neutral near its middle."""
    if abs(valence) < _FELT:
        return "neutral"
    if valence > 0:
        return "excited" if arousal >= _STIRRED else "content"
    return "distressed" if arousal >= _STIRRED else "sad"


def _shown(text: str) -> str:
    return beginning("text", text, MAX_TEXT)
