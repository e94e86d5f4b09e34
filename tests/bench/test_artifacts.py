import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.artifacts import Store, key


def write(text):
    return lambda folder: (folder / "data").write_text(text) and None


def test_an_artifact_is_built_once(tmp_path):
    said = []
    store = Store(tmp_path, said.append)
    first = store.get_or_build("things", {"a": 1}, write("x"))
    second = store.get_or_build("things", {"a": 1}, lambda folder: pytest.fail("built again"))
    assert first == second
    assert said == ["build things"]
    assert (second / "data").read_text() == "x"
    assert json.loads((second / "artifact.json").read_text())["content"] == {"a": 1}


def test_other_content_or_another_kind_is_another_artifact(tmp_path):
    store = Store(tmp_path)
    folders = {
        store.get_or_build(kind, content, write("x"))
        for kind in ("a", "b")
        for content in ({"v": 1}, {"v": 2}, {"v": "1"}, {"v": 1.5}, {"w": 1})
    }
    assert len(folders) == 10


def test_a_build_that_fails_leaves_nothing(tmp_path):
    store = Store(tmp_path)

    def fail(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        store.get_or_build("things", {}, fail)
    assert list((tmp_path / "things").iterdir()) == []
    assert (store.get_or_build("things", {}, write("x")) / "data").read_text() == "x"


def test_builders_at_the_same_time_end_with_one_whole_artifact(tmp_path):
    store, barrier, folders = Store(tmp_path), threading.Barrier(4), []

    def build(folder):
        barrier.wait(timeout=10)
        (folder / "data").write_text("same")

    def run():
        folders.append(store.get_or_build("things", {}, build))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(set(folders)) == 1
    assert len(folders) == 4
    assert [path.name for path in (tmp_path / "things").iterdir()] == [folders[0].name]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(max_size=5), JSON, max_size=4),
    st.dictionaries(st.text(max_size=5), JSON, max_size=4),
)
def test_keys_are_equal_exactly_where_contents_are(a, b):
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (key(a) == key(b)) == same
    assert key(dict(reversed(a.items()))) == key(a)
