"""`load`: every kind has a loader, the YAML options fit the models, and documents are really cut."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pydantic import TypeAdapter

from bench.artifacts import Store
from bench.config import CONF
from bench.data_config import BeirConfig, DatasetConfig, RecipeConfig
from bench.errors import UsageError
from bench.workload import LOADERS, TextDataset, VectorDataset, load
from bench.workload.load import cut
from brein.records import Document

OPTIONS = sorted(path.stem for path in (CONF / "dataset").glob("*.yaml"))


def words(texts: Sequence[str]) -> list[list[tuple[int, int]]]:
    return [[match.span() for match in re.finditer(r"\w+|[^\w\s]", text)] for text in texts]


def composed(option: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose(None, [f"+dataset={option}"]).dataset)


def test_every_kind_has_a_loader() -> None:
    union = get_args(get_args(DatasetConfig)[0])
    kinds = {kind for model in union for kind in get_args(model.model_fields["kind"].annotation)}
    assert set(LOADERS) == kinds


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_names_every_setting_of_its_model(option: str) -> None:
    plain = composed(option)
    for name in ("path", "name"):
        if plain.get(name) == "???":
            plain[name] = "filled"
    adapter: TypeAdapter[Any] = TypeAdapter(DatasetConfig)
    config = adapter.validate_json(json.dumps(plain), strict=True)
    assert set(plain) == set(type(config).model_fields)


def test_the_large_option_searches_the_synthetic_vectors() -> None:
    assert composed("pydocs_large")["memory_vectors"] == composed("synthetic")


def dataset(*texts: str) -> TextDataset:
    return TextDataset(
        "t", tuple(Document(str(i), text) for i, text in enumerate(texts)), (), {}, {"more": 1}
    )


def test_a_document_ends_with_its_last_token() -> None:
    data = cut(dataset("one two, three", "one two", "one", ""), 2, words)
    assert [document.text for document in data.documents] == ["one two", "one two", "one", ""]
    assert data.facts == {"more": 1, "max_tokens": 2, "documents_cut": 1}


def test_no_limit_cuts_nothing() -> None:
    data = cut(dataset("one two three"), None, words)
    assert data.documents[0].text == "one two three"
    assert data.facts["max_tokens"] is None


@given(st.lists(st.text(st.sampled_from("ab,. \n"), max_size=80), max_size=5), st.integers(1, 6))
def test_a_cut_document_has_the_first_tokens_of_the_whole(texts: list[str], limit: int) -> None:
    for before, document in zip(texts, cut(dataset(*texts), limit, words).documents, strict=True):
        assert before.startswith(document.text)
        assert words([document.text])[0] == words([before])[0][:limit]


def test_a_recipe_loads_through_the_loader_it_names(tmp_path: Path) -> None:
    np.save(tmp_path / "base.npy", np.eye(3))
    np.save(tmp_path / "queries.npy", np.eye(3)[:1])
    write_recipe(tmp_path, "mine", kind="npy", path=str(tmp_path))
    data = load(RecipeConfig(name="mine"), Store(tmp_path / "artifacts"), words, tmp_path)
    assert isinstance(data, VectorDataset)
    assert (data.name, len(data.vectors)) == ("mine", 3)
    assert (data.facts["licence"], data.facts["source"]) == ("L", "S")


def write_recipe(fetched: Path, name: str, **fields: Any) -> None:
    (fetched / "recipes").mkdir(exist_ok=True)
    content = {"name": name, "title": "T", "licence": "L", "source": "S"} | fields
    (fetched / "recipes" / f"{name}.yaml").write_text(yaml.safe_dump(content))


def test_texts_are_cut_as_they_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d", "title": "A title", "text": "and some text"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "?"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    config = BeirConfig(
        path=tmp_path, split="test", documents=None, queries=None, max_tokens=3, memory_vectors=None
    )
    data = load(config, Store(tmp_path / "artifacts"), words, tmp_path)
    assert isinstance(data, TextDataset)
    assert data.documents[0].text == "A title and"


def test_what_is_wrong_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a recipe"):
        load(RecipeConfig(name="nothing"), Store(tmp_path), words, tmp_path)
