"""The docstring corpus: on a small library made here, and on the installed ones."""

import sys
from pathlib import Path

import pytest

from bench.artifacts import Store
from bench.data_config import PydocsConfig
from bench.errors import UsageError
from bench.workload import pydocs
from bench.workload.pydocs import Corpus, Library

LONG = "It goes on for long enough to be a document of the corpus."


def config(documents: int | None = None, queries: int | None = None) -> PydocsConfig:
    return PydocsConfig(documents=documents, queries=queries, max_tokens=None, memory_vectors=None)


def library(root: Path, files: dict[str, str], prefix: str = "lib") -> Library:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return Library(name=prefix or "python", version="1.0", root=root, prefix=prefix)


def docstring(first: str, rest: str = LONG) -> str:
    return f'"""{first}\n\n{rest}\n"""'


def function(name: str, first: str, rest: str = LONG) -> str:
    return f"def {name}():\n    {docstring(first, rest)}\n"


def by_id(corpus: Corpus) -> dict[str, tuple[str, str | None]]:
    return {entry.id: (entry.text, entry.query) for entry in corpus.entries}


def test_a_docstring_becomes_a_document_and_its_first_line_the_query(tmp_path: Path) -> None:
    lib = library(tmp_path, {"__init__.py": docstring("What this library is for.", LONG)})
    assert by_id(pydocs.build([lib])) == {"lib": (LONG, "What this library is for.")}


def test_ids_name_module_and_qualified_name(tmp_path: Path) -> None:
    source = (
        "class A:\n    class B:\n"
        f"        def f(self):\n            {docstring('One method in a class.', LONG + ' 1')}\n"
        f"            def g():\n                {docstring('One function in a method.', LONG + ' 2')}\n"
        f"try:\n    async def h():\n        {docstring('One coroutine under a try.', LONG + ' 3')}\n"
        f"except Exception:\n    def h():\n        {docstring('Another one under an except.', LONG + ' 4')}\n"
    )
    lib = library(tmp_path, {"sub/__init__.py": "", "sub/mod.py": source})
    assert list(by_id(pydocs.build([lib]))) == [
        "lib.sub.mod:A.B.f",
        "lib.sub.mod:A.B.f.<locals>.g",
        "lib.sub.mod:h",
        "lib.sub.mod:h#2",
    ]


def test_the_standard_library_has_no_prefix(tmp_path: Path) -> None:
    lib = library(tmp_path, {"json/tool.py": docstring("A tool for the shell.")}, prefix="")
    assert list(by_id(pydocs.build([lib]))) == ["json.tool"]


def test_a_first_line_used_twice_is_no_query_even_where_one_is_too_short_to_be_a_document(
    tmp_path: Path,
) -> None:
    source = (
        function("f", "Return the number of items.", LONG + " 1")
        + function("g", "return the NUMBER of items.", "Short.")
        + function("h", "Return three words", LONG + " 2")
        + function("i", "Return the other items.", LONG + " 3")
    )
    found = by_id(pydocs.build([library(tmp_path, {"m.py": source})]))
    assert {name: query for name, (_, query) in found.items()} == {
        "lib.m:f": None,
        "lib.m:h": None,
        "lib.m:i": "Return the other items.",
    }


def test_of_equal_documents_the_first_is_kept(tmp_path: Path) -> None:
    files = {
        "b.py": function("f", "Second by the name of its file."),
        "a.py": function("f", "First by the name of its file."),
    }
    assert list(by_id(pydocs.build([library(tmp_path, files)]))) == ["lib.a:f"]


def test_a_document_needs_forty_characters(tmp_path: Path) -> None:
    source = function("f", "The longer of the two.", "x" * 40) + function(
        "g", "The shorter of the two.", "x" * 39
    )
    assert list(by_id(pydocs.build([library(tmp_path, {"m.py": source})]))) == ["lib.m:f"]


