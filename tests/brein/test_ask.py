"""An engine answers questions: with its own agents, alone and under load; and what it says is missing."""

import asyncio
import gc
import socket
import sys
import weakref
from collections import Counter
from itertools import islice

import pytest

from brein import Document, Engine, EngineConfig, embedding
from brein.agents.models import MODELS
from brein.embedding.hashing import HashingEmbedder, WordTokenizer
from brein.errors import ClosedError, ConfigError, QueueFullError
from brein.memory import held

DOCUMENTS = [
    Document("violin", "A violin has four strings. It is played with a bow.", {"shelf": 1}),
    Document("cello", "A cello is larger than a violin. It stands on the floor.", {"shelf": 2}),
    Document("bread", "Bread is made of flour and water. It is baked in an oven.", {"shelf": 3}),
    *(Document(f"train {n}", f"The train number {n} leaves from platform {n % 9}.") for n in range(30)),
]
QUESTION = "How many strings has a violin?"
HASHING = {"embedding": {"kind": "hashing"}, "index": {"kind": "IndexFlat"}}


def opened(**parts):
    engine = Engine.open(EngineConfig.model_validate({**HASHING, **parts}))
    engine.ingest(DOCUMENTS)
    return engine


@pytest.fixture
def engine():
    with opened() as engine:
        yield engine


