"""A saved index is whole or refused; a save that fails or dies leaves the one before."""

import errno
import hashlib
import json
import os
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from brein import index
from brein.errors import StorageError
from brein.index import snapshot
from brein.index.flat import FlatConfig
from brein.index.hnsw import HNSWConfig
from brein.index.pq import PQFastScanConfig
from brein.index.refined import RefineConfig

FACTS = {"size": 3}


class Killed(BaseException):
    """The process ends here: nothing after it runs."""


def write_two(folder):
    (folder / "part").mkdir()
    (folder / "part" / "a").write_bytes(b"first")
    (folder / "b").write_bytes(b"second")


def files_under(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def saved(tmp_path):
    snapshot.write(tmp_path, FACTS, write_two)
    return tmp_path


def test_what_was_written_is_read(saved):
    facts, source = snapshot.read(saved)
    assert facts == FACTS
    assert (source / "part" / "a").read_bytes() == b"first"
    assert (source / "b").read_bytes() == b"second"


def test_a_new_version_takes_the_place_of_the_old(saved):
    before = len(files_under(saved))
    snapshot.write(saved, {"size": 4}, write_two)
    assert snapshot.read(saved)[0] == {"size": 4}
    assert len(files_under(saved)) == before


def test_what_else_lies_in_the_folder_stays(saved):
    (saved / "photographs").mkdir()
    (saved / "photographs" / "one").write_text("dear to somebody")
    (saved / "notes").write_text("likewise")
    snapshot.write(saved, FACTS, write_two)
    assert (saved / "photographs" / "one").read_text() == "dear to somebody"
    assert (saved / "notes").read_text() == "likewise"


def test_every_changed_byte_and_every_cut_is_refused(saved):
    for path in files_under(saved):
        whole = path.read_bytes()
        for place in range(len(whole)):
            flipped = bytes([whole[place] ^ 1])
            for damaged in (whole[:place] + flipped + whole[place + 1 :], whole[:place]):
                if damaged.split() == whole.split():
                    continue  # another kind of space means the same
                path.write_bytes(damaged)
                with pytest.raises(StorageError, match="rebuild"):
                    snapshot.read(saved)
        path.write_bytes(whole)
    assert snapshot.read(saved)[0] == FACTS


@pytest.mark.parametrize("name", ["CURRENT", "manifest.json", "a", "b"])
def test_a_missing_file_is_refused(saved, name):
    (path,) = (path for path in files_under(saved) if path.name == name)
    path.unlink()
    with pytest.raises(StorageError, match="rebuild"):
        snapshot.read(saved)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"../.. 0000\n", b"an index\n", b"{}"])
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "CURRENT").write_bytes(content)
    with pytest.raises(StorageError, match="rebuild"):
        snapshot.read(tmp_path)


@pytest.mark.parametrize(
    "manifest",
    [{"format": 1}, {"format": 3, "facts": {}, "files": {}}, {}, [], None, {"format": 2, "files": 7}],
)
def test_another_format_is_refused(saved, manifest):
    version = (saved / "CURRENT").read_text().split()[0]
    data = json.dumps(manifest).encode()
    (saved / version / "manifest.json").write_bytes(data)
    (saved / "CURRENT").write_text(f"{version} {hashlib.sha256(data).hexdigest()}\n")
    with pytest.raises(StorageError, match="rebuild"):
        snapshot.read(saved)


def test_a_folder_that_never_held_an_index_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(StorageError, match="rebuild"):
            index.load(FlatConfig(), folder)


def test_an_index_saved_before_versions_is_refused(tmp_path):
    (tmp_path / "index.faiss").write_bytes(b"IxFI")
    (tmp_path / "index.json").write_text('{"format": 1}')
    with pytest.raises(StorageError, match="rebuild"):
        index.load(FlatConfig(), tmp_path)


def test_a_size_that_disagrees_is_refused(tmp_path):
    made = index.create(FlatConfig(), 4)
    made.add(["a"], np.ones((1, 4), np.float32))
    facts = {"tag": "", "dimension": 4, "build": made.config.build_parameters, "size": 7}

    def fill(folder):
        facts["content"] = made.write(folder)

    snapshot.write(tmp_path, facts, fill)
    with pytest.raises(StorageError, match="1 vectors, expected 7; rebuild"):
        index.load(FlatConfig(), tmp_path)


def test_an_unwritable_folder_is_an_error(tmp_path):
    made = index.create(FlatConfig(), 4)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        index.save(made, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), Killed()], ids=["error", "kill"]
)
@pytest.mark.parametrize(
    "config",
    [
        FlatConfig(),
        HNSWConfig(shards=3),
        RefineConfig(first=PQFastScanConfig(M=8), clusters=8),
        RefineConfig(first=PQFastScanConfig(M=8), place="disk", memory_map=True),
    ],
    ids=["flat", "hnsw-3", "refined", "refined_disk"],
)
def test_a_save_that_fails_at_any_step_leaves_one_whole_index(config, failure, tmp_path, monkeypatch):
    """Every fsync, rename and opening of a file fails in turn, or is where the process ends."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(300, 16)).astype(np.float32)
    ids = [str(row) for row in range(300)]
    made = index.create(config, 16)
    made.add(ids[:280], rows[:280])
    index.save(made, tmp_path, "old")
    old = made.search(rows[:5], 5).ids
    made.add(ids[280:], rows[280:])
    new = made.search(rows[:5], 5).ids

    def fail_at(step):
        steps = count()

        def failing(real):
            def step_or_failure(*given, **named):
                if next(steps) == step:
                    raise failure
                return real(*given, **named)

            return step_or_failure

        monkeypatch.setattr(os, "fsync", failing(os.fsync))
        monkeypatch.setattr(os, "mkdir", failing(os.mkdir))
        monkeypatch.setattr(Path, "replace", failing(Path.replace))
        monkeypatch.setattr(Path, "open", failing(Path.open))

    for step in count():
        fail_at(step)
        try:
            index.save(made, tmp_path, "new")
        except (StorageError, Killed):
            pass
        else:
            break
        finally:
            monkeypatch.undo()
        try:
            assert index.load(config, tmp_path, "old").search(rows[:5], 5).ids == old
        except StorageError:  # it failed after the new one was made current
            assert index.load(config, tmp_path, "new").search(rows[:5], 5).ids == new
    assert step > 10
    assert index.load(config, tmp_path, "new").search(rows[:5], 5).ids == new
    leftovers = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(leftovers) == 1, "what failed saves left is removed by the next that succeeds"


def test_a_full_disk_leaves_no_draft_that_fills_it_further(saved):
    def fill(folder):
        (folder / "half").write_bytes(b"x" * 1000)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = files_under(saved)
    for error in (
        fill,
        lambda folder: (_ for _ in ()).throw(StorageError("the quantiser cannot be written")),
    ):
        with pytest.raises(StorageError, match="cannot be written"):
            snapshot.write(saved, FACTS, error)
        assert files_under(saved) == before
