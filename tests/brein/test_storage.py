"""What every document store does: one file or several shards, by id or by a field, on disk or in memory."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest

from brein import storage
from brein.errors import DataError, StorageError
from brein.records import Document
from brein.sharding import shard_of
from brein.storage import SQLiteStore, StorageConfig

VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4)
DOCUMENTS = [Document("b", "two", {"page": 2}), Document("a", "one"), Document("ü", "drei")]

STORES = {
    "file": (True, StorageConfig()),
    "memory": (False, StorageConfig()),
    "sharded file": (True, StorageConfig(shards=3)),
    "sharded file by user": (True, StorageConfig(shards=3, shard_key="user_id")),
    "sharded memory": (False, StorageConfig(shards=3)),
}
SHARDED = [name for name in STORES if "sharded" in name]


@pytest.fixture(params=STORES)
def store(request, tmp_path):
    on_disk, config = STORES[request.param]
    with closing(storage.create(config, tmp_path / "store" if on_disk else None)) as made:
        yield made


def filled(store, count=300, users=7):
    """`count` documents of several users; document n has the vector (n, n)."""
    documents = [Document(f"{n:05}", f"text {n}", {"user_id": f"u{n % users}", "n": n}) for n in range(count)]
    store.add(documents, np.repeat(np.arange(count, dtype=np.float32)[:, None], 2, axis=1), "space")
    return documents


def test_what_is_added_can_be_read(store):
    store.add(DOCUMENTS, VECTORS, "space")
    assert len(store) == 3
    assert store.get("b") == DOCUMENTS[0]
    assert store.get("nobody") is None
    assert store.texts(["ü", "nobody", "a"]) == {"ü": "drei", "a": "one"}
    ids, vectors = store.vectors()
    assert ids == ["a", "b", "ü"]
    np.testing.assert_array_equal(vectors, VECTORS[[1, 0, 2]])


def test_vectors_come_in_the_order_asked_for(store):
    store.add(DOCUMENTS, VECTORS, "space")
    ids, vectors = store.vectors(["ü", "nobody", "a"])
    assert ids == ["ü", "a"]
    np.testing.assert_array_equal(vectors, VECTORS[[2, 1]])
    assert store.vectors(["nobody"])[0] == []


def test_batches_hold_every_vector_once(store):
    filled(store)
    batches = list(store.vector_batches(40))
    assert max(len(ids) for ids, _ in batches) == 40
    found = {id_: vector for ids, vectors in batches for id_, vector in zip(ids, vectors, strict=True)}
    assert sorted(found) == store.vectors()[0]
    assert all(vector.tolist() == [int(id_)] * 2 for id_, vector in found.items())
    assert all(vectors.dtype == np.float32 for _, vectors in batches)


def test_the_space_and_the_dimension_are_those_of_the_stored_vectors(store):
    assert (store.space, store.dimension) == ("", None)
    store.add(DOCUMENTS, VECTORS, "a model")
    assert (store.space, store.dimension) == ("a model", 4)
    store.delete(["a", "b", "ü"])
    assert (store.space, store.dimension) == ("", None)
    store.add(DOCUMENTS[:1], VECTORS[:1, :2], "another")
    assert (store.space, store.dimension) == ("another", 2)


@pytest.mark.parametrize(("vectors", "space"), [(VECTORS[:, :2], "space"), (VECTORS, "another")])
def test_vectors_that_do_not_compare_are_refused(store, vectors, space):
    store.add(DOCUMENTS[:1], VECTORS[:1], "space")
    with pytest.raises(DataError, match="dimension 4 in the space 'space'"):
        store.add(DOCUMENTS, vectors, space)
    assert len(store) == 1


@pytest.mark.parametrize("vectors", [VECTORS[:2], VECTORS[0]])
def test_vectors_of_the_wrong_shape_are_refused(store, vectors):
    with pytest.raises(DataError, match=r"3 documents take vectors of shape \(3, d\)"):
        store.add(DOCUMENTS, vectors, "space")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_a_vector_that_is_not_finite_is_refused_with_its_whole_batch(store, value):
    vectors = VECTORS.astype(np.float64)
    vectors[1, 2] = value
    with pytest.raises(DataError, match="document 'a': its vector holds NaN or infinity in float32"):
        store.add(DOCUMENTS, vectors, "space")
    assert len(store) == 0


def test_an_equal_id_is_replaced(store):
    store.add(DOCUMENTS, VECTORS, "space")
    store.add([Document("a", "once"), Document("a", "uno", {"page": 9})], VECTORS[1:], "space")
    assert len(store) == 3
    assert store.get("a") == Document("a", "uno", {"page": 9})
    np.testing.assert_array_equal(store.vectors(["a"])[1][0], VECTORS[2])
    assert store.find({"page": [2, 9]}) == ["a", "b"]


def matched(store, text, limit=10, where=None):
    return [id_ for id_, _ in store.match(text, limit, where)]


def test_a_match_has_one_of_the_words_whatever_their_form_and_case(store):
    store.add(
        [Document("a", "The cat sat."), Document("b", "Two CATS running"), Document("ü", "Müßiggänger")],
        VECTORS,
        "space",
    )
    assert sorted(matched(store, "cats sit")) == ["a", "b"]
    assert matched(store, "who runs?") == ["b"]
    assert matched(store, "MÜSSIG müßiggänger") == ["ü"]
    assert matched(store, "dog") == []


def test_a_malformed_filter_is_refused_whatever_the_words(store):
    for text in ("cat", "?!"):
        with pytest.raises(DataError):
            store.match(text, 5, {"page": {"near": 3}})


def test_matches_come_best_first_and_equals_by_id(store):
    texts = ["zebra " * n + "filler " * (20 - n) for n in range(1, 9)]
    documents = [Document(f"{n}", text, {"n": n}) for n, text in enumerate(texts)]
    documents += [Document(f"other {n}", "nothing of the kind") for n in range(40)]
    store.add(documents, np.ones((48, 2), dtype=np.float32), "space")
    found = store.match("zebra", 10)
    assert sorted(id_ for id_, _ in found) == [str(n) for n in range(8)]
    assert found == sorted(found, key=lambda one: (-one[1], one[0]))
    assert store.match("zebra", 3) == found[:3]
    assert all(score > 0 for _, score in found)
    assert matched(store, "zebra", 10, {"n": {"gte": 6}}) == [id_ for id_, _ in found if int(id_) >= 6]
    equals = store.match("nothing", 50)
    assert equals == sorted(equals, key=lambda one: (-one[1], one[0]))
    assert sorted(id_ for id_, _ in equals) == sorted(f"other {n}" for n in range(40))


def test_matches_follow_what_is_replaced_moved_and_deleted(store):
    documents = filled(store, 60)
    store.add([Document("00003", "apples", {"user_id": "another"})], VECTORS[:1, :2], "space")
    assert matched(store, "apple") == ["00003"]
    assert matched(store, "3") == []
    store.delete(["00003"])
    assert matched(store, "apple") == []
    assert len(matched(store, "text", 100)) == len(documents) - 1
    with pytest.raises(DataError):
        store.add([Document("x", "pear"), Document("y", "\ud800")], VECTORS[:2, :2], "space")
    assert matched(store, "pear") == []


@pytest.mark.parametrize(
    "text",
    ["", "  ", "?!", '"', 'a" OR b', "NEAR(a b)", "text:one", "one*", "a AND NOT", "^one", "x\0y", "__"],
)
def test_words_are_data_not_a_query(store, text):
    store.add(DOCUMENTS, VECTORS, "space")
    assert set(matched(store, text)) <= {"a", "b", "ü"}
    assert matched(store, f"{text} one") == ["a"]


def test_a_match_of_ten_thousand_words_is_bounded(store):
    store.add(DOCUMENTS, VECTORS, "space")
    assert matched(store, "one " + " ".join(f"w{n}" for n in range(10_000))) == ["a"]


def test_frequencies_count_documents_that_have_a_word_in_any_form(store):
    documents = filled(store, 60)
    store.add([Document("new", "Cats, cats; 12 texts", {})], VECTORS[:1, :2], "space")
    assert store.frequencies("cat texting zebras 12? ... CATS") == {
        "cat": 1, "texting": len(documents) + 1, "zebras": 0, "12": 2, "cats": 1
    }  # fmt: skip
    assert list(store.frequencies("zebras cat 12")) == ["zebras", "cat", "12"]
    assert store.frequencies("!?") == {}
    store.delete(["new"])
    assert store.frequencies("cat 12") == {"cat": 0, "12": 1}
    assert len(store.frequencies(" ".join(f"w{n}" for n in range(10_000)))) == 256


def test_a_word_is_counted_once_until_the_documents_change():
    counted = []
    with closing(storage.create(StorageConfig(), None)) as store:
        store.add(DOCUMENTS, VECTORS, "space")
        store._connection.set_trace_callback(lambda sql: counted.append(sql) if "vocabulary" in sql else None)
        assert [store.frequencies(text) for text in ("one", "Two one", "two")] == [
            {"one": 1}, {"two": 1, "one": 1}, {"two": 1}
        ]  # fmt: skip
        assert len(counted) == 2
        store.delete(["a"])
        assert [store.frequencies("one two") for _ in range(2)] == [{"one": 0, "two": 1}] * 2
        assert len(counted) == 3


def test_what_a_refused_batch_changed_for_a_moment_is_not_counted(store):
    store.add(DOCUMENTS, VECTORS, "space")
    assert store.frequencies("one") == {"one": 1}
    with pytest.raises(DataError, match="lone surrogates"):
        store.add([Document("x", "one"), Document("y", "\ud800")], VECTORS[:2], "space")
    assert store.frequencies("one") == {"one": 1}
    store.add([Document("x", "one")], VECTORS[:1], "space")
    assert store.frequencies("one") == {"one": 2}


def test_stems_tell_the_forms_of_a_word(store):
    stems = store.stems("price prices Pricing étude etude ... 12")
    assert list(stems) == ["price", "prices", "pricing", "étude", "etude", "12"]
    assert stems["price"] == stems["prices"] == stems["pricing"]
    assert stems["étude"] == stems["etude"]
    assert len(set(stems.values())) == 3
    assert store.stems("?!") == {}


def test_the_score_is_bm25(tmp_path):
    texts = ["a b c a", "b c", "c c c d e f", "g", "h i", "j k l m"]
    with closing(storage.create(StorageConfig(), None)) as store:
        documents = [Document(str(n), text) for n, text in enumerate(texts)]
        store.add(documents, np.ones((len(texts), 2), dtype=np.float32), "space")
        found = dict(store.match("a d", 10))
    words = [text.split() for text in texts]
    mean = np.mean([len(one) for one in words])
    idf = np.log((len(texts) - 1 + 0.5) / (1 + 0.5))
    for id_, word in (("0", "a"), ("2", "d")):
        count, length = words[int(id_)].count(word), len(words[int(id_)])
        expected = idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / mean))
        assert found[id_] == pytest.approx(expected)
    assert len(found) == 2


def test_a_document_whose_user_changes_is_there_once(store):
    documents = filled(store)
    moved = [Document(d.id, "moved", {"user_id": f"v{d.id}"}) for d in documents[::2]]
    store.add(moved, np.ones((len(moved), 2), dtype=np.float32), "space")
    assert len(store) == len(documents)
    assert store.vectors()[0] == [document.id for document in documents]
    assert set(store.texts([document.id for document in moved]).values()) == {"moved"}
    assert store.find({"user_id": "u0"}) == [f"{n:05}" for n in range(7, 300, 14)]
    assert store.find({"user_id": f"v{moved[3].id}"}) == [moved[3].id]


def test_delete_counts_what_was_there(store):
    store.add(DOCUMENTS, VECTORS, "space")
    assert store.delete(["a", "nobody", "a"]) == 1
    assert store.existing(["ü", "b", "a", "ü"]) == ["ü", "b"]
    assert store.delete([]) == 0
    store.delete(["b"])
    assert store.find({"page": 2}) == []


def test_every_change_renews_the_version(store):
    seen = [store.version]
    for write in (
        lambda: store.add(DOCUMENTS, VECTORS, "space"),
        lambda: store.add(DOCUMENTS, VECTORS, "space"),
        lambda: store.delete(["a", "nobody"]),
    ):
        write()
        seen.append(store.version)
    assert len(set(seen)) == 4
    store.delete(["a", "nobody"])
    store.delete([])
    assert store.version == seen[-1], "nothing changed"


def test_more_ids_than_one_statement_takes(store):
    documents = filled(store, 1700)
    assert len(store.texts([document.id for document in documents])) == 1700


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (Document("d", None), "document 'd': its text is a NoneType; give a text"),
        (Document(4, "d"), "document 4: its id is a int; give a text"),
        (Document("d", "\ud800"), "document 'd': its text: the text is not valid Unicode"),
        (Document("\ud800", "d"), r"document '\\ud800': its id: the text is not valid Unicode"),
    ],
)
def test_a_document_that_is_refused_takes_its_batch_with_it(store, refused, reason):
    before = store.version
    with pytest.raises(DataError, match=reason):
        store.add([*DOCUMENTS, refused], np.ones((4, 4), dtype=np.float32), "space")
    assert len(store) == 0
    assert store.find({"page": 2}) == []
    assert store.version == before
    store.add(DOCUMENTS, VECTORS, "space")
    assert len(store) == 3


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"x": [1]}, "metadata 'x' = .1.: a list cannot be compared"),
        ({"x": float("nan")}, "must be finite"),
        ({"x": 2**63}, "at most 64 bits"),
        ({"x": "\ud800"}, "not valid Unicode"),
        ({"\ud800": 1}, "must be a valid text"),
        ({5: 1}, "must be a valid text"),
    ],
)
def test_metadata_that_cannot_be_compared_are_refused(store, metadata, reason):
    with pytest.raises(DataError, match=f"document 'b': .*{reason}"):
        store.add([Document("b", "text", metadata)], VECTORS[:1], "space")


HOSTILE = ["x'); DROP TABLE documents; --", '"', "a\0b", "%", "$.a", "[0]", "\\u0041", "", "🐘", "NULL"]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_ids_names_and_values_are_data_not_sql(store, hostile):
    document = Document(hostile, hostile, {hostile: hostile, "user_id": hostile})
    store.add([document, *DOCUMENTS], np.ones((4, 2), dtype=np.float32), "space")
    assert store.get(hostile) == document
    for name in (hostile, "user_id"):
        assert store.find({name: hostile}) == [hostile]
        field = f"metadata.{name}"
        assert store.query(["id", field], {name: hostile}, [field]) == [(hostile, hostile)]
        assert store.aggregate([("count", "id")], group_by=[field]) == [(None, 3), (hostile, 1)]
    assert store.vectors()[0] == sorted(["a", "b", "ü", hostile])
    assert store.delete([hostile]) == 1


@pytest.mark.parametrize("ask", ["get", "texts", "existing", "delete"])
def test_an_id_that_is_no_unicode_is_refused(store, ask):
    with pytest.raises(DataError, match="not valid Unicode"):
        getattr(store, ask)("\ud800" if ask == "get" else ["a", "\ud800"])


def test_rows_can_be_ordered_and_paged(store):
    filled(store, 20)
    pages = [
        store.query(["metadata.user_id", "id"], {"n": {"lt": 18}}, ["-metadata.user_id"], 5, offset)
        for offset in (0, 5, 10, 15, 20)
    ]
    rows = [row for page in pages for row in page]
    assert [len(page) for page in pages] == [5, 5, 5, 3, 0]
    assert rows == sorted(rows, key=lambda row: (-int(row[0][1:]), row[1]))
    assert store.query(["text"], limit=2, offset=3) == [("text 3",), ("text 4",)]


def test_values_of_all_types_sort_nulls_numbers_texts(store):
    values = ["b", None, 2.5, "a", True, -1]
    documents = [Document(str(n), "text", {"x": value}) for n, value in enumerate(values)]
    store.add(documents, np.ones((6, 2), dtype=np.float32), "space")
    rows = store.query(["metadata.x"], order_by=["metadata.x"])
    assert [value for (value,) in rows] == [None, -1, 1, 2.5, "a", "b"]
    functions = ["count", "sum", "min", "max", "avg"]
    (row,) = store.aggregate([(function, "metadata.x") for function in functions])
    assert row == (5, 2.5, -1, "b", pytest.approx(2.5 / 3))


def test_aggregates_by_group(store):
    filled(store, 100, users=3)
    assert store.aggregate(
        [("count", "id"), ("sum", "metadata.n"), ("avg", "metadata.n"), ("max", "id")],
        where={"n": {"gte": 10}},
        group_by=["metadata.user_id"],
    ) == [
        (f"u{user}", len(numbers), sum(numbers), sum(numbers) / len(numbers), f"{numbers[-1]:05}")
        for user in range(3)
        for numbers in [[n for n in range(10, 100) if n % 3 == user]]
    ]


def test_aggregates_of_nothing(store):
    functions = ["count", "sum", "min", "max", "avg"]
    assert store.aggregate([(name, "metadata.n") for name in functions]) == [(0, 0.0, None, None, None)]
    assert store.aggregate([("count", "id")], group_by=["text"]) == []


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (lambda s: s.query([]), "fields is empty"),
        (lambda s: s.query(["vector"]), "field 'vector' is unknown; known: id, text and metadata.<name>"),
        (lambda s: s.query(["id"], order_by=["rowid"]), "'rowid' is unknown"),
        (lambda s: s.query(["metadata"]), "'metadata' is unknown"),
        (lambda s: s.query(["id"], limit=-1), "limit = -1: must be an integer from 0"),
        (lambda s: s.query(["id"], offset=2**63), "offset = 9223372036854775808"),
        (lambda s: s.query(["id"], {"n": {"like": "%"}}), "operator 'like' is unknown"),
        (lambda s: s.aggregate([]), "functions is empty"),
        (lambda s: s.aggregate([("median", "id")]), "'median' is unknown; known: count, sum, min, max, avg"),
        (lambda s: s.aggregate([("sum", "n")]), "field 'n' is unknown"),
        (lambda s: s.find({"n": {}}), "no operator"),
    ],
)
def test_a_malformed_question_is_refused(store, ask, reason):
    with pytest.raises(DataError, match=reason):
        ask(store)


def test_a_backup_made_while_writing_opens_with_a_batch_whole_or_not_at_all(store, request, tmp_path):
    _, config = STORES[request.node.callspec.params["store"]]
    filled(store, 50)

    def add(batch):
        documents = [Document(f"{batch}-{n}", "text", {"user_id": f"u{n}"}) for n in range(20)]
        store.add(documents, np.ones((20, 2), dtype=np.float32), "space")

    with ThreadPoolExecutor(1) as writer:
        writes = [writer.submit(add, batch) for batch in range(20)]
        store.backup(tmp_path / "backups" / "one")
        for write in writes:
            write.result()
    with closing(storage.create(config, tmp_path / "backups" / "one")) as copy:
        assert copy.identity == store.identity
        assert (len(copy) - 50) % 20 == 0
        assert copy.get("00007") == store.get("00007")
        assert len(copy.find({"n": {"gte": 0}})) == 50


def test_a_backup_is_the_same_until_one_is_written_to(store, request, tmp_path):
    _, config = STORES[request.node.callspec.params["store"]]
    documents = filled(store, 20)
    (tmp_path / "copy").mkdir()
    store.backup(tmp_path / "copy")
    with closing(storage.create(config, tmp_path / "copy")) as copy:
        assert copy.version == store.version
        for each in (copy, store):
            each.delete([documents[0].id])
        assert copy.version != store.version
    with pytest.raises(StorageError, match="is not empty; choose a new one"):
        store.backup(tmp_path / "copy")


def test_stored_bytes_grow_with_what_is_stored(store):
    before = store.stored_bytes()
    filled(store, 200)
    store.add([Document("large", "x" * 1_000_000, {"user_id": "u"})], np.ones((1, 2), np.float32), "space")
    assert store.stored_bytes() > before + 1_000_000


def test_threads_see_whole_batches_only(store):
    """Every batch replaces all documents, moving them between shards; whoever reads meets one batch."""

    def write(turn):
        for n in range(8):
            text = f"{turn}-{n}"
            documents = [Document(f"d{i}", text, {"user_id": f"{text}{i}"}) for i in range(12)]
            store.add(documents, np.ones((12, 2), dtype=np.float32), "space")

    def read():
        for _ in range(40):
            texts = [text for (text,) in store.query(["text"])]
            assert len(texts) in (0, 12)
            assert len(set(texts)) <= 1

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write, 0), pool.submit(read), pool.submit(write, 1), pool.submit(read)]:
            done.result()


def test_a_closed_store_says_so(store):
    store.close()
    store.close()
    for use in (lambda: len(store), lambda: store.delete(["a"]), lambda: store.add(DOCUMENTS, VECTORS, "x")):
        with pytest.raises(StorageError, match="the document store is closed; open it again"):
            use()


# --- several shards ----------------------------------------------------------------------------------------


@pytest.fixture
def by_user(tmp_path):
    with closing(storage.create(StorageConfig(shards=3, shard_key="user_id"), tmp_path / "store")) as made:
        yield made


def sizes(store):
    return [len(shard) for shard in store._shards]


@pytest.mark.parametrize("name", SHARDED)
def test_documents_spread_over_the_shards_by_their_key(name, tmp_path):
    on_disk, config = STORES[name]
    with closing(storage.create(config, tmp_path if on_disk else None)) as store:
        documents = filled(store)
        key = (lambda d: d.id) if config.shard_key == "id" else (lambda d: d.metadata["user_id"])
        expected = [[d.id for d in documents if shard_of(key(d), 3) == n] for n in range(3)]
        assert [shard.vectors()[0] for shard in store._shards] == expected


def test_a_document_without_the_shard_key_goes_by_its_id(by_user):
    documents = [Document(f"{n}", "text", {"user_id": None} if n % 2 else {}) for n in range(30)]
    by_user.add(documents, np.ones((30, 2), dtype=np.float32), "space")
    assert sizes(by_user) == [sum(shard_of(d.id, 3) == n for d in documents) for n in range(3)]


def test_a_filter_on_the_shard_key_asks_one_shard(by_user, monkeypatch):
    filled(by_user)
    asked = []
    ask = SQLiteStore._ask
    monkeypatch.setattr(SQLiteStore, "_ask", lambda self, *args: asked.append(self) or ask(self, *args))
    assert len(by_user.find({"user_id": "u3"})) == 43
    assert len(by_user.query(["id"], {"user_id": {"eq": "u3"}})) == 43
    assert asked == [by_user._shards[shard_of("u3", 3)]] * 2
    assert len(by_user.find({"user_id": {"in": ["u3", "u4"]}})) == 86
    assert len(asked) == 5


@pytest.mark.parametrize("failing", range(3))
def test_a_shard_that_refuses_its_part_refuses_the_batch(by_user, failing):
    before = by_user.version
    shard = by_user._shards[failing]
    pages = shard._first("page_count FROM pragma_page_count")
    shard._ask(f"PRAGMA max_page_count = {pages + 5}")
    large = [Document(f"{n}", "x" * 20_000, {"user_id": f"u{n}"}) for n in range(30)]
    with pytest.raises(StorageError, match=r"shard-.*full"):
        by_user.add(large, np.ones((30, 2), dtype=np.float32), "space")
    assert sizes(by_user) == [0, 0, 0]
    assert by_user.version == before
    shard._ask("PRAGMA max_page_count = 1000000")
    by_user.add(large, np.ones((30, 2), dtype=np.float32), "space")
    assert len(by_user) == 30


def test_a_commit_that_fails_says_that_the_batch_may_be_there_in_part(by_user, monkeypatch):
    documents = filled(by_user, 30)

    def refuse():
        by_user._shards[1].rollback()
        raise StorageError("no space")

    monkeypatch.setattr(by_user._shards[1], "commit", refuse)
    moved = [Document(d.id, "moved", {"user_id": f"v{d.id}"}) for d in documents]
    with pytest.raises(StorageError, match="may be stored in part, so write it again"):
        by_user.add(moved, np.ones((30, 2), dtype=np.float32), "space")
    monkeypatch.undo()
    assert by_user.vectors()[0] == [d.id for d in documents]  # each once, old or new
    assert set(by_user.texts(["00001", "00002"])) == {"00001", "00002"}


@pytest.mark.parametrize("step", ["remove", "forget_moved"])
def test_a_move_that_was_interrupted_is_finished_by_the_next_call(step, by_user, monkeypatch, tmp_path):
    documents = filled(by_user, 30)

    def fail(*_):
        raise StorageError("no space")

    moved = [Document(d.id, "moved", {"user_id": f"v{d.id}"}) for d in documents]
    with monkeypatch.context() as patch:
        patch.setattr(SQLiteStore, step, fail)
        with pytest.raises(StorageError, match="no space"):
            by_user.add(moved, np.ones((30, 2), dtype=np.float32), "space")
        with pytest.raises(StorageError, match="no space"):
            len(by_user)  # rather than count a document twice
    by_user.close()
    with closing(storage.create(StorageConfig(shards=3, shard_key="user_id"), tmp_path / "store")) as again:
        assert len(again) == 30
        assert {text for (text,) in again.query(["text"])} == {"moved"}
        assert again.vectors()[0] == [d.id for d in documents]
