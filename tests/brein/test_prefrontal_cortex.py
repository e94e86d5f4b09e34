"""Which model answers, and what an answer says about itself."""

import asyncio
import math
import time
from threading import Event

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brein.agents import AgentConfig, Evidence, open_prefrontal_cortex
from brein.agents.generation import NO_ANSWER, Generated, GenerationConfig, Generator, create
from brein.agents.models import MODELS, Selection, select_optimal_model
from brein.agents.prefrontal_cortex import PrefrontalCortex
from brein.errors import DataError
from brein.records import Emotion, Hit

TINY, PHI, LLAMA = MODELS
QUESTION = "How many strings has a violin?"
EVIDENCE = [Hit("violin", 0.9, "A violin has four strings."), Hit("food", 0.1, "Bread is made of flour.")]


class Fixed(Generator):
    """Writes the same to every question."""

    def __init__(self, name, text="Four [1].", citations=("violin",), notes=()):
        super().__init__(name)
        self._generated = Generated(text, citations, name, notes=notes)

    def _write(self, question, evidence, max_tokens, remaining, feeling):
        self.feeling = feeling
        return self._generated


@pytest.mark.parametrize(
    ("complexity", "name"),
    [(0, TINY), (0.29, TINY), (0.3, PHI), (0.69, PHI), (0.7, LLAMA), (1, LLAMA), (1.0, LLAMA)],
)
def test_the_thresholds_are_the_guides(complexity, name):
    assert select_optimal_model(complexity, set(MODELS)) == Selection(name, wanted=name)


@pytest.mark.parametrize(
    ("complexity", "available", "name"),
    [
        (0.1, {PHI, LLAMA}, PHI),
        (0.1, {LLAMA}, LLAMA),
        (0.5, {TINY, LLAMA}, LLAMA),
        (0.5, {TINY}, TINY),
        (0.9, {TINY, PHI}, PHI),
        (0.9, {"gpt-4", TINY}, TINY),
    ],
)
def test_the_nearest_in_size_stands_in_and_says_so(complexity, available, name):
    selection = select_optimal_model(complexity, available)
    assert selection.name == name
    assert f"{selection.wanted} is not available" in selection.reason


@pytest.mark.parametrize("available", [set(), {"gpt-4"}, {"extractive": None}])
def test_without_a_language_model_the_extractive_generator_stands_in_and_says_so(available):
    selection = select_optimal_model(0.5, available)
    assert (selection.name, selection.wanted) == ("extractive", PHI)
    assert "nor is another" in selection.reason


@given(st.floats(0, 1), st.sets(st.sampled_from(MODELS)))
def test_only_what_is_available_is_selected(complexity, available):
    selection = select_optimal_model(complexity, available)
    assert selection.name in (available or {"extractive"})
    assert (selection.reason is None) == (selection.name == selection.wanted)


@pytest.mark.parametrize("complexity", [-0.01, 1.01, math.nan, math.inf, None, "0.5", True])
def test_a_complexity_outside_its_bounds_is_refused(complexity):
    with pytest.raises(DataError, match="from 0 to 1"):
        select_optimal_model(complexity, MODELS)


def test_the_model_that_the_complexity_asks_for_answers():
    cortex = PrefrontalCortex({name: Fixed(name) for name in ("extractive", *MODELS)})
    answers = [cortex.answer(QUESTION, EVIDENCE, complexity) for complexity in (0.1, 0.5, 0.9)]
    assert [answer.model for answer in answers] == [answer.wanted for answer in answers] == [TINY, PHI, LLAMA]
    assert (answers[0].text, answers[0].citations, answers[0].notes) == ("Four [1].", ("violin",), ())


def test_a_model_that_stands_in_is_named_in_the_answer():
    cortex = PrefrontalCortex({"extractive": Fixed("extractive"), TINY: Fixed(TINY, notes=("it was cut",))})
    answer = cortex.answer(QUESTION, EVIDENCE, 0.9)
    assert (answer.model, answer.wanted) == (TINY, LLAMA)
    assert answer.notes == (
        f"{LLAMA} is not available, {TINY} is the nearest in size: {TINY} answered",
        "it was cut",
    )


