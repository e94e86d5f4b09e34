"""A retrieval corpus from the docstrings of the installed libraries, parsed but never imported.

A document is a docstring without its first line; its query is that first line; the two belong together.
It needs no download, is the same for the same library versions, and reads like real technical text.
"""

from __future__ import annotations

import ast
import gc
import importlib.metadata
import importlib.util
import json
import platform
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.artifacts import Store
from bench.data_config import PydocsConfig
from bench.errors import UsageError
from bench.workload.dataset import TextDataset
from bench.workload.subset import mixed
from brein.records import Document, Query

FORMAT = 1  # of the stored corpus; raise it when what is kept, or how, changes
STANDARD_LIBRARY = "python"
# Importable name → distribution. Chosen for their prose: sympy is mostly formulas, and transformers would add
# seconds of parsing and thousands of docstrings made from one template.
LIBRARIES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "pandas": "pandas",
    "matplotlib": "matplotlib",
    "torch": "torch",
    "networkx": "networkx",
    "PIL": "pillow",
    "fsspec": "fsspec",
    "h5py": "h5py",
    "huggingface_hub": "huggingface_hub",
    "jinja2": "Jinja2",
    "joblib": "joblib",
    "psutil": "psutil",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "requests": "requests",
    "rich": "rich",
    "sentence_transformers": "sentence-transformers",
}
MIN_CHARACTERS = 40  # of a docstring's remainder, to be a document
MIN_WORDS = 4  # of a first line, to be a query
# Folders that hold tests, other people's code, or nothing about the library.
_FOREIGN = frozenset(
    {"dist-packages", "ensurepip", "externals", "idlelib", "lib2to3", "site-packages"}
    | {"test", "tests", "turtledemo", "vendored", "_vendor"}
)
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True)
class Library:
    """Python source under `root`, whose modules are named `<prefix>.…` (no prefix: top level)."""

    name: str
    version: str
    root: Path
    prefix: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One document, and its query where its first line makes one."""

    id: str
    text: str
    query: str | None


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents in the order of their source, and how many files they came from."""

    entries: tuple[Entry, ...]
    files_parsed: int
    files_skipped: int


def load(config: PydocsConfig, store: Store) -> TextDataset:
    """Read the corpus, building it on the first call for these library versions, and apply the limits.

    Documents come in an order that mixes the libraries; queries are those of the kept documents.

    Raises:
        UsageError: more documents or queries are asked for than there are.
    """
    libraries = installed()
    corpus = _stored(libraries, store)
    kept = _limit(corpus.entries, config)
    versions = {library.name: library.version for library in libraries}
    asked = [entry for entry in kept if entry.query is not None][: config.queries]
    if config.queries is not None and len(asked) < config.queries:
        raise UsageError(
            f"dataset.queries = {config.queries} is more than the {len(asked)} that the {len(kept)} kept "
            "documents have; lower it or raise dataset.documents"
        )
    return TextDataset(
        name="pydocs",
        documents=tuple(Document(entry.id, entry.text) for entry in kept),
        queries=tuple(Query(entry.id, entry.query) for entry in asked if entry.query is not None),
        judgements={entry.id: {entry.id: 1} for entry in asked},
        facts={
            "libraries": versions,
            "absent": sorted(set(LIBRARIES) - set(versions)),
            "files_parsed": corpus.files_parsed,
            "files_skipped": corpus.files_skipped,
            "documents_available": len(corpus.entries),
        },
    )


def installed() -> tuple[Library, ...]:
    """Find the standard library and those of `LIBRARIES` that are installed, without importing them."""
    standard = Path(sysconfig.get_path("stdlib"))
    found = [Library(STANDARD_LIBRARY, platform.python_version(), standard, "")]
    for name, distribution in LIBRARIES.items():
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            root = Path(spec.submodule_search_locations[0])
            found.append(Library(name, importlib.metadata.version(distribution), root, name))
    return tuple(found)


