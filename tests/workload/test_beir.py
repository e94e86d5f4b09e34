"""BEIR folders: what is read, what is kept, and what is said of a malformed one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.data_config import BeirConfig
from bench.errors import UsageError
from bench.workload import beir


def config(path: Path, **changes: Any) -> BeirConfig:
    plain = {"split": "test", "documents": None, "queries": None, "max_tokens": None, "memory_vectors": None}
    return BeirConfig(path=path, **(plain | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    corpus = [{"_id": f"d{i}", "title": f"Title {i}", "text": f"Text {i}."} for i in range(20)]
    queries = [{"_id": f"q{i}", "text": f"Question {i}?", "metadata": {}} for i in range(5)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq0\td0\t1\nq0\td1\t2\nq1\td2\t1\nq2\td3\t0\nq3\td4\t1\n"
    )
    return tmp_path


def test_texts_join_title_and_text(folder: Path) -> None:
    data = beir.load(config(folder))
    assert {document.id: document.text for document in data.documents}["d7"] == "Title 7 Text 7."
    assert {query.id: query.text for query in data.queries}["q0"] == "Question 0?"
    assert data.name == folder.name


def test_a_missing_title_leaves_the_text_alone(folder: Path) -> None:
    lines = (folder / "corpus.jsonl").read_text().splitlines()
    (folder / "corpus.jsonl").write_text("\n".join([*lines, '{"_id": "bare", "text": "Only text."}']))
    data = beir.load(config(folder))
    assert {document.id: document.text for document in data.documents}["bare"] == "Only text."


def test_a_document_without_text_is_left_out_and_counted(folder: Path) -> None:
    lines = (folder / "corpus.jsonl").read_text().splitlines()
    (folder / "corpus.jsonl").write_text("\n".join([*lines, '{"_id": "none", "title": "", "text": " "}']))
    data = beir.load(config(folder))
    assert len(data.documents) == 20
    assert data.facts["documents_empty"] == 1


def test_only_queries_with_a_judgement_above_zero_are_kept(folder: Path) -> None:
    data = beir.load(config(folder))
    assert {query.id for query in data.queries} == {"q0", "q1", "q3"}
    assert data.judgements == {"q0": {"d0": 1, "d1": 2}, "q1": {"d2": 1}, "q3": {"d4": 1}}


def test_limits_keep_the_judged_documents(folder: Path) -> None:
    data = beir.load(config(folder, documents=6, queries=2))
    kept = {document.id for document in data.documents}
    assert (len(data.documents), len(data.queries)) == (6, 2)
    assert all(document in kept for row in data.judgements.values() for document in row)
    assert set(data.judgements) == {query.id for query in data.queries}


def test_a_smaller_limit_keeps_a_part_of_what_a_larger_one_keeps(folder: Path) -> None:
    few, many = (
        {document.id for document in beir.load(config(folder, documents=count)).documents}
        for count in (6, 12)
    )
    assert few < many


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"documents": 3}, r"documents = 3 is outside 4 .* to 20"),
        ({"documents": 21}, r"documents = 21 is outside 4 .* to 20"),
        ({"queries": 4}, r"queries = 4 is more than the 3"),
        ({"split": "dev"}, r"split = 'dev'.*splits there: test"),
    ],
)
def test_asking_for_what_is_not_there(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        beir.load(config(folder, **changes))


def appended(name: str, line: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.write(line + "\n")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (appended("corpus.jsonl", "{"), r"corpus.jsonl:21: not JSON"),
        (appended("corpus.jsonl", "[1]"), r"corpus.jsonl:21: list instead of an object"),
        (appended("corpus.jsonl", '{"_id": "x"}'), r"corpus.jsonl:21: no text, only \['_id'\]"),
        (appended("corpus.jsonl", '{"_id": 7, "text": ""}'), r"corpus.jsonl:21: _id = 7"),
        (appended("corpus.jsonl", '{"_id": "d0", "text": ""}'), r"corpus.jsonl:21: _id 'd0' is there twice"),
        (appended("corpus.jsonl", '{"_id": "x", "text": "\\ud800"}'), r"corpus.jsonl:21: text holds half"),
        (appended("queries.jsonl", '{"text": "?"}'), r"queries.jsonl:6: no _id"),
        (appended("qrels/test.tsv", "q0\td99\t1"), r"test.tsv:7: document 'd99' is not in corpus.jsonl"),
        (appended("qrels/test.tsv", "q99\td0\t1"), r"test.tsv:7: query 'q99' is not in queries.jsonl"),
        (appended("qrels/test.tsv", "q0\td0"), r"test.tsv:7: 2 columns; expected 3"),
        (appended("qrels/test.tsv", "q0\td0\thigh"), r"test.tsv:7: score 'high'"),
        (lambda folder: (folder / "qrels/test.tsv").write_text("q0\td0\t1\n"), r"test.tsv:1: header"),
        (lambda folder: (folder / "qrels/test.tsv").write_text(""), r"test.tsv:1: header"),
        (
            lambda folder: (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td0\t0\n"),
            r"no judgement above 0",
        ),
        (lambda folder: (folder / "corpus.jsonl").unlink(), r"corpus.jsonl: No such file"),
        (lambda folder: (folder / "corpus.jsonl").write_bytes(b"\xff\n"), r"corpus.jsonl:1: not JSON"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(UsageError, match=message) as caught:
        beir.load(config(folder))
    assert "\n" not in str(caught.value)


def test_scifact_has_the_published_counts(real_data: Callable[[str], Path]) -> None:
    data = beir.load(config(real_data("scifact")))
    assert (len(data.documents), len(data.queries)) == (5_183, 300)
    assert sum(map(len, data.judgements.values())) == 339
