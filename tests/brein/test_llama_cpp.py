"""What is made of a local model's answers, and when it is given up.

The model is a script: a module that stands in for llama_cpp, which is built from source and not there
everywhere. What the package itself does is tested by the contract of generators, where it is installed.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from brein.agents.generation import prompt
from brein.agents.generation.llama_cpp import LlamaCppConfig, LlamaCppGenerator
from brein.errors import GenerationError, GenerationTimeoutError, ModelError
from brein.records import Hit

QUESTION = "How many strings has a violin?"
EVIDENCE = [Hit("violin", 0.9, "A violin has four strings.")]
ANSWER = ("A violin", " has", " four", " [1].")


class Script:
    """What the model does: the pieces it writes, a second each, and how it ends; or what it raises."""

    def __init__(self):
        self.pieces, self.reason, self.error, self.damage = ANSWER, "stop", None, None
        self.made, self.asked, self.written, self.now = [], [], 0, 0.0

    def load(self, path, **settings):
        if self.damage:
            raise self.damage
        self.made.append((path, settings))
        return self

    def create_chat_completion(self, messages, **settings):
        self.asked.append((messages, settings))
        if self.error:
            raise self.error
        return self.stream()

    def stream(self):
        yield chunk({"role": "assistant"})
        for piece in self.pieces:
            self.now += 1
            self.written += 1
            yield chunk({"content": piece})
        yield chunk({}, self.reason)


def chunk(delta, reason=None):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


@pytest.fixture
def script(monkeypatch):
    script = Script()
    module = ModuleType("llama_cpp")
    module.__spec__ = ModuleSpec("llama_cpp", None)
    module.Llama = script.load
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    return script


@pytest.fixture
def generator(script, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    config = LlamaCppConfig(path=path, context=512, threads=2, timeout=10.0)
    return LlamaCppGenerator("tinyllama-1.1b", config, lambda: script.now)


def test_pieces_become_an_answer_and_the_model_is_loaded_once(generator, script):
    for _ in range(2):
        answer = generator.generate(QUESTION, EVIDENCE, 64, feeling="sad")
        assert (answer.text, answer.citations, answer.tokens) == ("A violin has four [1].", ("violin",), 4)
        assert answer.notes == ()
    ((path, settings),) = script.made
    assert path.endswith("model.gguf")
    assert (settings["n_ctx"], settings["n_threads"]) == (512, 2)
    messages, asked = script.asked[0]
    assert messages[0]["content"].endswith(prompt.FEELINGS["sad"])
    assert (asked["max_tokens"], asked["temperature"], asked["stream"]) == (64, 0, True)


def test_an_answer_that_takes_too_long_ends_between_two_tokens(generator, script):
    script.pieces = ("four ",) * 100
    with pytest.raises(GenerationTimeoutError, match=r"within timeout = 10 s"):
        generator.generate(QUESTION, EVIDENCE)
    assert script.written == 11
    script.pieces = ANSWER
    assert generator.generate(QUESTION, EVIDENCE).tokens == 4


def test_an_answer_that_nobody_waits_for_any_more_ends_between_two_tokens(generator, script):
    with pytest.raises(GenerationTimeoutError):
        generator.generate(QUESTION, EVIDENCE, remaining=lambda: 2.0 - script.now)
    assert script.written == 2
    assert generator.generate(QUESTION, EVIDENCE).tokens == 4


def test_loading_takes_nothing_of_the_time_to_answer(generator, script, monkeypatch):
    load = script.load

    def slowly(path, **settings):
        script.now += 60
        return load(path, **settings)

    monkeypatch.setattr(sys.modules["llama_cpp"], "Llama", slowly)
    assert generator.generate(QUESTION, EVIDENCE).tokens == 4


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_a_context_that_is_too_small_is_named_with_its_remedy(generator, script, error):
    script.error = error("Requested tokens (700) exceed context window of 512")
    with pytest.raises(GenerationError, match=r"exceed context .*; raise context = 512, or lower max_evid"):
        generator.generate(QUESTION, EVIDENCE)
    script.error = None
    assert generator.generate(QUESTION, EVIDENCE).tokens == 4


def test_an_answer_cut_at_its_bound_says_so(generator, script):
    script.reason = "length"
    assert generator.generate(QUESTION, EVIDENCE).notes == ("the text was cut at max_tokens",)


def test_a_file_that_cannot_be_loaded_is_named_and_tried_again(generator, script):
    script.damage = ValueError("Failed to load model from file")
    with pytest.raises(ModelError, match=r"model\.gguf cannot be loaded: Failed to load"):
        generator.generate(QUESTION, EVIDENCE)
    script.damage = None
    assert generator.generate(QUESTION, EVIDENCE).tokens == 4


def test_a_file_that_is_not_there_is_named_at_once(script, tmp_path):
    with pytest.raises(ModelError, match="is no file; give a GGUF file"):
        LlamaCppGenerator("tinyllama-1.1b", LlamaCppConfig(path=tmp_path / "model.gguf"))
