"""The store: what is found, built again, shared between processes, removed."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from bench import artifacts
from bench.artifacts import Artifact, Store
from brein.index import IndexConfig


def write(text, name="data"):
    return lambda folder: (folder / name).write_text(text) and None


def refuse(folder):
    pytest.fail("built again")


def forget():
    """Be another process, as far as the store can tell: hold nothing, have compared nothing."""
    for descriptor in artifacts._held.values():
        os.close(descriptor)
    artifacts._held.clear()


@pytest.fixture(autouse=True)
def _nothing_stays_held():
    yield
    forget()


# --- keys ------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
CONTENT = st.dictionaries(st.text(max_size=5) | st.sampled_from(["format", "kind"]), JSON, max_size=4)


@given(CONTENT, CONTENT)
def test_keys_are_equal_exactly_where_contents_are(a, b):
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (Artifact("k", a).key == Artifact("k", b).key) == same
    assert Artifact("k", dict(reversed(a.items()))).key == Artifact("k", a).key
    assert Artifact("k", a).key != Artifact("l", a).key


def test_no_content_stands_in_for_the_stores_own_format(monkeypatch):
    before = Artifact("k", {"format": 1}).key
    monkeypatch.setattr(artifacts, "FORMAT", artifacts.FORMAT + 1)
    assert Artifact("k", {"format": 1}).key != before


# --- finding and building ----------------------------------------------------------------------------


def test_an_artifact_is_built_once(tmp_path):
    said = []
    store = Store(tmp_path, said.append)
    assert store.find("things", {"a": 1}) is None
    first = store.get_or_build("things", {"a": 1}, write("x"))
    assert store.get_or_build("things", {"a": 1}, refuse) == store.find("things", {"a": 1}) == first
    forget()
    assert Store(tmp_path).get_or_build("things", {"a": 1}, refuse) == first
    assert said == ["build things"]
    assert (first / "data").read_text() == "x"


def test_what_is_known_of_an_artifact(tmp_path):
    store = Store(tmp_path)
    folder = store.get_or_build("things", {"a": 1}, write("four"))
    (one,) = store.stored()
    assert (one.kind, one.folder, one.bytes, one.content, one.damage) == ("things", folder, 4, {"a": 1}, None)
    assert one.made_at.endswith("+00:00")
    assert store.expected_seconds("things") == one.seconds >= 0
    assert store.expected_seconds("others") is None


def test_use_is_remembered(tmp_path):
    store = Store(tmp_path)
    folder = store.get_or_build("things", {}, write("x"))
    os.utime(folder / "artifact.json", (0, 0))
    assert store.stored()[0].last_used == 0
    store.get_or_build("things", {}, refuse)
    assert store.stored()[0].last_used > 0


def test_a_build_that_fails_leaves_nothing(tmp_path):
    store = Store(tmp_path)

    def fail(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        store.get_or_build("things", {}, fail)
    assert list((tmp_path / "things").iterdir()) == []
    assert (store.get_or_build("things", {}, write("x")) / "data").read_text() == "x"


# --- damage ------------------------------------------------------------------------------------------


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 0x10
    path.write_bytes(data)


DAMAGE = {
    "flipped": lambda path: flip(path, 7),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "grown": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": Path.unlink,
}


def build_two_files(folder):
    (folder / "data").write_text("some text of ours")
    (folder / "inner").mkdir()
    (folder / "inner" / "more").write_bytes(bytes(range(256)))


@pytest.mark.parametrize("name", ["data", "inner/more", "artifact.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_artifact_is_built_again_with_a_warning(name, damage, tmp_path):
    said = []
    store = Store(tmp_path, said.append)
    folder = store.get_or_build("things", {}, build_two_files)
    DAMAGE[damage](folder / name)
    forget()
    assert store.get_or_build("things", {}, build_two_files) == folder
    assert (folder / "inner" / "more").read_bytes() == bytes(range(256))
    assert said[0] == "build things"
    assert len(said) == 2
    assert said[1].startswith(f"warning: things {folder.name[:8]} was damaged ({name.split('/')[0]}")
    assert said[1].endswith("): built again")
    forget()
    store.get_or_build("things", {}, refuse)


def test_any_byte_of_the_manifest_that_means_something_is_checked(tmp_path):
    store = Store(tmp_path)
    folder = store.get_or_build("things", {"a": "text"}, build_two_files)
    manifest = folder / "artifact.json"
    whole = manifest.read_bytes()
    for position in range(0, len(whole), 3):
        flip(manifest, position)
        (one,) = store.stored()
        assert one.damage is not None, whole[position - 9 : position + 9]
        manifest.write_bytes(whole)


def test_a_file_that_is_missing_is_noticed_by_the_process_that_uses_it(tmp_path):
    store = Store(tmp_path)
    folder = store.get_or_build("things", {}, write("x"))
    (folder / "data").unlink()
    assert store.find("things", {}) is None
    assert "data" in store.stored()[0].damage
    assert (store.get_or_build("things", {}, write("x")) / "data").exists()


def test_an_artifact_of_an_older_version_of_the_store_says_so(tmp_path):
    old = tmp_path / "things" / ("a" * 32)
    old.mkdir(parents=True)
    (old / "artifact.json").write_text('{"kind": "things", "content": {}}')
    assert Store(tmp_path).stored()[0].damage == "artifact.json is of an older format"


def test_an_artifact_in_anothers_place_is_not_taken_for_it(tmp_path):
    store = Store(tmp_path)
    one = store.get_or_build("things", {"a": 1}, write("one"))
    two = store.get_or_build("things", {"a": 2}, write("two"))
    shutil.rmtree(two)
    shutil.copytree(one, two)
    forget()
    assert (store.get_or_build("things", {"a": 2}, write("two")) / "data").read_text() == "two"


CONFIGS = TypeAdapter(IndexConfig)
INDEX = st.one_of(
    st.fixed_dictionaries(
        {"kind": st.just("IndexHNSW")},
        optional={
            "M": st.sampled_from([16, 32]),
            "efConstruction": st.sampled_from([40, 200]),
            "efSearch": st.sampled_from([16, 50]),
            "metric": st.sampled_from(["l2", "cosine"]),
        },
    ),
    st.fixed_dictionaries(
        {"kind": st.just("IndexIVFFlat")},
        optional={"nlist": st.sampled_from([64, 100]), "nprobe": st.sampled_from([1, 5])},
    ),
)


@pytest.mark.parametrize(
    "written",
    [
        '{"M": 32, "kind": "IndexHNSW"}',
        '{"kind": "IndexHNSW", "M": 32, "metric": "cosine", "shards": 1}',
        '{"kind": "IndexHNSW", "M": 32, "efSearch": 99}',
    ],
)
def test_one_build_written_in_several_ways_has_one_key(written):
    plain = CONFIGS.validate_json('{"kind": "IndexHNSW", "M": 32}', strict=True)
    config = CONFIGS.validate_json(written, strict=True)
    keys = {Artifact("indexes", {"index": one.build_parameters}).key for one in (plain, config)}
    assert len(keys) == 1


WANTED = st.fixed_dictionaries(
    {
        "index": INDEX,
        "data": st.sampled_from(["aa", "ab"]),
        "model": st.sampled_from(["m1", "m2"]),
        "faiss": st.sampled_from(["1.15.0", "1.15.1"]),
    }
)


@settings(max_examples=25)
@given(st.lists(WANTED, min_size=2, max_size=6))
def test_no_artifact_is_found_for_anything_but_what_it_was_made_of(wanted):
    with tempfile.TemporaryDirectory() as root:
        store = Store(Path(root))
        for one in wanted:
            config = CONFIGS.validate_json(json.dumps(one["index"]), strict=True)
            content = {**one, "index": config.build_parameters}
            folder = store.get_or_build("indexes", content, write(json.dumps(content, sort_keys=True)))
            assert json.loads((folder / "data").read_text()) == content
        forget()


# --- several at once -----------------------------------------------------------------------------------


class User:
    """Another process that uses the store."""

    def __init__(self, root):
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("artifact_user.py"), root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, line):
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def says(self):
        return self._process.stdout.readline().strip()

    def end(self, how=signal.SIGKILL):
        self._process.send_signal(how)
        self._process.wait(10)
        self._process.stdin.close()
        self._process.stdout.close()


@pytest.fixture
def start(tmp_path):
    users = []

    def start():
        users.append(User(tmp_path))
        return users[-1]

    yield start
    for user in users:
        user.end()


def test_of_two_processes_one_builds_and_the_other_waits(start, tmp_path):
    first, second = start(), start()
    first.tell("build a")
    assert (first.says(), first.says()) == ("build things", "half")
    second.tell("get a")
    assert second.says() == "wait for another process to build things"
    first.tell("go on")
    folder = first.says()
    assert second.says() == folder
    assert [path.name for path in (tmp_path / "things").iterdir()] == [Path(folder).name]


def test_a_killed_builder_leaves_its_turn_to_the_next(start, tmp_path):
    first, second = start(), start()
    first.tell("build a")
    assert (first.says(), first.says()) == ("build things", "half")
    second.tell("get a")
    assert second.says() == "wait for another process to build things"
    first.end()
    assert second.says() == "build things"
    folder = Path(second.says())
    assert (folder / "second").read_text() == "a"
    assert [path.name for path in (tmp_path / "things").iterdir()] == [folder.name]


def test_what_a_killed_builder_left_is_pruned_and_what_a_living_one_makes_is_not(start, tmp_path):
    dead, alive = start(), start()
    for user, text in ((dead, "a"), (alive, "b")):
        user.tell(f"build {text}")
        assert (user.says(), user.says()) == ("build things", "half")
    dead.end()
    Store(tmp_path).prune()
    assert len(list((tmp_path / "things").iterdir())) == 1
    alive.tell("go on")
    assert (Path(alive.says()) / "second").read_text() == "b"


def test_an_artifact_stays_while_a_process_that_got_it_lives_and_no_longer(start, tmp_path):
    user, store = start(), Store(tmp_path)
    user.tell("get a")
    assert user.says() == "build things"
    folder = Path(user.says())
    user.tell("child")
    child = int(user.says())
    pruned = store.prune(max_bytes=0)
    assert [(one.folder, why) for one, why in pruned.kept] == [(folder, "in use")]
    assert store.in_use(store.stored()[0])
    assert (folder / "second").exists()
    user.end()
    try:
        assert not store.in_use(store.stored()[0]), "the lock lives on in a child"
        assert [one.folder for one, _ in store.prune(max_bytes=0).removed] == [folder]
    finally:
        os.kill(child, signal.SIGKILL)
    assert not folder.exists()
    assert list((tmp_path / "locks").iterdir()) == []


def test_what_another_process_removes_meanwhile_is_gone_and_no_error(tmp_path, monkeypatch):
    store = Store(tmp_path)
    three(store)
    (tmp_path / "old" / ("a" * 32)).symlink_to(tmp_path / "nowhere")  # as if removed after it was listed
    listed = store.stored()
    assert len(listed) == 3
    store.prune(max_bytes=0)
    monkeypatch.setattr(Store, "stored", lambda self: listed)
    assert len(store.prune(max_bytes=0).removed) == 3


def test_more_artifacts_are_in_use_than_a_process_may_usually_open(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        store = Store(tmp_path)
        for number in range(100):
            store.get_or_build("things", {"number": number}, write("x"))
        assert all(store.in_use(one) for one in store.stored())
    finally:
        forget()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_threads_that_ask_at_the_same_time_build_once(tmp_path):
    store, barrier, folders, built = Store(tmp_path), threading.Barrier(4), [], []

    def run():
        barrier.wait(timeout=10)
        folders.append(store.get_or_build("things", {}, built.append))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert (len(folders), len(set(folders)), len(built)) == (4, 1, 1)


# --- removing ------------------------------------------------------------------------------------------


def three(store):
    """Artifacts of 100 bytes, last used at 1, 2 and 3 s, of processes that have ended."""
    for age, kind in enumerate(("old", "middle", "new"), start=1):
        folder = store.get_or_build(kind, {}, write("x" * 100))
        os.utime(folder / "artifact.json", (age, age))
    forget()


@pytest.mark.parametrize(
    ("asked", "removed"),
    [
        ({}, []),
        ({"max_bytes": 300}, []),
        ({"max_bytes": 299}, ["old"]),
        ({"max_bytes": 100}, ["old", "middle"]),
        ({"max_bytes": 0}, ["old", "middle", "new"]),
        ({"unused_since": 3}, ["old", "middle"]),
        ({"max_bytes": 0, "kind": "middle"}, ["middle"]),
    ],
)
def test_the_least_recently_used_go_first(asked, removed, tmp_path):
    store = Store(tmp_path)
    three(store)
    foreseen = store.prune(**asked, dry_run=True)
    assert len(store.stored()) == 3
    pruned = store.prune(**asked)
    assert [one.kind for one, _ in pruned.removed] == removed
    assert [one.kind for one, _ in foreseen.removed] == removed
    assert {one.kind for one in store.stored()} == {"old", "middle", "new"} - set(removed)


def test_the_limit_holds_after_every_build_and_says_what_went(tmp_path):
    said = []
    store = Store(tmp_path, said.append, max_bytes=250)
    three(Store(tmp_path))
    Store(tmp_path).get_or_build("middle", {}, refuse)  # in use now
    store.get_or_build("more", {}, write("x" * 100))
    assert {one.kind for one in store.stored()} == {"middle", "more"}
    assert [line.split(": ")[1] for line in said if line.startswith("removed")] == [
        "the least recently used"
    ] * 2
    store.get_or_build("last", {}, write("x" * 100))
    assert said[-1].startswith("warning: artifacts in use take")
    assert len(store.stored()) == 3


def test_a_damaged_artifact_is_pruned_whatever_the_limits(tmp_path):
    store = Store(tmp_path)
    three(store)
    (next((tmp_path / "new").iterdir()) / "data").write_text("shorter")
    ((one, why),) = store.prune().removed
    assert (one.kind, why) == ("new", "damaged: data has 7 bytes, 100 were stored")


def test_a_damaged_artifact_goes_before_a_good_one(tmp_path):
    store = Store(tmp_path)
    three(store)
    (next((tmp_path / "new").iterdir()) / "data").write_text("")
    assert [one.kind for one, _ in store.prune(max_bytes=200).removed] == ["new"]


def test_nothing_that_is_not_the_stores_is_removed(tmp_path):
    theirs = tmp_path / "thesis" / "chapter"
    theirs.mkdir(parents=True)
    (tmp_path / "scratch" / "plans").mkdir(parents=True)
    (tmp_path / "thesis" / ".git").mkdir()
    Store(tmp_path).prune(max_bytes=0)
    assert theirs.exists()
    assert (tmp_path / "scratch" / "plans").exists()
    assert (tmp_path / "thesis" / ".git").exists()


def test_scratch_stays_with_its_process_and_goes_with_the_next(tmp_path):
    store = Store(tmp_path)
    mine = store.scratch()
    (mine / "trial").mkdir()
    left = mine.with_name("0" * 16)
    left.mkdir()
    store.prune()
    assert (store.scratch() / "trial").exists()
    assert not left.exists()
