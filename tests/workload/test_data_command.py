"""`python -m bench data`: what it prints, and where."""

import json
from pathlib import Path

import pytest
import yaml

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
