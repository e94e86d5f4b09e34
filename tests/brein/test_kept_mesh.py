"""The mesh that follows the documents, through errors that come and go."""

from contextlib import closing

import numpy as np
import pytest

from brein import Document, storage
from brein.errors import StorageError
from brein.retrieval.mesh import MeshConfig
from brein.storage import StorageConfig
from brein.upkeep import KeptMesh

CONFIG = MeshConfig(neighbours=4, max_degree=8)


class Setting:
    """Documents that all are alike, their mesh, and a disk that fails while it is `broken`."""

    def __init__(self, documents, folder):
        self.documents = documents
        self.broken = False
        self.kept = KeptMesh(CONFIG, documents, folder, self._nearest, lambda needed, purpose: None)

    def _nearest(self, vectors, k):
        if self.broken:
            raise StorageError("the disk does not answer")
        return [self.documents.existing(["a", "b", "c", "d"])[:k]] * len(vectors)

    def store(self, *ids):
        self.documents.add(
            [Document(id_, "text") for id_ in ids], np.ones((len(ids), 2), np.float32), "space"
        )

    def add(self, *ids):
        self.store(*ids)
        self.kept.add(ids)

    def delete(self, *ids):
        self.documents.delete(ids)
        self.kept.remove(ids)

    def associated(self, id_):
        return sorted(other for other, _ in self.kept.mesh.traverse({id_: 1.0}) if other != id_)


@pytest.fixture
def documents():
    with closing(storage.create(StorageConfig(), None)) as documents:
        yield documents


@pytest.fixture
def setting(documents, tmp_path):
    made = Setting(documents, tmp_path)
    with closing(made.kept):
        yield made


def test_documents_missed_by_an_error_are_linked_with_the_next_change(setting):
    setting.broken = True
    setting.add("a", "b")
    assert setting.associated("a") == []
    setting.broken = False
    setting.add("c")
    assert setting.associated("a") == ["b", "c"]


def test_documents_missed_by_an_error_are_linked_when_another_is_deleted(setting):
    setting.add("a", "b", "c")
    setting.broken = True
    setting.add("d")
    setting.broken = False
    setting.delete("a")
    assert setting.associated("d") == ["b", "c"]
    assert setting.associated("a") == []


def test_what_a_failed_catching_up_left_undone_is_done_with_the_next_change(setting):
    setting.store("a", "b", "c")
    setting.broken = True
    setting.kept.catch_up()
    setting.broken = False
    setting.delete("c")
    assert setting.associated("a") == ["b"]


def test_documents_missed_by_an_error_are_linked_after_opening_again(documents, setting, tmp_path):
    setting.add("a")
    setting.broken = True
    setting.add("b")
    setting.add("c")
    setting.kept.close()
    with closing(Setting(documents, tmp_path).kept) as kept:
        kept.catch_up()
        assert sorted(id_ for id_, _ in kept.mesh.traverse({"b": 1.0})) == ["a", "b", "c"]


def test_a_document_replaced_after_an_error_has_its_new_neighbours(setting):
    setting.add("a", "b")
    setting.broken = True
    setting.add("c")
    setting.broken = False
    vectors = np.array([[1, 1], [-1, -1]], np.float32)
    setting.documents.add([Document(id_, "text") for id_ in ("a", "b")], vectors, "space")
    setting.kept.add(["a", "b"])
    assert setting.associated("a") == ["c"]
