"""The files of a store: foreign, damaged and older ones, a full disk, other shards, a crash at any step."""

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from brein import storage
from brein.errors import StorageError
from brein.records import Document
from brein.storage import SQLiteStore, StorageConfig

PLAIN = StorageConfig()
BY_ID = StorageConfig(shards=3)
BY_USER = StorageConfig(shards=4, shard_key="user_id")
LAYOUTS = pytest.mark.parametrize("config", [PLAIN, BY_ID, BY_USER], ids=["plain", "by id", "by user"])
COUNT = 60


def fill(store, first=0, count=COUNT):
    documents = [
        Document(f"{n:04}", f"text {n}", {"user_id": f"u{n % 9}", "n": n})
        for n in range(first, first + count)
    ]
    store.add(documents, np.arange(first, first + count, dtype=np.float32)[:, None], "space")


def filled(folder, config):
    with closing(storage.create(config, folder)) as store:
        fill(store)
        return store.identity, store.version


def check(store, count=COUNT):
    """Everything that `fill` stored is there, once, with its text, metadata and vector."""
    ids, vectors = store.vectors()
    assert ids == [f"{n:04}" for n in range(count)]
    assert vectors[:, 0].tolist() == list(range(count))
    assert store.query(["text", "metadata.n"]) == [(f"text {n}", n) for n in range(count)]
    assert len(store.find({"user_id": "u4"})) == len(range(4, count, 9))
    assert store.space == "space"


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- what is not ours, not whole, or older -----------------------------------------------------------------


@LAYOUTS
def test_a_store_opens_again_as_it_was(config, tmp_path):
    facts = filled(tmp_path, config)
    with closing(storage.create(config, tmp_path)) as store:
        check(store)
        assert (store.identity, store.version) == facts


def test_the_files_are_where_they_are_documented_to_be(tmp_path):
    filled(tmp_path / "plain", PLAIN)
    assert files(tmp_path / "plain") == ["documents.sqlite"]
    filled(tmp_path / "sharded", BY_ID)
    manifest = json.loads((tmp_path / "sharded" / "documents" / "manifest.json").read_text())
    assert files(tmp_path / "sharded") == sorted(
        ["documents/manifest.json", *(f"documents/{manifest['folder']}/shard-0{n}.sqlite" for n in range(3))]
    )


def test_a_file_that_is_not_ours_is_refused_and_left_alone(tmp_path):
    text, foreign, newer = (tmp_path / name for name in ("text", "foreign", "newer"))
    text.write_text("not a database, " * 100)
    for path, version in ((foreign, 1), (newer, 0)):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE things (x)")
            connection.execute(f"PRAGMA user_version = {version}")
    with closing(SQLiteStore(PLAIN, tmp_path / "ours")):
        pass
    newer.write_bytes((tmp_path / "ours").read_bytes())
    with closing(sqlite3.connect(newer)) as connection:
        connection.execute("PRAGMA user_version = 4")
    for path, reason in (
        (text, "text: file is not a database"),
        (foreign, "has document format 1 of application 0x0, expected 3 of"),
        (newer, "has document format 4 of"),
    ):
        before = path.read_bytes()
        with pytest.raises(StorageError, match=reason):
            SQLiteStore(PLAIN, path)
        assert path.read_bytes() == before
    assert not list(tmp_path.glob("*-wal"))


@pytest.mark.parametrize("kept", [0, 1, 50, 100, 4095, 4096, 8192, 20_000])
def test_a_truncated_file_is_refused(kept, tmp_path):
    filled(tmp_path, PLAIN)
    path = tmp_path / "documents.sqlite"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StorageError, match=r"documents\.sqlite: (truncated|file is not|database disk image)"):
        storage.create(PLAIN, tmp_path)