def test_with_nothing_configured_the_documents_own_sentences_answer_and_it_is_said():
    cortex = PrefrontalCortex(create(GenerationConfig(), lambda _, hits: np.ones(len(hits))))
    answer = cortex.answer(QUESTION, EVIDENCE, 0.5)
    assert answer.text == "A violin has four strings. [1]"
    assert answer.citations == ("violin",)
    assert (answer.model, answer.wanted) == ("extractive", PHI)
    assert answer.notes == (f"{PHI} is not available, nor is another language model: extractive answered",)


def test_without_evidence_the_answer_says_that_none_was_found():
    cortex = PrefrontalCortex({"extractive": Fixed("extractive"), PHI: Fixed(PHI)})
    answer = cortex.answer(QUESTION, [], 0.5)
    assert (answer.text, answer.citations, answer.notes) == (NO_ANSWER, (), ("no document was found",))


def test_an_answer_without_a_source_says_so_but_not_where_it_says_that_there_is_none():
    bare = PrefrontalCortex({PHI: Fixed(PHI, text="Four.", citations=())})
    assert bare.answer(QUESTION, EVIDENCE, 0.5).notes == ("the answer cites none of the documents",)
    honest = PrefrontalCortex({PHI: Fixed(PHI, text=NO_ANSWER, citations=())})
    assert honest.answer(QUESTION, EVIDENCE, 0.5).notes == ()


@pytest.mark.parametrize("question", ["", "\x00", None, "a" * 2**20])
def test_a_question_that_cannot_be_asked_is_refused_before_any_model_sees_it(question):
    cortex = PrefrontalCortex({PHI: Fixed(PHI)})
    with pytest.raises(DataError, match="question"):
        cortex.answer(question, EVIDENCE, 0.5)


def test_the_agent_answers_the_requests_of_a_batch_and_one_that_fails_fails_alone():
    async def scenario():
        config = AgentConfig(max_concurrent=1, queue_size=3, timeout=60.0, batch_size=3)
        cortex = PrefrontalCortex({"extractive": Fixed("extractive")})
        async with open_prefrontal_cortex(cortex, config) as agent:
            calls = [
                agent.submit(Evidence(question, (), None, complexity))
                for question, complexity in [(QUESTION, 0.1), (QUESTION, 0.9), (QUESTION, 2.0), (" ", 0.5)]
            ]
            return await asyncio.gather(*calls, return_exceptions=True)

    outcomes = asyncio.run(scenario())
    assert [outcome.wanted for outcome in outcomes[:2]] == [TINY, LLAMA]
    assert [type(outcome) for outcome in outcomes[2:]] == [DataError, DataError]


def test_a_model_hears_how_the_question_feels_where_amygdala_told_it():
    async def scenario():
        config = AgentConfig(max_concurrent=1, queue_size=1, timeout=60.0)
        async with open_prefrontal_cortex(PrefrontalCortex({PHI: model}), config) as agent:
            for emotion in (Emotion(-0.6, 0.2, "sad"), None):
                await agent.submit(Evidence(QUESTION, tuple(EVIDENCE), emotion, 0.5))
                heard.append(model.feeling)

    model, heard = Fixed(PHI), []
    asyncio.run(scenario())
    assert heard == ["sad", None]


def test_a_model_is_told_when_nobody_waits_for_its_answer_any_more():
    begun, ended = Event(), Event()

    class Watching(Fixed):
        def _write(self, question, evidence, max_tokens, remaining, feeling):
            begun.set()
            while remaining() > 0:
                time.sleep(0.001)
            ended.set()
            return self._generated

    async def scenario():
        config = AgentConfig(max_concurrent=1, queue_size=1, timeout=60.0)
        cortex = PrefrontalCortex({"extractive": Watching("extractive")})
        async with open_prefrontal_cortex(cortex, config) as agent:
            call = agent.submit(Evidence(QUESTION, tuple(EVIDENCE), None, 0.5))
            await asyncio.to_thread(begun.wait, 20)
            call.cancel()
            assert await asyncio.to_thread(ended.wait, 20)

    asyncio.run(scenario())