def build(libraries: Sequence[Library]) -> Corpus:
    """Parse every library and keep what makes a document.

    The order is that of `libraries`, then of the files' names, then of the lines in a file. Of documents
    with equal text only the first is kept. A first line is a query if it has `MIN_WORDS` words and no other
    docstring begins with it, whatever its case.
    """
    names: Counter[str] = Counter()
    first_lines: Counter[str] = Counter()
    found: dict[str, tuple[str, str]] = {}  # text → id, first line
    parsed = skipped = 0
    for library in libraries:
        for path in _sources(library.root):
            tree = _parse(path)
            if tree is None:
                skipped += 1
                continue
            parsed += 1
            module = _module(path.relative_to(library.root), library.prefix)
            for place, docstring in _docstrings(tree, module):
                first, _, rest = docstring.partition("\n")
                first_lines[_folded(first)] += 1
                names[place] += 1
                text = rest.strip()
                if len(text) >= MIN_CHARACTERS:
                    name = place if names[place] == 1 else f"{place}#{names[place]}"
                    found.setdefault(text, (name, first.strip()))
    entries = tuple(
        Entry(name, text, first if _is_query(first, first_lines) else None)
        for text, (name, first) in found.items()
    )
    return Corpus(entries, parsed, skipped)


def _stored(libraries: Sequence[Library], store: Store) -> Corpus:
    content = {"format": FORMAT, "libraries": {library.name: library.version for library in libraries}}
    folder = store.get_or_build("pydocs", content, lambda folder: _build_into(folder, libraries))
    with (folder / "entries.jsonl").open(encoding="utf-8") as lines:
        entries = tuple(Entry(**json.loads(line)) for line in lines)
    return Corpus(entries, **json.loads((folder / "files.json").read_text(encoding="utf-8")))


def _build_into(folder: Path, libraries: Sequence[Library]) -> None:
    with _without_collector():
        corpus = build(libraries)
    with (folder / "entries.jsonl").open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(asdict(entry)) + "\n" for entry in corpus.entries)
    counts = {"files_parsed": corpus.files_parsed, "files_skipped": corpus.files_skipped}
    (folder / "files.json").write_text(json.dumps(counts), encoding="utf-8")


@contextmanager
def _without_collector() -> Iterator[None]:
    # Syntax trees hold no cycles, but millions of nodes; the collector would take a third of the time.
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _limit(entries: Sequence[Entry], config: PydocsConfig) -> list[Entry]:
    if config.documents is not None and config.documents > len(entries):
        raise UsageError(
            f"dataset.documents = {config.documents} is more than the {len(entries)} docstrings of the "
            "installed libraries; lower it, or null for all"
        )
    by_id = {entry.id: entry for entry in entries}
    return [by_id[name] for name in mixed(by_id)[: config.documents]]


def _sources(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if not (_FOREIGN.intersection(inside.parts) or path.name.startswith(("test_", "conftest"))):
            yield path


def _parse(path: Path) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes and the like in other people's code
            return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
        return None


def _module(inside: Path, prefix: str) -> str:
    parts = inside.with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join((prefix, *parts) if prefix else parts)


def _docstrings(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    """Yield (module or module:qualname, docstring) of the module and all it defines, in order."""
    if docstring := _docstring(tree):
        yield module, docstring
    for qualname, definition in _definitions(tree, ""):
        if docstring := _docstring(definition):
            yield f"{module}:{qualname}", docstring


def _docstring(node: ast.Module | _Definition) -> str:
    # A lone surrogate, written as an escape, can be neither stored as UTF-8 nor tokenised.
    return (ast.get_docstring(node) or "").encode("utf-8", "ignore").decode("utf-8")


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, _Definition]]:
    for part in ("body", "handlers", "orelse", "finalbody"):  # definitions under if, try and with count too
        for child in getattr(node, part, ()):
            if isinstance(child, _Definition):
                yield prefix + child.name, child
                inner = "." if isinstance(child, ast.ClassDef) else ".<locals>."
                yield from _definitions(child, prefix + child.name + inner)
            else:
                yield from _definitions(child, prefix)


def _is_query(first: str, first_lines: Counter[str]) -> bool:
    return len(first.split()) >= MIN_WORDS and first_lines[_folded(first)] == 1


def _folded(line: str) -> str:
    return line.strip().casefold()