def test_a_missing_swapped_or_foreign_shard_is_refused(tmp_path):
    filled(tmp_path / "a", BY_ID)
    filled(tmp_path / "b", BY_ID)
    (zero, one, two), (other, *_) = (sorted(tmp_path.glob(f"{name}/documents/*/*.sqlite")) for name in "ab")
    aside = two.rename(tmp_path / "aside")
    with pytest.raises(StorageError, match=r"shard-02\.sqlite is missing; restore a backup"):
        storage.create(BY_ID, tmp_path / "a")
    shutil.copy(one, two)
    with pytest.raises(StorageError, match=r"shard-02\.sqlite is .*/1, expected .*/2"):
        storage.create(BY_ID, tmp_path / "a")
    aside.rename(two)
    shutil.copy(other, zero)
    with pytest.raises(StorageError, match=r"shard-00\.sqlite is .*/0, expected .*/0"):
        storage.create(BY_ID, tmp_path / "a")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is damaged"),
        (b"\xff", "is damaged"),
        (b"[]", "is damaged"),
        (b'{"format": 9, "identity": "x", "shards": 3, "folder": "0123456789abcdef"}', "has format 9"),
        (b'{"format": 2, "identity": "x", "shards": 3, "folder": "../../elsewhere"}', "folder = "),
        (b'{"format": 2, "identity": "x", "shards": 0, "folder": "0123456789abcdef"}', "shards = 0"),
        (None, "manifest.json is missing; restore a backup"),
    ],
)
def test_a_damaged_manifest_is_refused_and_the_shards_left_alone(content, reason, tmp_path):
    filled(tmp_path, BY_ID)
    manifest = tmp_path / "documents" / "manifest.json"
    good = manifest.read_bytes()
    manifest.unlink() if content is None else manifest.write_bytes(content)
    with pytest.raises(StorageError, match=reason):
        storage.create(BY_ID, tmp_path)
    manifest.write_bytes(good)
    with closing(storage.create(BY_ID, tmp_path)) as store:
        check(store)


def test_the_log_of_a_file_that_is_gone_is_not_applied_to_a_new_one(tmp_path):
    store = storage.create(PLAIN, tmp_path)
    fill(store)
    log = (tmp_path / "documents.sqlite-wal").read_bytes()
    store.close()
    (tmp_path / "documents.sqlite").unlink()
    (tmp_path / "documents.sqlite-wal").write_bytes(log)
    with closing(storage.create(PLAIN, tmp_path)) as again:
        assert len(again) == 0
        fill(again)
        check(again)


