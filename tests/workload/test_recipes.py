"""Recipes: fetched from a real server, checked, unpacked; refused where anything is not as it says."""

import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.errors import UsageError
from bench.workload import recipes
from bench.workload.recipes import Recipe

FILES = {
    "corpus.jsonl": '{"_id": "d", "title": "T", "text": "t"}\n',
    "queries.jsonl": '{"_id": "q", "text": "?"}\n',
    "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq\td\t1\n",
}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which its files are served."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(timeout=10)
    server.server_close()


def zipped(path: Path, files: dict[str, str], top: str = "tiny/") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(top + name, content)
    return path


def tarred(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
    return path


def sha256(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def recipe(**changes: Any) -> Recipe:
    plain = {
        "name": "tiny",
        "title": "Tiny",
        "kind": "beir",
        "split": "test",
        "licence": "none",
        "source": "here",
    }
    return Recipe.read(json.dumps(plain | changes))


@pytest.fixture
def fetched(tmp_path: Path) -> Path:
    return tmp_path / "datasets"


def test_a_zip_is_fetched_checked_and_unpacked_once(
    served: tuple[Path, str], fetched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, address = served
    archive = zipped(folder / "tiny.zip", FILES)
    tiny = recipe(url=f"{address}/tiny.zip", checksum=sha256(archive), folder="tiny")
    assert not recipes.is_fetched(tiny, fetched)
    data = recipes.fetch(tiny, fetched)
    assert (data / "qrels" / "test.tsv").read_text() == FILES["qrels/test.tsv"]
    assert recipes.is_fetched(tiny, fetched)
    archive.unlink()
    assert recipes.fetch(tiny, fetched) == data
    assert capsys.readouterr() == ("", "")


def test_a_tar_is_unpacked(served: tuple[Path, str], fetched: Path) -> None:
    folder, address = served
    archive = tarred(folder / "tiny.tar.gz", FILES)
    data = recipes.fetch(recipe(url=f"{address}/tiny.tar.gz", checksum=sha256(archive)), fetched)
    assert sorted(path.name for path in data.iterdir()) == ["corpus.jsonl", "qrels", "queries.jsonl"]


def test_another_file_is_left_as_it_is(served: tuple[Path, str], fetched: Path) -> None:
    folder, address = served
    (folder / "set.hdf5").write_bytes(b"content")
    tiny = recipe(kind="hdf5", split=None, url=f"{address}/set.hdf5", checksum=sha256(folder / "set.hdf5"))
    assert recipes.fetch(tiny, fetched).read_bytes() == b"content"


def test_md5_is_understood(served: tuple[Path, str], fetched: Path) -> None:
    folder, address = served
    archive = zipped(folder / "tiny.zip", FILES)
    digest = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    assert recipes.fetch(recipe(url=f"{address}/tiny.zip", checksum=f"md5:{digest}"), fetched).is_dir()


def test_a_wrong_checksum_keeps_nothing(served: tuple[Path, str], fetched: Path) -> None:
    folder, address = served
    zipped(folder / "tiny.zip", FILES)
    tiny = recipe(url=f"{address}/tiny.zip", checksum="sha256:" + "0" * 64)
    with pytest.raises(UsageError, match=r"tiny.zip: not the expected file .*fetch again") as caught:
        recipes.fetch(tiny, fetched)
    assert "\n" not in str(caught.value)
    assert not recipes.is_fetched(tiny, fetched)


def test_a_damaged_file_is_fetched_again(served: tuple[Path, str], fetched: Path) -> None:
    folder, address = served
    archive = zipped(folder / "tiny.zip", FILES)
    tiny = recipe(url=f"{address}/tiny.zip", checksum=sha256(archive))
    recipes.fetch(tiny, fetched)
    kept = fetched / "tiny" / "tiny.zip"
    kept.write_bytes(b"damaged")
    recipes.fetch(tiny, fetched)
    assert kept.read_bytes() == archive.read_bytes()


def test_without_a_checksum_the_first_download_is_trusted_and_then_expected(
    served: tuple[Path, str], fetched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, address = served
    archive = zipped(folder / "tiny.zip", FILES)
    first = sha256(archive)
    tiny = recipe(url=f"{address}/tiny.zip")
    recipes.fetch(tiny, fetched)
    assert f"pin it: {first}" in capsys.readouterr().err
    recipes.fetch(tiny, fetched)
    assert capsys.readouterr().err == ""
    zipped(folder / "tiny.zip", FILES | {"more": "x"})
    (fetched / "tiny" / "tiny.zip").unlink()
    with pytest.raises(UsageError, match="not the expected file"):
        recipes.fetch(tiny, fetched)


def test_a_spoilt_pin_is_not_believed(served: tuple[Path, str], fetched: Path) -> None:
    folder, address = served
    zipped(folder / "tiny.zip", FILES)
    tiny = recipe(url=f"{address}/tiny.zip")
    recipes.fetch(tiny, fetched)
    (fetched / "tiny" / "tiny.zip.sha256").write_text("spoilt")
    with pytest.raises(UsageError, match=r"tiny.zip.sha256: does not begin with a SHA-256"):
        recipes.fetch(tiny, fetched)


@pytest.mark.parametrize("address", [None, "http://127.0.0.1:1"])
def test_a_server_without_the_file_or_no_server(
    served: tuple[Path, str], fetched: Path, address: str | None
) -> None:
    url = f"{address or served[1]}/absent.zip"
    with pytest.raises(
        UsageError, match=rf"{url}: cannot be fetched .*or put the file at .*absent.zip"
    ) as caught:
        recipes.fetch(recipe(url=url), fetched)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("evil.zip", lambda path: zipped(path, {"../evil": "x"}, top="")),
        ("evil.zip", lambda path: zipped(path, {"/evil": "x"}, top="")),
        ("evil.tar.gz", lambda path: tarred(path, {"../evil": "x"})),
        ("broken.zip", lambda path: path.write_bytes(b"PK\x03\x04 and no more")),
        ("broken.tar.gz", lambda path: path.write_bytes(b"not a tar")),
    ],
)
def test_an_archive_that_is_broken_or_reaches_outside_is_refused(
    served: tuple[Path, str], fetched: Path, name: str, write: Callable[[Path], object]
) -> None:
    folder, address = served
    write(folder / name)
    with pytest.raises(UsageError, match=name):
        recipes.fetch(recipe(url=f"{address}/{name}"), fetched)
    assert not list(fetched.rglob("evil"))
    assert not list(fetched.glob("*/.unpacking-*"))


def test_a_folder_that_the_archive_does_not_have(served: tuple[Path, str], fetched: Path) -> None:
    folder, address = served
    zipped(folder / "tiny.zip", FILES)
    with pytest.raises(UsageError, match=r"folder = 'other' is not in tiny.zip; there: tiny"):
        recipes.fetch(recipe(url=f"{address}/tiny.zip", folder="other"), fetched)


def test_data_already_here_is_used_in_place(tmp_path: Path, fetched: Path) -> None:
    tiny = recipe(path=str(tmp_path))
    assert recipes.is_fetched(tiny, fetched)
    assert recipes.fetch(tiny, fetched) == tmp_path
    with pytest.raises(UsageError, match="does not exist"):
        recipes.fetch(recipe(path=str(tmp_path / "absent")), fetched)


def test_the_recipes_that_come_with_the_lab_are_sound(fetched: Path) -> None:
    found = recipes.find_all(fetched)
    assert {"scifact", "nfcorpus", "fiqa", "siftsmall", "sift-128-euclidean"} <= {one.name for one in found}
    assert all(one.url and one.dataset(Path("x")).kind == one.kind for one in found)


def test_a_recipe_beside_the_data_replaces_one_of_the_same_name(fetched: Path) -> None:
    (fetched / "recipes").mkdir(parents=True)
    mine = {"name": "scifact", "title": "Mine", "kind": "npy", "path": "x", "licence": "mine", "source": "me"}
    (fetched / "recipes" / "scifact.yaml").write_text(yaml.safe_dump(mine))
    assert recipes.find("scifact", fetched).title == "Mine"


def test_an_unknown_name_lists_the_known(fetched: Path) -> None:
    with pytest.raises(UsageError, match=r"dataset.name = 'nothing'.*known: .*scifact"):
        recipes.find("nothing", fetched)


GOOD = {"name": "r", "title": "T", "kind": "npy", "url": "https://host/r.npy", "licence": "L", "source": "S"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "r.yaml"),
        ("[1]", "r.yaml"),
        ("url: 2024-01-01", "r.yaml"),
        (GOOD | {"name": "other"}, "name = 'other' is not the file's own name 'r'"),
        (GOOD | {"kind": "csv"}, "kind = 'csv'"),
        (GOOD | {"colour": "red"}, "colour = 'red'"),
        (GOOD | {"url": "file:///etc/passwd"}, "url = 'file"),
        (GOOD | {"path": "/x"}, "exactly one of the two"),
        ({key: value for key, value in GOOD.items() if key != "url"}, "exactly one of the two"),
        (GOOD | {"checksum": "sha256:xyz"}, "checksum = 'sha256:xyz'"),
        (GOOD | {"folder": "../x"}, "leaves the archive"),
        (GOOD | {"split": "test"}, "split: needed for kind beir, and only there"),
        (GOOD | {"kind": "beir"}, "split: needed for kind beir, and only there"),
        (GOOD | {"kind": "beir", "split": "test", "metric": "l2"}, "metric: texts have none"),
        (GOOD | {"url": None, "path": "/x", "folder": "y"}, "only for a url"),
    ],
)
def test_a_malformed_recipe_is_named_with_its_field(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(UsageError, match=message) as caught:
        recipes.read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
