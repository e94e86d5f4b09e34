"""Calls of several threads share calls of a model that stops, and fails, where a test says so."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic, sleep

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brein import Document, Engine, EngineConfig, embedding
from brein.embedding.batcher import Batcher
from brein.embedding.hashing import HashingConfig, HashingEmbedder, WordTokenizer
from brein.embedding.transformer import TransformerConfig
from brein.index.flat import FlatConfig

CONFIG = HashingConfig(dimension=64)
PLAIN = HashingEmbedder(CONFIG)
LONG = 20.0  # seconds that nothing here takes unless it hangs


class Model(HashingEmbedder):
    """Hashed words. Keeps its calls; one with the text "stop" waits for `go`; "poison" is an error."""

    def __init__(self, config=CONFIG):
        super().__init__(config)
        self.calls = []
        self.stopped, self.go = threading.Event(), threading.Event()
        self.interrupt_next = False

    def embed(self, texts):
        self.calls.append(list(texts))
        if self.interrupt_next:
            self.interrupt_next = False
            raise KeyboardInterrupt
        if "stop" in texts:
            self.stopped.set()
            assert self.go.wait(LONG)
        if "poison" in texts:
            raise ValueError("poison cannot be embedded")
        sleep(0.001)  # other threads run meanwhile, as they do during a real call
        return super().embed(texts)


@contextmanager
def during_a_call(model, batcher):
    """Within, a call is running; `ask(*texts)` has another thread ask, and returns once that one waits."""
    with ThreadPoolExecutor(32) as threads:
        first = threads.submit(batcher.embed, ["stop"])
        assert model.stopped.wait(LONG)

        def ask(*texts):
            before = len(batcher._waiting)
            future = threads.submit(batcher.embed, texts)
            end = monotonic() + LONG
            while len(batcher._waiting) == before:
                assert monotonic() < end
                sleep(0.001)
            return future

        try:
            yield ask
        finally:
            model.go.set()
    assert_vectors(first.result(), ["stop"])
    assert not batcher._waiting


def assert_vectors(vectors, texts):
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, PLAIN.embed(texts))


def test_a_lone_call_is_one_call_of_the_model():
    model = Model()
    assert_vectors(Batcher(model, 8).embed(["a river", "a stone"]), ["a river", "a stone"])
    assert model.calls == [["a river", "a stone"]]


def test_what_arrives_during_a_call_is_the_next_call():
    model = Model()
    pairs = [(f"text {n}", f"more {n}") for n in range(8)]
    with during_a_call(model, Batcher(model, 32)) as ask:
        asked = [ask(*pair) for pair in pairs]
    assert model.calls == [["stop"], [text for pair in pairs for text in pair]]
    for pair, future in zip(pairs, asked, strict=True):
        assert_vectors(future.result(), pair)


def test_a_batch_has_at_most_max_batch_texts_the_first_to_come_first():
    model = Model()
    with during_a_call(model, Batcher(model, 4)) as ask:
        asked = {texts: ask(*texts) for texts in ("abc", "d", "e", "fgh", "ij", "kl", "m")}
    assert ["".join(call) for call in model.calls[1:]] == ["abcd", "efgh", "ijkl", "m"]
    for texts, future in asked.items():
        assert_vectors(future.result(), texts)


def test_as_many_calls_run_at_a_time_as_the_embedder_makes_side_by_side_and_no_text_is_in_two():
    model = Model()
    model.parallel_calls = 2
    batcher = Batcher(model, 32)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(batcher.embed, ["stop"])
        assert model.stopped.wait(LONG)
        assert_vectors(batcher.embed(["beside it"]), ["beside it"])
        model.stopped.clear()
        second = threads.submit(batcher.embed, ["stop", "too"])
        assert model.stopped.wait(LONG)
        waits = [threads.submit(batcher.embed, [text]) for text in ("a", "b", "c")]
        end = monotonic() + LONG
        while len(batcher._waiting) < len(waits):
            assert monotonic() < end
            sleep(0.001)
        assert len(model.calls) == 3
        model.go.set()
        assert_vectors(first.result(), ["stop"])
        assert_vectors(second.result(), ["stop", "too"])
        for text, future in zip("abc", waits, strict=True):
            assert_vectors(future.result(), [text])
    assert sorted(text for call in model.calls[3:] for text in call) == ["a", "b", "c"]
    assert not batcher._running


def test_equal_texts_of_a_batch_are_embedded_once_and_each_caller_has_vectors_of_its_own():
    model = Model()
    with during_a_call(model, Batcher(model, 32)) as ask:
        one, other = ask("same"), ask("same", "different", "same")
    assert model.calls[1] == ["same", "different"]
    one.result()[:] = 0
    assert_vectors(other.result(), ["same", "different", "same"])


@pytest.mark.parametrize("texts", [["a", "b", "c", "d"], ["long " * 100], []], ids=["full", "long", "empty"])
def test_a_call_that_gains_nothing_from_company_neither_waits_nor_takes_others_along(texts):
    model = Model()
    with during_a_call(model, batcher := Batcher(model, 4)) as ask:
        waits = ask("short")
        assert_vectors(batcher.embed(texts), texts)
        assert not waits.done()
    assert model.calls == [["stop"], texts, ["short"]]


def test_what_is_wrong_with_one_text_reaches_its_caller_alone():
    model = Model()
    with during_a_call(model, Batcher(model, 32)) as ask:
        before, wrong, after = ask("before"), ask("poison"), ask("after")
    assert_vectors(before.result(), ["before"])
    assert_vectors(after.result(), ["after"])
    with pytest.raises(ValueError, match="poison cannot be embedded"):
        wrong.result()


def test_what_is_wrong_with_the_model_reaches_every_caller_as_an_exception_of_its_own():
    model = Model()
    with during_a_call(model, Batcher(model, 32)) as ask:
        asked = [ask("poison", f"text {n}") for n in range(5)]
    errors = [future.exception() for future in asked]
    assert [type(error) for error in errors] == [ValueError] * 5
    assert len({id(error) for error in errors}) == 5


def test_an_interruption_of_the_one_who_calls_costs_no_other_its_vectors():
    model = Model()
    texts = [f"text {n}" for n in range(6)]
    with during_a_call(model, batcher := Batcher(model, 32)) as ask:
        asked = [ask(text) for text in texts]
        model.interrupt_next = True
    errors = [future.exception() for future in asked]
    assert sorted(type(error).__name__ for error in errors) == ["KeyboardInterrupt"] + ["NoneType"] * 5
    for text, future, error in zip(texts, asked, errors, strict=True):
        if error is None:
            assert_vectors(future.result(), [text])
    assert_vectors(batcher.embed(["later"]), ["later"])


def test_a_text_that_cannot_be_put_into_a_batch_is_an_error_and_the_next_call_works():
    batcher = Batcher(Model(), 8)
    with pytest.raises(AttributeError):
        batcher.embed([["not", "a", "text"]])
    assert_vectors(batcher.embed(["a text"]), ["a text"])


def test_who_waited_long_enough_embeds_alone_and_the_next_share_calls_again():
    model = Model()
    with during_a_call(model, batcher := Batcher(model, 8, patience=0.05)):
        assert_vectors(batcher.embed(["late", "late"]), ["late", "late"])
        batcher.embed(["next", "next"])
    batcher.embed(["last", "last"])
    # Only a shared call leaves out what is there twice.
    assert model.calls == [["stop"], ["late", "late"], ["next"], ["last"]]


@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "c", "d", "poison"]), max_size=4), min_size=1, max_size=12),
    st.integers(1, 3),
)
def test_all_get_their_own_whoever_asks_what_at_the_same_time(asked, parallel_calls):
    model = Model()
    model.parallel_calls = parallel_calls
    batcher = Batcher(model, 4)
    begin = threading.Barrier(len(asked))

    def ask(texts):
        begin.wait(LONG)
        return batcher.embed(texts)

    with ThreadPoolExecutor(len(asked)) as threads:
        futures = [threads.submit(ask, texts) for texts in asked]
    for texts, future in zip(asked, futures, strict=True):
        if "poison" in texts:
            assert isinstance(future.exception(), ValueError)
        else:
            assert_vectors(future.result(), texts)
    assert max(map(len, model.calls)) <= 4
    assert len(model.calls) <= 2 * len(asked)
    assert not batcher._waiting
    assert not batcher._running


def test_searches_of_several_threads_share_calls_of_the_model(monkeypatch):
    models = []

    class Kept(Model):
        def __init__(self, config):
            super().__init__(config)
            models.append(self)

    monkeypatch.setitem(embedding.EMBEDDERS, "hashing", (Kept, WordTokenizer))
    words = ["river", "stone", "cloud", "ember"]
    with Engine.open(EngineConfig(embedding=CONFIG, index=FlatConfig())) as engine:
        engine.ingest([Document(word, word) for word in words])
        (model,) = models
        model.calls.clear()
        with during_a_call(model, engine._model), ThreadPoolExecutor(4) as threads:
            found = [threads.submit(engine.search, word, 1) for word in words]
            end = monotonic() + LONG
            while len(engine._model._waiting) < len(words):
                assert monotonic() < end
                sleep(0.001)
            model.go.set()
            assert [future.result()[0].id for future in found] == words
        assert [sorted(call) for call in model.calls] == [["stop"], sorted(words)]


@pytest.mark.slow
def test_shared_calls_of_the_real_model_give_the_vectors_it_gives_each_text_alone():
    model = embedding.create(TransformerConfig())
    batcher = Batcher(model, 32)
    texts = [
        " ".join(["nearest", "vectors", "of", "an", "index"][: 1 + n % 5] * (1 + n % 3)) for n in range(60)
    ]
    begin = threading.Barrier(20)

    def ask(mine):
        begin.wait(LONG)
        return [batcher.embed([text])[0] for text in mine]

    with ThreadPoolExecutor(20) as threads:
        rows = [row for part in threads.map(ask, [texts[n : n + 3] for n in range(0, 60, 3)]) for row in part]
    np.testing.assert_allclose(rows, [model.embed([text])[0] for text in texts], atol=1e-6)
