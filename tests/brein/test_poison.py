"""Whatever is asked or ingested, through whichever door: a clear answer, or an error that says what to do."""

import asyncio
import math

import numpy as np
import pytest

from brein import Document, Engine, EngineConfig
from brein.agents import AgentsConfig, Ingest, open_hippocampus
from brein.errors import DataError

HASHING = {"embedding": {"kind": "hashing"}, "index": {"kind": "IndexFlat"}}
KNOWN = Document("violin", "A violin has four strings.")

TOO_LONG = "characters, at most 10,000; ask a shorter one"
NO_QUESTIONS = {
    "empty": ("", "is empty; give a text"),
    "blank": (" \t\n\u2003", "is empty; give a text"),
    "control characters": ("\x00\x07\x1b\x9b", "is empty; give a text"),
    "1 MiB": ("a" * 2**20, TOO_LONG),
    "10,000 tokens": ("violin " * 10_000, TOO_LONG),
    "None": (None, "is a NoneType; give a text"),
    "a number": (7, "is a int; give a text"),
    "bytes": (b"violin", "is a bytes; give a text"),
    "a list": (["violin"], "is a list; give a text"),
}
ODD_QUESTIONS = {
    "NUL": "How many strings\x00 has a violin?",
    "escape sequences": "\x1b[31mHow many strings has a violin?\x9b0m",
    "lone surrogates": "How many strings has a violin? \ud83c",
    "right-to-left override": "How many strings has a \u202eviolin?",
    "as long as may be": ("violin strings " * 1000)[:10_000],
    "syntax": """violin" OR strings* NEAR(1) '; DROP TABLE documents --""",
}
ODD_TEXTS = {
    "NUL": "A viola\x00 has a lower voice.",
    "control characters alone": "\x00\x07\x1b",
    "escape sequences": "\x1b[31mA viola has a lower voice.\x9b0m",
    "1 MiB without a space": "a" * 2**20,
    "1 MiB of words": "viola " * (2**20 // 6),
    "10,000 tokens": " ".join(f"word{n}" for n in range(10_000)),
    "no words": "... !!! ???",
}
HUGE = 10**5000  # more digits than Python writes
DEEP: list = []  # deeper than Python writes
for _ in range(5000):
    DEEP = [DEEP]
NO_DOCUMENTS = {
    "no text": ([Document("new", None)], "its text is a NoneType; give a text"),
    "a number for a text": ([Document("new", 7)], "its text is a int; give a text"),
    "bytes for a text": ([Document("new", b"text")], "its text is a bytes; give a text"),
    "a list for a text": ([Document("new", ["text"])], "its text is a list; give a text"),
    "an empty text": ([Document("new", "")], "text must not be empty"),
    "a blank text": ([Document("new", " \n")], "text must not be empty"),
    "lone surrogates": ([Document("new", "viola \ud83c")], "mend its lone surrogates"),
    "no id": ([Document(None, "text")], "its id is a NoneType; give a text"),
    "no metadata": ([Document("new", "text", None)], "its metadata are a NoneType; give a mapping"),
    "a text for a document": (["text"], "'text' is a str; give documents"),
    "deep metadata": ([Document("new", "text", {"n": DEEP})], "a list cannot be compared"),
    "a huge number": ([Document("new", "text", {"n": HUGE})], "an integer takes at most 64 bits"),
    "a deep list for a document": ([DEEP], "is a list; give documents"),
    "None for a document": ([None], "None is a NoneType; give documents"),
    "a text for documents": ("text", "is a str; give documents"),
    "bytes for documents": (b"text", "is a int; give documents"),
    "None for documents": (None, "the documents are a NoneType; give a list"),
    "a number for documents": (7, "the documents are a int; give a list"),
    "one document for documents": (Document("new", "text"), "the documents are a Document; give a list"),
}


def opened(**parts):
    engine = Engine.open(EngineConfig.model_validate({**HASHING, **parts}))
    engine.ingest([KNOWN])
    return engine


@pytest.fixture
def engine():
    with opened() as engine:
        yield engine


def ask_a_coordinator(engine, *question):
    async def ask():
        async with engine.coordinator() as coordinator:
            return await coordinator.ask(*question)

    return asyncio.run(ask())


def ingest_by_agent(engine, documents):
    async def ingest():
        async with open_hippocampus(engine, AgentsConfig().hippocampus) as agent:
            return await agent.submit(Ingest(documents))

    return asyncio.run(ingest())


ASK = {
    "search": Engine.search,
    "retrieve": lambda engine, *question: engine.retrieve(*question).hits,
    "ask": lambda engine, *question: engine.ask(*question).retrieval.hits,
    "coordinator": lambda engine, *question: ask_a_coordinator(engine, *question).retrieval.hits,
}
INGEST = {"ingest": Engine.ingest, "hippocampus": ingest_by_agent}

every_way_to_ask = pytest.mark.parametrize("ask", ASK.values(), ids=ASK.keys())
every_way_to_ingest = pytest.mark.parametrize("ingest", INGEST.values(), ids=INGEST.keys())


@every_way_to_ask
@pytest.mark.parametrize(("question", "message"), NO_QUESTIONS.values(), ids=NO_QUESTIONS.keys())
def test_what_is_no_question_is_refused_with_its_bound_and_its_remedy(engine, ask, question, message):
    with pytest.raises(DataError, match=message):
        ask(engine, question)


@every_way_to_ask
@pytest.mark.parametrize("question", ODD_QUESTIONS.values(), ids=ODD_QUESTIONS.keys())
def test_odd_questions_find_what_they_are_about(engine, ask, question):
    assert [hit.id for hit in ask(engine, question)] == ["violin"]


@every_way_to_ask
@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        *(((k,), f"k = {k!r}: must be an integer of at least 1") for k in (0, -1, 2.5, True, None, "5")),
        *(((k,), "k = .*: must be .* at most 1,000,000") for k in (1_000_001, 2**63, HUGE, DEEP)),
        *(((5, where), "filter|where") for where in (5, "text", {"n": {"near": 1}}, {"n": object()})),
        *(((5, where), "filter|where") for where in (DEEP, {"n": DEEP}, {"n": {"eq": DEEP}}, {"n": HUGE})),
    ],
)
def test_odd_bounds_of_a_question_are_refused(engine, ask, bounds, message):
    with pytest.raises(DataError, match=message):
        ask(engine, KNOWN.text, *bounds)