def format_1(path):
    """A file as format 1 wrote it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            """
            PRAGMA journal_mode = WAL;
            CREATE TABLE documents (
                id TEXT PRIMARY KEY, text TEXT NOT NULL, metadata TEXT NOT NULL, vector BLOB NOT NULL
            ) WITHOUT ROWID;
            CREATE TABLE facts (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
            INSERT INTO facts VALUES ('generation', 7), ('space', 'space');
            PRAGMA user_version = 1;
            """
        )
        for n in range(COUNT):
            metadata = {"user_id": f"u{n % 9}", "n": n, "list": [n], "null": None}
            vector = np.float32(n).tobytes()
            connection.execute(
                "INSERT INTO documents VALUES (?, ?, ?, ?)",
                (f"{n:04}", f"text {n}", json.dumps(metadata), vector),
            )
        connection.commit()


def test_a_file_of_format_1_is_migrated(tmp_path):
    format_1(tmp_path / "documents.sqlite")
    for _ in range(2):
        with closing(storage.create(PLAIN, tmp_path)) as store:
            check(store)
            assert store.get("0003").metadata == {"user_id": "u3", "n": 3, "list": [3], "null": None}
            assert store.find({"list": None, "n": {"lt": 2}}) == ["0000", "0001"]
            assert store.version.startswith("8-")
            assert len(store.identity) == 32
            assert [id_ for id_, _ in store.match("17 text", 1)] == ["0017"]


@pytest.mark.parametrize("config", [PLAIN, BY_ID], ids=["plain", "by id"])
def test_files_of_format_2_are_migrated_and_keep_their_version(config, tmp_path):
    filled(tmp_path, config)
    with closing(storage.create(config, tmp_path)) as store:
        version = store.version
    for path in tmp_path.rglob("*.sqlite"):
        format_2(path)
    for path in tmp_path.rglob("manifest.json"):
        path.write_text(path.read_text().replace('"format":3', '"format":2'))
    for _ in range(2):
        with closing(storage.create(config, tmp_path)) as store:
            check(store)
            assert store.version == version
            assert [id_ for id_, _ in store.match("17", 5)] == ["0017"]


def format_2(path):
    """Make a file what format 2 was: without numbers and words."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            """
            CREATE TABLE old (
                id TEXT PRIMARY KEY NOT NULL, text TEXT NOT NULL, metadata TEXT NOT NULL, vector BLOB NOT NULL
            );
            INSERT INTO old SELECT id, text, metadata, vector FROM documents;
            DROP TABLE documents; DROP TABLE words;
            ALTER TABLE old RENAME TO documents;
            PRAGMA user_version = 2;
            """
        )


def test_a_migration_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "documents.sqlite"
    format_1(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE VIEW old AS SELECT 1")  # the name the migration needs
        connection.commit()
        before = list(connection.iterdump())
    with pytest.raises(StorageError, match="already another table"):
        storage.create(PLAIN, tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        assert list(connection.iterdump()) == before


@pytest.mark.parametrize("config", [PLAIN, BY_ID], ids=["plain", "by id"])
def test_a_folder_that_cannot_be_used_is_named(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file.*check the path"):
        storage.create(config, tmp_path / "file" / "store")
    with closing(storage.create(config, None)) as store, pytest.raises(StorageError, match="check the path"):
        store.backup(tmp_path / "file" / "backup")


# --- a full disk -------------------------------------------------------------------------------------------


@contextmanager
def files_of_at_most(size):
    """Writes past `size` bytes of any file fail, as they do on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@LAYOUTS
@pytest.mark.parametrize("room", [0, 20_000, 300_000])
def test_a_full_disk_is_an_error_and_no_damage(config, room, tmp_path):
    """Python ignores SIGXFSZ, so a file over the limit is an error of the write."""
    with closing(storage.create(config, tmp_path)) as store:
        fill(store)
        large = [Document(f"{n}", "x" * 40_000, {"user_id": f"{n}"}) for n in range(100)]
        with (
            files_of_at_most(max(path.stat().st_size for path in tmp_path.rglob("*sqlite*")) + room),
            pytest.raises(StorageError, match="check the path, its permissions and the disk"),
        ):
            store.add(large, np.ones((100, 1), dtype=np.float32), "space")
        store.delete([document.id for document in large])  # what a split batch may have left
        check(store)
        fill(store, COUNT, 10)
    with closing(storage.create(config, tmp_path)) as store:
        check(store, COUNT + 10)


@LAYOUTS
def test_a_full_disk_stops_a_backup_and_leaves_nothing_of_it(config, tmp_path):
    with closing(storage.create(config, tmp_path / "store")) as store:
        fill(store)
        with files_of_at_most(8192), pytest.raises(StorageError):
            store.backup(tmp_path / "backup")
        assert [path.name for path in tmp_path.iterdir()] == ["store"]
        store.backup(tmp_path / "backup")
        check(store)
    with closing(storage.create(config, tmp_path / "backup")) as copy:
        check(copy)


def test_a_backup_touches_nothing_beside_it(tmp_path):
    (tmp_path / ".backup.draft").mkdir()
    (tmp_path / ".backup.draft" / "mine").write_text("")
    with closing(storage.create(PLAIN, None)) as store:
        store.backup(tmp_path / "backup")
    assert files(tmp_path) == [".backup.draft/mine", "backup/documents.sqlite"]


# --- another layout ----------------------------------------------------------------------------------------

MOVES = pytest.mark.parametrize(
    ("before", "after"),
    [
        (PLAIN, BY_ID),
        (BY_ID, PLAIN),
        (BY_ID, BY_USER),
        (BY_USER, BY_ID),
        (BY_USER, StorageConfig(shards=5, shard_key="user_id")),
    ],
    ids=lambda config: f"{config.shards} by {config.shard_key}",
)


@MOVES
def test_another_layout_than_configured_is_refused_until_rebalanced(before, after, tmp_path):
    identity, version = filled(tmp_path, before)
    with pytest.raises(StorageError, match=r"the configuration says .*storage\.rebalance"):
        storage.create(after, tmp_path)
    storage.rebalance(tmp_path, after)
    with closing(storage.create(after, tmp_path)) as store:
        check(store)
        assert store.identity == identity
        assert store.version != version
    assert len(list(tmp_path.rglob("*.sqlite"))) == after.shards
    assert not list(tmp_path.rglob(".*"))


def test_the_refusal_names_both_layouts(tmp_path):
    filled(tmp_path, BY_USER)
    with pytest.raises(StorageError, match="lie in 4 shards by user_id, the configuration says one file"):
        storage.create(PLAIN, tmp_path)
    with pytest.raises(
        StorageError, match="lie in 4 shards by user_id, the configuration says 3 shards by id"
    ):
        storage.create(BY_ID, tmp_path)


def test_rebalancing_to_what_is_there_changes_nothing(tmp_path):
    _, version = filled(tmp_path, BY_ID)
    before = files(tmp_path)
    storage.rebalance(tmp_path, BY_ID)
    assert files(tmp_path) == before
    with closing(storage.create(BY_ID, tmp_path)) as store:
        assert store.version == version


def test_there_must_be_documents_to_rebalance(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StorageError, match="holds no documents"):
            storage.rebalance(folder, BY_ID)
    assert not (tmp_path / "nowhere").exists()


@LAYOUTS
def test_a_claimed_folder_is_not_rebalanced(config, tmp_path):
    filled(tmp_path, config)
    held = storage.claim(tmp_path)
    (tmp_path / ".documents").mkdir(exist_ok=True)  # what whoever holds the claim is at work on
    with pytest.raises(StorageError, match="is open in another engine or being rebalanced"):
        storage.rebalance(tmp_path, StorageConfig(shards=2))
    assert (tmp_path / ".documents").exists()
    os.close(held)
    storage.rebalance(tmp_path, StorageConfig(shards=2))
    with closing(storage.create(StorageConfig(shards=2), tmp_path)) as store:
        check(store)


def test_a_folder_is_claimed_from_the_first_step_of_a_rebalance_to_the_last(tmp_path):
    """Nobody can open it, which would add documents that do not move, or sweep the new files away."""
    filled(tmp_path, BY_ID)
    refused = 0

    def beforehand(call):
        def maybe(*args, **kwargs):
            nonlocal refused
            with pytest.raises(StorageError, match="or being rebalanced"):
                storage.claim(tmp_path)
            refused += 1
            return call(*args, **kwargs)

        return maybe

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((os, "replace"), (os, "fsync"), (Path, "unlink"), (shutil, "rmtree")):
            patch.setattr(owner, name, beforehand(getattr(owner, name)))
        storage.rebalance(tmp_path, PLAIN)
    assert refused > 5
    os.close(storage.claim(tmp_path))


def test_a_rebalance_that_fails_gives_the_folder_up(tmp_path):
    filled(tmp_path, BY_ID)
    with files_of_at_most(8192), pytest.raises(StorageError):
        storage.rebalance(tmp_path, PLAIN)
    os.close(storage.claim(tmp_path))


# --- the folder --------------------------------------------------------------------------------------------


def test_a_folder_is_claimed_once_at_a_time(tmp_path):
    held = storage.claim(tmp_path / "engine")
    with pytest.raises(StorageError, match="engine is open in another engine or being rebalanced"):
        storage.claim(tmp_path / "engine")
    os.close(held)
    os.close(storage.claim(tmp_path / "engine"))


def test_a_folder_that_cannot_be_claimed_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"path = .*file.*choose a folder you can write"):
        storage.claim(tmp_path / "file" / "engine")


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: os.close(storage.claim(folder)),
        lambda folder: storage.create(PLAIN, folder).close(),
        lambda folder: storage.create(BY_ID, folder).close(),
    ],
    ids=["claim", "plain", "by id"],
)
def test_the_names_of_new_folders_are_flushed(make, tmp_path, monkeypatch):
    flushed = set()
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (flushed.add(os.fstat(file).st_ino), fsync(file)))
    make(tmp_path / "above" / "engine")
    assert {(tmp_path / "above").stat().st_ino, tmp_path.stat().st_ino} <= flushed


