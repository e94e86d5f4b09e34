"""`python -m bench data`: what it prints, and where."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from bench import artifacts, config
from bench.artifacts import Store
from bench.commands import data
from bench.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipes").mkdir()
    mine = {
        "name": "mine",
        "title": "Mine",
        "kind": "npy",
        "path": str(tmp_path),
        "licence": "L",
        "source": "S",
    }
    (tmp_path / "recipes" / "mine.yaml").write_text(yaml.safe_dump(mine))
    return tmp_path


def test_list_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main(["list", "--json", "--folder", str(folder)]) == 0
    out, err = capsys.readouterr()
    found = {row["name"]: row for row in json.loads(out)["recipes"]}
    assert err == ""
    assert (found["mine"]["fetched"], found["scifact"]["fetched"]) == (True, False)
    assert set(found["mine"]) == {"name", "title", "kind", "licence", "source", "checksum", "fetched"}


def test_list_as_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main(["list", "--folder", str(folder)]) == 0
    out, _ = capsys.readouterr()
    assert "mine" in out
    assert "scifact" in out


def test_fetch_prints_the_path(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main(["fetch", "mine", "--folder", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}\n"


def test_fetch_of_an_unknown_recipe(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"known: .*mine.*scifact"):
        data.main(["fetch", "nothing", "--folder", str(folder)])


@pytest.fixture(autouse=True)
def _nothing_stays_held() -> Iterator[None]:
    yield
    forget()


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A folder of artifacts, one of 100 bytes last used an hour ago and one of 50 ten days ago, in no use."""
    for kind, size, hours in (("indexes", 100, 1), ("truth", 50, 240)):
        content = {"index": {"kind": "IndexHNSW", "M": 32}, "rows": 7, "vectors": "ab" * 16, "format": 1}
        folder = Store(tmp_path).get_or_build(kind, content, fill(size))
        used = time.time() - 3600 * hours
        os.utime(folder / "artifact.json", (used, used))
    forget()
    return tmp_path


def fill(size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / "data").write_bytes(bytes(size)) and None


def forget() -> None:
    for descriptor in artifacts._held.values():
        os.close(descriptor)
    artifacts._held.clear()


def kinds(root: Path) -> list[str]:
    return [one.kind for one in Store(root).stored()]


def test_list_says_what_artifacts_are_made_of(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main(["list", "--json", f"paths.artifacts={stored}"]) == 0
    index, truth = json.loads(capsys.readouterr().out)["artifacts"]
    assert (index["kind"], truth["kind"]) == ("indexes", "truth")
    assert index["what"] == "IndexHNSW M 32, rows 7, vectors abababab"
    assert (index["bytes"], index["in_use"], index["damage"]) == (100, False, None)
    (Path(truth["folder"]) / "data").unlink()
    Store(stored).get_or_build("indexes", {}, fill(3))
    data.main(["list", f"paths.artifacts={stored}"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "in use" in shown
    assert "damaged" in shown


@pytest.mark.parametrize(
    ("arguments", "stay"),
    [
        ([], ["indexes", "truth"]),
        (["--all", "--dry-run"], ["indexes", "truth"]),
        (["--all", "--kind", "truth"], ["indexes"]),
        (["--older-than", "2d"], ["indexes"]),
        (["--max-bytes", "0.1kB"], ["indexes"]),
        (["artifacts.max_bytes=99"], []),
    ],
)
def test_prune_removes_what_is_asked_for(stored: Path, arguments: list[str], stay: list[str]) -> None:
    assert data.main(["prune", *arguments, f"paths.artifacts={stored}"]) == 0
    assert kinds(stored) == stay


def test_prune_says_what_went_and_what_stays_and_why(
    stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Store(stored).get_or_build("things", {}, fill(3))
    data.main(["prune", "--all", f"paths.artifacts={stored}"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:2]] == ["truth", "indexes"]
    assert lines[2:] == ["kept 1 of 3.00 B: in use", "removed 2 of 150 B in all"]
    assert folder.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--max-bytes", "much"], r"--max-bytes: 'much' is not a size, such as 500MB or 5GiB; units: B, kB"),
        (["--older-than", "30"], r"'30' is not an age, such as 12h or 30d; units: s, m, h, d, w"),
        (["--max-bytes", "1B", "--all"], "--all: not allowed with argument --max-bytes"),
        (["artifacts.max_bytes=-1"], "artifacts.max_bytes = -1"),
    ],
)
def test_prune_refuses_what_it_does_not_understand(arguments: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        data.main(["prune", *arguments])


BUILT = ["suites=[memory]", "suite.memory.parts=[search]", "index=flat"]


@pytest.mark.slow
def test_build_makes_what_a_run_needs_and_measures_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["build", *BUILT, "dataset=synthetic", "dataset.vectors=300", "dataset.queries=20"]
    arguments += ["dataset.clusters=5", "dataset.dimension=16", "dataset.intrinsic_dimension=4"]
    assert data.main(arguments) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["vectors", "indexes", "truth"]
    assert all(Path(line.split(": ")[1]).is_dir() for line in out.splitlines())
    assert err.count("build ") == 3
    assert {path.name for path in tmp_path.iterdir()} == {"datasets"}
    data.main(arguments)
    assert "build " not in capsys.readouterr().err
    assert data.make(config.from_overrides(arguments[1:]), lambda text: None)[0].kind == "vectors"