@pytest.fixture
def silent_endpoint(monkeypatch):
    """The URL of an endpoint that accepts and never answers."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def test_an_answer_cites_documents_that_were_found(engine):
    response = engine.ask(QUESTION, k=3)
    assert "A violin has four strings. [1]" in response.answer.text
    assert response.answer.citations[0] == "violin"
    assert set(response.answer.citations) <= {hit.id for hit in response.retrieval.hits}
    assert len(response.retrieval.hits) == 3
    assert response.degraded is None
    assert list(response.trace.agents) == ["hippocampus", "amygdala", "prefrontal_cortex"]


def test_without_a_language_model_the_answer_says_who_wrote_it_and_who_should_have(engine):
    answer = engine.ask(QUESTION).answer
    assert answer.model == "extractive"
    assert answer.wanted in MODELS
    assert f"{answer.wanted} is not available, nor is another language model" in answer.notes[0]


@pytest.fixture
def embedded(monkeypatch):
    """The texts that the models of engines embed, in order."""
    texts = []

    class Noting(HashingEmbedder):
        def embed(self, some):
            texts.extend(some)
            return super().embed(some)

    monkeypatch.setitem(embedding.EMBEDDERS, "hashing", (Noting, WordTokenizer))
    return texts


def test_of_a_question_after_warming_up_its_text_is_embedded_once_and_then_sentences_alone(embedded):
    with opened() as engine:
        engine.warm_up()
        del embedded[:]
        engine.ask(QUESTION)
        assert embedded[0] == QUESTION
        assert all(any(text in document.text for document in DOCUMENTS) for text in embedded[1:])


@pytest.mark.parametrize("batch", [2, 5])
def test_questions_that_are_felt_together_are_embedded_for_memory_too(embedded, batch):
    async def scenario(questions):
        async with engine.coordinator() as coordinator:
            await asyncio.gather(*map(coordinator.ask, questions))

    questions = [f"Where does the train number {n} leave from?" for n in range(20)]
    agents = {"hippocampus": {"max_concurrent": 1}, "amygdala": {"max_concurrent": 1, "batch_size": batch}}
    with opened(agents=agents) as engine:
        engine.warm_up()
        del embedded[:]
        asyncio.run(scenario(questions))
    # The two may come to a question at the same time.
    assert Counter(embedded)[questions[-1]] == 1
    assert sum(Counter(embedded)[question] for question in questions) < 1.5 * len(questions)


def test_an_engine_that_is_not_asked_warms_up_without_the_key_of_its_language_model(monkeypatch):
    monkeypatch.delenv("LAB_KEY", raising=False)
    model = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m", "key_variable": "LAB_KEY"}
    with opened(generation={"models": {"phi-3.1-mini": model}}) as engine:
        engine.warm_up()
        assert engine.search("violin")
        with pytest.raises(ConfigError, match="LAB_KEY"):
            engine.ask(QUESTION)


def test_a_filter_leaves_only_documents_that_fulfil_it_to_answer_from(engine):
    response = engine.ask(QUESTION, where={"shelf": {"gt": 1}})
    assert {hit.id for hit in response.retrieval.hits} == {"cello", "bread"}
    assert "violin" not in response.answer.citations


def test_an_engine_without_documents_says_that_none_was_found():
    with Engine.open(EngineConfig.model_validate(HASHING)) as engine:
        answer = engine.ask(QUESTION).answer
    assert answer.citations == ()
    assert "no document was found" in answer.notes


def test_an_emotion_that_takes_too_long_is_missing_and_the_answer_is_there():
    with opened(agents={"amygdala": {"timeout": 1e-6}}) as engine:
        response = engine.ask(QUESTION)
    assert response.answer.citations[0] == "violin"
    assert response.emotion is None
    assert response.degraded.startswith("amygdala gave nothing: AgentTimeoutError")


def test_a_client_that_cancels_frees_its_slot_and_ends_the_call_of_the_language_model(silent_endpoint):
    async def scenario():
        async with engine.coordinator() as coordinator:

            def reasoning():
                return coordinator.stats()["prefrontal_cortex"]

            for n in range(1, 4):
                asking = asyncio.create_task(coordinator.ask(QUESTION))
                await until(lambda: reasoning().running)
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
                assert (reasoning().running, reasoning().cancelled) == (0, n)
                await until(lambda: reasoning().abandoned == 0)

    model = {"kind": "openai", "base_url": silent_endpoint, "model": "m", "timeout": 600.0}
    generation = {"models": {"tinyllama-1.1b": model}}
    with opened(generation=generation, agents={"prefrontal_cortex": {"max_concurrent": 1}}) as engine:
        asyncio.run(scenario())


def test_a_coordinator_lets_threads_take_turns_soon_and_no_later_than_they_did(engine):
    async def interval(before):
        sys.setswitchinterval(before)
        async with engine.coordinator():
            return sys.getswitchinterval()

    default = sys.getswitchinterval()
    try:
        assert asyncio.run(interval(0.005)) == pytest.approx(1e-4)
        assert asyncio.run(interval(2e-5)) == pytest.approx(2e-5)
    finally:
        sys.setswitchinterval(default)


def test_a_closed_engine_answers_nothing(engine):
    async def scenario():
        async with engine.coordinator() as coordinator:
            engine.close()
            with pytest.raises(ClosedError, match="the engine is closed"):
                await coordinator.ask(QUESTION)

    asyncio.run(scenario())
    with pytest.raises(ClosedError, match="the engine is closed"):
        engine.ask(QUESTION)


def kept_objects():
    """All but weak references to what is gone, of which sqlite3 clears its own by the hundred."""
    return sum(not (type(one) is weakref.ref and one() is None) for one in gc.get_objects())


def test_of_5000_questions_at_four_times_the_capacity_each_has_one_outcome_and_none_leaves_a_trace(engine):
    outcomes, refused, left = Counter(), [], []
    limits = engine.config.agents.prefrontal_cortex

    async def ask_1000(coordinator):
        numbers = iter(range(1000))
        turn = 0

        async def ask(number):
            nonlocal turn
            turn += 1
            asked_in = turn
            try:
                response = await coordinator.ask(
                    f"Where does the train number {number % 30} leave from?", k=3
                )
            except QueueFullError:
                refused.append(turn - asked_in)
            else:
                outcomes[response.answer.citations[0]] += 1
                ask_more(4)

        def ask_more(count):
            for number in islice(numbers, count):
                asking.create_task(ask(number))

        async with asyncio.TaskGroup() as asking:
            ask_more(4 * (limits.max_concurrent + limits.queue_size))

    async def scenario():
        async with engine.coordinator() as coordinator:
            for _ in range(5):
                await ask_1000(coordinator)
                gc.collect()
                left.append((kept_objects(), held()))
            return coordinator.stats()

    stats = asyncio.run(scenario())
    assert outcomes.total() + len(refused) == 5000
    assert len(refused) == pytest.approx(5000 * 3 / 4, rel=0.05)
    assert outcomes.keys() <= {document.id for document in DOCUMENTS}
    for each in stats.values():
        assert (each.served, each.admitted, each.rejected) == (outcomes.total(), outcomes.total(), 0)
    assert set(refused) == {0}, "refused only after others had their turn of the event loop"
    # The allocator takes what it needs in the first rounds.
    objects, memory = (after - before for before, after in zip(left[1], left[4], strict=True))
    assert objects < 100
    assert memory < 8 * 2**20


@pytest.mark.slow
def test_the_real_model_answers_a_question_and_says_how_it_feels():
    with opened(embedding={"kind": "transformer"}) as engine:
        response = engine.ask("I love fresh bread! What does one need for it?", k=3)
        assert "Bread is made of flour and water." in response.answer.text
        assert response.answer.citations[0] == "bread"
        assert response.emotion.valence > 0
        assert response.degraded is None