@every_way_to_ingest
@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS.keys())
def test_odd_documents_are_kept_as_they_are_and_do_no_harm(engine, ingest, text):
    ingest(engine, [Document("odd", text)])
    assert engine.get("odd").text == text
    assert {hit.id for hit in engine.search("a viola")} == {"violin", "odd"}
    assert engine.ask(KNOWN.text).answer.citations[0] == "violin"
    engine.ask("Which instrument has the lower voice?").answer.text.encode()


@every_way_to_ingest
@pytest.mark.parametrize(("documents", "message"), NO_DOCUMENTS.values(), ids=NO_DOCUMENTS.keys())
def test_what_are_no_documents_is_refused_and_nothing_kept(engine, ingest, documents, message):
    with pytest.raises(DataError, match=message):
        ingest(engine, documents)
    assert engine.get("new") is None
    assert len(engine) == 1


def test_odd_bounds_of_a_search_by_vector_are_refused(engine):
    for k in (0, 1_000_001, 2**63, HUGE, DEEP):
        with pytest.raises(
            DataError, match=r"k = .*: must be an integer of at least 1 and at most 1,000,000"
        ):
            engine.search(np.ones(64, np.float32), k)
    assert len(engine.search("violin", 1_000_000)) == 1


def test_scores_beyond_every_number_are_given_as_they_are():
    retrieval = {"lexical": {"enabled": False}, "reranker": None}
    index = {"kind": "IndexFlat", "metric": "inner_product"}
    with opened(index=index, retrieval=retrieval) as engine:
        engine.delete(["violin"])
        question = "How many strings has a violin?"
        engine.ingest([KNOWN], np.float32(3e38) * np.sign(engine._model.embed([question])))
        for _ in range(2):  # computed, then cached
            assert [(hit.id, hit.score) for hit in engine.search(question)] == [("violin", math.inf)]


@pytest.mark.slow
def test_the_real_model_reads_the_beginning_of_long_documents_and_questions():
    with opened(embedding={"kind": "transformer"}) as engine:
        engine.ingest([Document(name, text) for name, text in ODD_TEXTS.items()])
        assert len(engine) == len(ODD_TEXTS) + 1
        assert engine.search("What is a violin?", 1)[0].id == "violin"
        for question in ODD_QUESTIONS.values():
            assert "violin" in {hit.id for hit in engine.ask(question, k=2).retrieval.hits}
