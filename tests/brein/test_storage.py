import sqlite3

import numpy as np
import pytest

from brein.errors import StorageError
from brein.records import Document
from brein.storage import DocumentStore, StorageConfig

VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4)
DOCUMENTS = [Document("b", "two", {"page": 2}), Document("a", "one"), Document("ü", "drei")]


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path):
    made = DocumentStore(StorageConfig(), tmp_path / "d.sqlite" if request.param == "file" else None)
    yield made
    made.close()


def test_what_is_added_can_be_read(store):
    store.add(DOCUMENTS, VECTORS, "space")
    assert len(store) == 3
    assert store.get("b") == DOCUMENTS[0]
    assert store.get("nobody") is None
    assert store.texts(["ü", "nobody", "a"]) == {"ü": "drei", "a": "one"}
    ids, vectors = store.vectors()
    assert ids == ["a", "b", "ü"]
    np.testing.assert_array_equal(vectors, VECTORS[[1, 0, 2]])


def test_the_space_of_the_vectors_is_kept(store):
    assert store.space == ""
    store.add(DOCUMENTS, VECTORS, "a model")
    assert store.space == "a model"


def test_an_equal_id_is_replaced(store):
    store.add(DOCUMENTS, VECTORS, "space")
    store.add([Document("a", "uno")], VECTORS[2:], "space")
    assert len(store) == 3
    assert store.texts(["a"]) == {"a": "uno"}
    np.testing.assert_array_equal(store.vectors()[1][0], VECTORS[2])


def test_delete_counts_what_was_there(store):
    store.add(DOCUMENTS, VECTORS, "space")
    assert store.delete(["a", "nobody", "a"]) == 1
    assert store.existing(["a", "b", "ü"]) == ["b", "ü"]


def test_the_generation_grows_with_every_write(store):
    seen = [store.generation]
    store.add(DOCUMENTS, VECTORS, "space")
    seen.append(store.generation)
    store.delete(["a"])
    seen.append(store.generation)
    assert seen == [0, 1, 2]


def test_more_ids_than_one_statement_takes(store):
    many = [Document(f"{n:05}", f"text {n}") for n in range(1700)]
    store.add(many, np.ones((1700, 2), dtype=np.float32), "space")
    assert len(store.texts([document.id for document in many])) == 1700


def test_a_write_that_fails_leaves_nothing(store):
    with pytest.raises(StorageError):
        store.add([*DOCUMENTS, Document("d", None)], np.ones((4, 4), dtype=np.float32), "space")
    assert len(store) == 0
    assert store.generation == 0


def test_a_file_that_is_not_ours_is_refused(tmp_path):
    (tmp_path / "text").write_text("not a database, " * 100)
    with pytest.raises(StorageError, match="text"):
        DocumentStore(StorageConfig(), tmp_path / "text")
    with sqlite3.connect(tmp_path / "foreign") as connection:
        connection.execute("CREATE TABLE things (x)")
    connection.close()
    with pytest.raises(StorageError, match="format 0, expected 1"):
        DocumentStore(StorageConfig(), tmp_path / "foreign")


def test_an_id_is_data_not_sql(store):
    hostile = "x'); DROP TABLE documents; --"
    store.add([Document(hostile, "text")], VECTORS[:1], "space")
    assert store.get(hostile) == Document(hostile, "text")
    assert store.delete([hostile]) == 1