def test_tests_and_other_peoples_code_are_left_out(tmp_path: Path) -> None:
    names = ["tests/m.py", "_vendor/m.py", "site-packages/m.py", "test_m.py", "conftest.py"]
    assert pydocs.build([library(tmp_path, dict.fromkeys(names, docstring("Not part of it.")))]).entries == ()


def test_files_that_do_not_parse_are_counted_and_warn_nobody(tmp_path: Path) -> None:
    files = {
        "bad.py": "def f(:",
        "null.py": "\0",
        "odd.py": 'x = "\\d"\nx is 1\n',
        "good.py": docstring("One two three four."),
    }
    corpus = pydocs.build([library(tmp_path, files)])
    assert (corpus.files_parsed, corpus.files_skipped) == (2, 2)
    assert list(by_id(corpus)) == ["lib.good"]


def test_nothing_is_imported(tmp_path: Path) -> None:
    lib = library(tmp_path, {"__init__.py": docstring("Never run by the corpus.") + "\nraise SystemExit"})
    assert len(pydocs.build([lib]).entries) == 1


def test_half_of_a_surrogate_pair_is_dropped(tmp_path: Path) -> None:
    lib = library(tmp_path, {"m.py": docstring("One odd character here.", LONG + r" \ud800.")})
    assert by_id(pydocs.build([lib]))["lib.m"][0] == LONG + " ."


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    source = "".join(function(f"f{i}", f"Query number {i} of all.", f"{LONG} {i}") for i in range(50))
    source += "".join(function(f"g{i}", "Short.", f"{LONG} g{i}") for i in range(50))
    lib = library(tmp_path / "lib", {"m.py": source})
    monkeypatch.setattr(pydocs, "installed", lambda: (lib,))
    return Store(tmp_path / "artifacts")


def test_every_query_has_its_document(small: Store) -> None:
    data = pydocs.load(config(documents=40), small)
    kept = {document.id for document in data.documents}
    assert len(data.documents) == 40
    assert data.queries
    assert all(data.judgements[query.id] == {query.id: 1} and query.id in kept for query in data.queries)


def test_a_smaller_limit_keeps_a_part_of_what_a_larger_one_keeps(small: Store) -> None:
    few, many = pydocs.load(config(20, 5), small), pydocs.load(config(60, 10), small)
    assert few.documents == many.documents[:20]
    assert few.queries == many.queries[:5]


@pytest.mark.parametrize(("limits", "field"), [((101, None), "documents = 101"), ((100, 51), "queries = 51")])
def test_asking_for_more_than_there_is(small: Store, limits: tuple[int, int | None], field: str) -> None:
    with pytest.raises(UsageError, match=field):
        pydocs.load(config(*limits), small)


def test_the_corpus_is_built_once(small: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pydocs.load(config(), small)
    monkeypatch.setattr(pydocs, "build", lambda _: pytest.fail("built again"))
    assert pydocs.load(config(), small).sha256 == first.sha256


def test_facts_name_versions_and_what_is_absent(small: Store) -> None:
    facts = pydocs.load(config(documents=1), small).facts
    assert facts["libraries"] == {"lib": "1.0"}
    assert "numpy" in facts["absent"]
    assert (facts["files_parsed"], facts["files_skipped"], facts["documents_available"]) == (1, 0, 100)


def test_libraries_are_found_without_importing_them() -> None:
    before = set(sys.modules)
    found = {library.name: library for library in pydocs.installed()}
    assert found["torch"].root.is_dir()
    assert found["python"].prefix == ""
    assert not {"torch", "transformers"} & (set(sys.modules) - before)


@pytest.mark.slow
def test_the_installed_libraries_make_a_corpus_worth_searching(tmp_path: Path) -> None:
    first, second = (pydocs.load(config(), Store(tmp_path / name)) for name in ("one", "two"))
    assert first.sha256 == second.sha256
    assert len(first.documents) >= 5_000
    assert len(first.queries) >= 1_000
    assert len({document.id for document in first.documents}) == len(first.documents)
    assert len({query.text.casefold() for query in first.queries}) == len(first.queries)
    assert {"numpy", "scipy", "torch", "python"} <= set(first.facts["libraries"])