def test_a_full_disk_stops_a_rebalance_and_the_old_store_stays(tmp_path):
    filled(tmp_path, BY_ID)
    with files_of_at_most(8192), pytest.raises(StorageError):
        storage.rebalance(tmp_path, PLAIN)
    with closing(storage.create(BY_ID, tmp_path)) as store:
        check(store)
    assert not (tmp_path / ".documents").exists()


class Killed(BaseException):
    """Stands for the death of the process: nothing catches it."""


STEPS = [(os, "replace"), (os, "fsync"), (Path, "unlink"), (Path, "mkdir"), (shutil, "rmtree")]


@contextmanager
def killed_at(number):
    """Raise `Killed` at call `number` of anything that changes what is on disk, and at every one after it."""
    calls = 0

    def counted(call):
        def maybe(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls >= number:
                raise Killed
            return call(*args, **kwargs)

        return maybe

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in STEPS:
            patch.setattr(owner, name, counted(getattr(owner, name)))
        yield


def opened_either_way(folder, *configs):
    """The store in `folder`, which lies in one of several layouts."""
    for config in configs:
        with suppress(StorageError):
            return storage.create(config, folder)
    return storage.create(configs[0], folder)


@pytest.mark.slow
@MOVES
def test_a_rebalance_killed_at_any_step_leaves_the_old_store_or_the_new(before, after, tmp_path):
    survived = []
    for step in range(1, 100):
        folder = tmp_path / f"{step}"
        identity, _ = filled(folder, before)
        with suppress(Killed), killed_at(step):
            storage.rebalance(folder, after)
            break
        with closing(opened_either_way(folder, before, after)) as store:
            check(store)
            assert store.identity == identity
            survived.append(len(getattr(store, "_shards", "1")))
        storage.rebalance(folder, after)
        with closing(storage.create(after, folder)) as store:
            check(store)
        assert len(list(folder.rglob("*.sqlite*"))) == after.shards
    assert survived == sorted(survived, key=lambda shards: shards == after.shards)  # first old, then new
    assert set(survived) == {before.shards, after.shards}


@LAYOUTS
def test_a_creation_killed_at_any_step_is_begun_again(config, tmp_path):
    for step in range(1, 100):
        folder = tmp_path / f"{step}"
        with suppress(Killed), killed_at(step):
            storage.create(config, folder).close()
            break
        filled(folder, config)
        with closing(storage.create(config, folder)) as store:
            check(store)
    assert step > 3


@LAYOUTS
def test_a_backup_killed_at_any_step_is_not_there_or_whole(config, tmp_path):
    with closing(storage.create(config, tmp_path / "store")) as store:
        fill(store)
        for step in range(1, 100):
            folder = tmp_path / f"{step}"
            with suppress(Killed), killed_at(step):
                store.backup(folder)
                break
            if not folder.exists():
                store.backup(folder)
            with closing(storage.create(config, folder)) as copy:
                check(copy)
    assert step > 3


# --- a process that dies -----------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
import numpy as np
from brein import storage
from brein.records import Document
config = storage.StorageConfig.read(sys.argv[2])
store = storage.create(config, Path(sys.argv[1]))
for turn in range(10_000):
    documents = [Document(f"{n}", f"{turn}", {"user_id": f"{turn} {n}"}) for n in range(40)]
    store.add(documents, np.full((40, 8), turn, dtype=np.float32), "space")
    print(turn, flush=True)
"""


@pytest.mark.slow
@LAYOUTS
def test_what_was_acknowledged_survives_sigkill(config, tmp_path):
    """Each turn replaces every document, and by user moves it too: each is there once, and not older."""
    for attempt, turns in enumerate(np.random.default_rng(5).integers(1, 25, 7)):
        folder = tmp_path / f"{attempt}"
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), config.model_dump_json()], stdout=subprocess.PIPE
        )
        with writer, writer.stdout:
            lines = [writer.stdout.readline() for _ in range(turns)]
            writer.send_signal(signal.SIGKILL)
            acknowledged = int([*lines, *writer.stdout][-1])
        with closing(storage.create(config, folder)) as store:
            ids, vectors = store.vectors()
            assert sorted(ids, key=int) == [str(n) for n in range(40)]
            for id_, vector in zip(ids, vectors, strict=True):
                document = store.get(id_)
                assert int(document.text) >= acknowledged
                assert vector.tolist() == [float(document.text)] * 8
                assert store.find({"user_id": f"{document.text} {id_}"}) == [id_]
