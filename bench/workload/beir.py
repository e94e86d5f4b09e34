"""A BEIR folder: corpus.jsonl, queries.jsonl and qrels/<split>.tsv (Thakur et al., NeurIPS 2021)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.data_config import BeirConfig
from bench.errors import UsageError
from bench.workload.dataset import TextDataset
from bench.workload.subset import mixed
from brein.records import Document, Query

_HEADER = ["query-id", "corpus-id", "score"]
Judgements = Mapping[str, Mapping[str, int]]


def load(config: BeirConfig) -> TextDataset:
    """Read the folder and apply the limits.

    A document's text is its title, a space and its text; one without any is left out, and stays missing
    where a judgement names it. Only queries with a judgement above 0 in the
    split are kept. A limit on documents keeps those that the kept queries' judgements name, then others.
    Documents and queries come in an order that depends on their ids alone.

    Raises:
        UsageError: a file is missing or malformed (named with its line), or more is asked for than there is.
    """
    texts = _documents(config.path / "corpus.jsonl")
    questions = _queries(config.path / "queries.jsonl")
    judgements = _judgements(_split(config), texts, questions)
    asked = _kept_queries(judgements, config)
    kept = _kept_documents(texts, {name: judgements[name] for name in asked}, config)
    return TextDataset(
        name=config.path.resolve().name,
        documents=tuple(Document(name, texts[name]) for name in kept if texts[name].strip()),
        queries=tuple(Query(name, questions[name]) for name in asked),
        judgements={name: judgements[name] for name in asked},
        facts={
            "split": config.split,
            "documents_available": len(texts),
            "documents_empty": sum(not texts[name].strip() for name in kept),
        },
    )


def _documents(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for where, row in _rows(path):
        title = _text(row, "title", where) if "title" in row else ""
        _add(found, row, f"{title} {_text(row, 'text', where)}".strip(), where)
    return found


def _queries(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for where, row in _rows(path):
        _add(found, row, _text(row, "text", where), where)
    return found


def _add(found: dict[str, str], row: Mapping[str, Any], text: str, where: str) -> None:
    name = _text(row, "_id", where)
    if name in found:
        raise UsageError(f"{where}: _id {name!r} is there twice; keep one of them")
    found[name] = text


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in _lines(path):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where}: not JSON ({error}); expected one object a line") from None
        if not isinstance(row, dict):
            raise UsageError(
                f"{where}: {type(row).__name__} instead of an object; expected one object a line"
            )
        yield where, row


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        found = f"{key} = {value!r}" if key in row else f"no {key}, only {sorted(row)}"
        raise UsageError(f"{where}: {found}; every line needs {key!r} as text")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise UsageError(f"{where}: {key} holds half of a surrogate pair; write it as valid Unicode")
    return value


def _split(config: BeirConfig) -> Path:
    path = config.path / "qrels" / f"{config.split}.tsv"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in path.parent.glob("*.tsv"))) or "none"
        raise UsageError(f"dataset.split = {config.split!r}: no file {path}; splits there: {there}")
    return path


def _judgements(path: Path, texts: Mapping[str, str], questions: Mapping[str, str]) -> Judgements:
    found: dict[str, dict[str, int]] = {}
    lines = _lines(path)
    _, header = next(lines, (1, b""))
    if _cells(header) != _HEADER:
        raise UsageError(f"{path}:1: header {_cells(header)}; expected {_HEADER}, separated by tabs")
    for number, line in lines:
        query, document, relevance = _judgement(line, f"{path}:{number}")
        if query not in questions:
            raise UsageError(f"{path}:{number}: query {query!r} is not in queries.jsonl; fetch the set again")
        if document not in texts:
            raise UsageError(
                f"{path}:{number}: document {document!r} is not in corpus.jsonl; fetch the set again"
            )
        if relevance > 0:
            found.setdefault(query, {})[document] = relevance
    if not found:
        raise UsageError(f"{path}: no judgement above 0; choose another split")
    return found


def _judgement(line: bytes, where: str) -> tuple[str, str, int]:
    cells = _cells(line)
    if len(cells) != len(_HEADER):
        raise UsageError(f"{where}: {len(cells)} columns; expected {len(_HEADER)}, separated by tabs")
    try:
        return cells[0], cells[1], int(cells[2])
    except ValueError:
        raise UsageError(f"{where}: score {cells[2]!r} is not a whole number; correct it") from None


def _cells(line: bytes) -> list[str]:
    return line.decode("utf-8", "replace").rstrip("\r\n").split("\t")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; dataset.path must be a BEIR folder") from None


def _kept_queries(judgements: Judgements, config: BeirConfig) -> list[str]:
    if config.queries is not None and config.queries > len(judgements):
        raise UsageError(
            f"dataset.queries = {config.queries} is more than the {len(judgements)} with judgements in split "
            f"{config.split!r}; lower it, or null for all"
        )
    return mixed(judgements)[: config.queries]


def _kept_documents(texts: Mapping[str, str], judgements: Judgements, config: BeirConfig) -> list[str]:
    if config.documents is None:
        return mixed(texts)
    judged = {document for row in judgements.values() for document in row}
    if not len(judged) <= config.documents <= len(texts):
        raise UsageError(
            f"dataset.documents = {config.documents} is outside {len(judged)} (those that the kept "
            f"queries' judgements name) to {len(texts)} (all); change it, or lower dataset.queries"
        )
    others = [name for name in mixed(texts) if name not in judged]
    return mixed(judged.union(others[: config.documents - len(judged)]))
