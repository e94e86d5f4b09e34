"""The label and the figures of a feeling, against sentences labelled by hand."""

import asyncio
import csv
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brein import embedding
from brein.agents import AgentConfig, open_amygdala
from brein.agents.amygdala import Amygdala, label
from brein.agents.prototypes import PROTOTYPES
from brein.embedding.hashing import HashingConfig, HashingEmbedder
from brein.embedding.transformer import TransformerConfig
from brein.errors import DataError
from brein.records import Emotion

LABELS = {"excited", "content", "distressed", "sad", "neutral"}
LABELLED = Path(__file__).parents[1] / "data" / "emotions.tsv"
HASHING = Amygdala(HashingEmbedder(HashingConfig()))


@pytest.fixture(scope="module")
def amygdala():
    return Amygdala(embedding.create(TransformerConfig()))


@pytest.fixture(scope="module")
def labelled():
    with LABELLED.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [(float(row["valence"]), float(row["arousal"]), row["text"]) for row in rows]


@pytest.mark.parametrize(
    ("valence", "arousal", "name"),
    [
        (0.25, 0.5, "excited"),
        (0.25, 0.49, "content"),
        (-0.25, 0.5, "distressed"),
        (-0.25, 0.49, "sad"),
        (0.24, 1.0, "neutral"),
        (-0.24, 0.0, "neutral"),
    ],
)
def test_a_label_is_a_quadrant_or_the_middle(valence, arousal, name):
    assert label(valence, arousal) == name


@given(st.text(min_size=1))
def test_every_text_is_refused_or_has_a_feeling_within_bounds(text):
    try:
        emotion = HASHING.analyse(text)
    except DataError:
        assert not any(character.isprintable() and not character.isspace() for character in text)
        return
    assert -1 <= emotion.valence <= 1
    assert 0 <= emotion.arousal <= 1
    assert emotion.label in LABELS


@pytest.mark.parametrize("text", ["", " \n", "\x00\x1b", None, 7, b"bytes"])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(DataError, match="the text is"):
        HASHING.analyse(text)


@pytest.mark.parametrize("text", ["a" * 2**20, "happy " * 10_000, "happy \ud83d", "\x00happy\x1b[31m"])
def test_poisoned_texts_have_a_feeling(text):
    assert HASHING.analyse(text).label in LABELS


class Counting(HashingEmbedder):
    """Notes how many texts each call embeds, once it may."""

    def __init__(self):
        super().__init__(HashingConfig())
        self.calls = []
        self.may = Event()
        self.may.set()

    def embed(self, texts):
        assert self.may.wait(10)
        self.calls.append(len(texts))
        return super().embed(texts)


def test_a_batch_is_embedded_in_one_call_and_what_is_no_text_fails_alone():
    async def scenario(texts):
        async with open_amygdala(amygdala, config) as agent:
            embedder.may.clear()  # so that all but the first wait
            answers = [agent.submit(text) for text in texts]
            embedder.may.set()
            return await asyncio.gather(*answers, return_exceptions=True)

    embedder = Counting()
    amygdala = Amygdala(embedder)
    alone = amygdala.analyse("I love this!")
    del embedder.calls[:]
    config = AgentConfig(max_concurrent=1, queue_size=4, timeout=60.0, batch_size=4)
    texts = ["first", "I love this!", " ", "How late is it?", None]
    outcomes = asyncio.run(scenario(texts))
    assert [type(outcome) for outcome in outcomes] == [Emotion, Emotion, DataError, Emotion, DataError]
    assert outcomes[1] == alone
    assert embedder.calls == [1, 2]


def test_no_labelled_sentence_is_a_prototype(labelled):
    prototypes = {text for group in PROTOTYPES.values() for text in group}
    texts = [text for _, _, text in labelled]
    assert len(set(texts)) == len(texts) >= 120
    assert not prototypes & set(texts)


@pytest.mark.slow
def test_feelings_agree_with_the_labelled_sentences(amygdala, labelled):
    felt = [amygdala.analyse(text) for _, _, text in labelled]
    right = [
        emotion.label == label(valence, arousal)
        for emotion, (valence, arousal, _) in zip(felt, labelled, strict=True)
    ]
    valences = np.corrcoef([emotion.valence for emotion in felt], [valence for valence, _, _ in labelled])[
        0, 1
    ]
    arousals = np.corrcoef([emotion.arousal for emotion in felt], [arousal for _, arousal, _ in labelled])[
        0, 1
    ]
    assert np.mean(right) >= 0.7
    assert valences >= 0.7
    assert arousals >= 0.75


@pytest.mark.slow
def test_words_of_violence_in_technical_questions_are_neutral(amygdala):
    for text in (
        "How do I kill a zombie process?",
        "The daemon died with a fatal error.",
        "Why was the job aborted?",
    ):
        assert amygdala.analyse(text).label == "neutral", text


@pytest.mark.slow
def test_an_emotion_is_the_same_each_time(amygdala):
    assert amygdala.analyse("I love this!") == amygdala.analyse("I love this!")
