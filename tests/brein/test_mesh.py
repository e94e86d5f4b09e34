"""The mesh: what it finds that nearness cannot, what it forgets, and what is left of it in its file."""

import resource
import shutil
import sqlite3
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brein import embedding, index
from brein.embedding.hashing import HashingConfig
from brein.errors import ConfigError, DataError, StorageError
from brein.index.flat import FlatConfig
from brein.retrieval.mesh import Mesh, MeshConfig

HALF_LIFE = 1000.0
LOOSE = {"neighbours": 16, "half_life": HALF_LIFE}
IDS = [f"d{n}" for n in range(8)]

ids = st.sampled_from(IDS)
similarities = st.dictionaries(ids, st.dictionaries(ids, st.floats(0.0625, 1)))
seeds = st.dictionaries(ids, st.floats(0.0625, 8))


class Clock:
    def __init__(self):
        self.now = 1_700_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def open_mesh(clock):
    """Open meshes; closed when the test ends."""
    opened = []

    def open_mesh(path=None, **settings):
        opened.append(Mesh(MeshConfig.model_validate(LOOSE | settings), path, clock))
        return opened[-1]

    yield open_mesh
    for mesh in opened:
        mesh.close()


@pytest.mark.parametrize("max_degree", [16, 64])
def test_documents_take_no_more_memory_than_is_said_before(open_mesh, max_degree):
    mesh = open_mesh(max_degree=max_degree)
    tracemalloc.start()
    for start in range(0, 5000, 100):
        mesh.add({str(n): {str(n - 1): 0.5} for n in range(start, start + 100)}, "v")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    said = MeshConfig(max_degree=max_degree).bytes_to_add(5000)
    assert said / 3 < held < said


@pytest.mark.parametrize("max_degree", [16, 64])
def test_loading_takes_no_more_memory_than_is_said_before(open_mesh, tmp_path, max_degree):
    mesh = open_mesh(tmp_path / "mesh.sqlite", max_degree=max_degree)
    mesh.add({str(n): {str(n - m): 0.5 for m in range(1, 9)} for n in range(5000)}, "v")
    mesh.close()
    tracemalloc.start()
    mesh = open_mesh(tmp_path / "mesh.sqlite", max_degree=max_degree)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(mesh) == 5000
    assert held < peak < MeshConfig(max_degree=max_degree).bytes_to_add(5000)


def chain(mesh):
    """a - b - c - d - e, each 0.5 similar to the next."""
    mesh.add({"a": {}, "b": {"a": 0.5}, "c": {"b": 0.5}, "d": {"c": 0.5}, "e": {"d": 0.5}}, "v1")


def everything(mesh):
    return [mesh.traverse({id_: 1.0}) for id_ in [*IDS, *"abcdefghij"]]


# --- two hops ----------------------------------------------------------------------------------------------


def two_hop_corpus(words, plants, others, generator):
    """Queries, each with a bridge, which has all its words, and an answer, which shares words with that only.

    All other documents have one word of some query. Returns texts by id, and for each query the ids of its
    bridge and its answer.
    """
    shuffled = iter(generator.permutation(words).tolist())

    def draw(count):
        return list(islice(shuffled, count))

    texts, queries, asked = {}, {}, []
    for n in range(plants):
        question, link = draw(6), draw(6)
        queries[" ".join(question)] = f"bridge{n}", f"answer{n}"
        texts[f"bridge{n}"] = " ".join([*question, *link, *draw(4)])
        texts[f"answer{n}"] = " ".join([*link, *draw(4)])
        asked += question
    common = draw(len(words))
    for n in range(others):
        drawn = generator.choice(common, 15, replace=False)
        texts[f"other{n}"] = " ".join([*drawn, generator.choice(asked)])
    return texts, queries


@pytest.fixture(scope="module")
def planted():
    """The corpus, embedded and indexed; no two of its words fall on the same component of a vector."""
    model = embedding.create(HashingConfig(dimension=4096))
    words = [f"word{n}" for n in range(3000)]
    _, apart = np.unique(np.abs(model.embed(words)).argmax(axis=1), return_index=True)
    texts, queries = two_hop_corpus([words[n] for n in apart], 20, 600, np.random.default_rng(5))
    flat = index.create(FlatConfig(), 4096)
    flat.add(list(texts), model.embed(list(texts.values())))
    return texts, queries, model, flat


def nearest(flat, vectors, k):
    scores, ids = flat.search(vectors, k)
    return [dict(zip(*row, strict=True)) for row in zip(ids, scores.tolist(), strict=True)]


def test_the_mesh_finds_what_shares_neither_words_nor_a_near_vector_with_the_query(planted, open_mesh):
    texts, queries, model, flat = planted
    mesh = open_mesh(neighbours=4)
    found = nearest(flat, model.embed(list(texts.values())), 5)
    mesh.add(dict(zip(texts, found, strict=True)), "v1")
    for query, (bridge, answer) in queries.items():
        assert {*query.split()}.isdisjoint(texts[answer].split())
        (hits,) = nearest(flat, model.embed([query]), 50)
        assert answer not in list(hits)[:10]
        activated = mesh.traverse({id_: max(score, 0) for id_, score in hits.items()})
        assert [id_ for id_, _ in activated[:2]] == [bridge, answer]


def test_use_finds_what_shares_nothing_with_any_document_that_is_near(planted, open_mesh):
    """The answers are linked to their bridges by having been used together with them, not by likeness."""
    texts, queries, model, flat = planted
    mesh = open_mesh()
    mesh.add({id_: {} for id_ in texts}, "v1")
    for pair in queries.values():
        for _ in range(3):
            mesh.strengthen(pair)
    for query, (bridge, answer) in queries.items():
        (hits,) = nearest(flat, model.embed([query]), 50)
        activated = mesh.traverse({id_: max(score, 0) for id_, score in hits.items()})
        assert [id_ for id_, _ in activated[:2]] == [bridge, answer]


def test_a_good_hits_neighbour_comes_before_one_of_many_weak_hits(open_mesh):
    """A sum of what the links give would put the hub first."""
    mesh = open_mesh()
    weak = {f"weak{n}": {"hub": 0.6} for n in range(16)}
    mesh.add({"hub": {}, "answer": {}, "good": {"answer": 0.6}} | weak, "v1")
    found = mesh.traverse({"good": 0.8} | dict.fromkeys(weak, 0.2))
    order = [id_ for id_, _ in found]
    assert order.index("answer") < order.index("hub")


@given(similar=similarities, seeds=seeds, used=st.lists(st.sets(ids)), weight=st.floats(0, 0.5))
def test_no_mesh_puts_another_document_before_a_good_hit(similar, seeds, used, weight):
    """However a caller weighs scores and activations, for what `spread` leaves to the others."""
    mesh = Mesh(MeshConfig(spread=0.25), now=Clock())
    mesh.add({id_: similar.get(id_, {}) for id_ in IDS}, "v1")
    for together in used:
        mesh.strengthen(sorted(together))
    activated = dict(mesh.traverse(seeds))
    scores = {id_: score / max(seeds.values()) for id_, score in seeds.items()}
    blended = {id_: (1 - weight) * scores.get(id_, 0) + weight * active for id_, active in activated.items()}
    others = [blended[id_] for id_ in activated if id_ not in seeds]
    assert all(value <= weight / 3 + 1e-9 for value in others)  # 1/3 is 0.25 / (1 - 0.25)
    good = [blended[id_] for id_, score in scores.items() if (1 - weight) * score > weight / 3]
    assert min(good, default=1) > max(others, default=0) - 1e-9


# --- traversal ---------------------------------------------------------------------------------------------


@given(weights=st.lists(st.floats(0.0625, 1), min_size=4, max_size=4), hops=st.integers(1, 4))
def test_activation_falls_with_every_link_of_a_path(weights, hops):
    mesh = Mesh(MeshConfig(hops=hops), now=Clock())
    path = IDS[:5]
    mesh.add({"d0": {}} | {path[n + 1]: {path[n]: weight} for n, weight in enumerate(weights)}, "v1")
    found = mesh.traverse({"d0": 3.0})
    assert [id_ for id_, _ in found] == path[: hops + 1]
    assert all(after <= 0.5 * before for (_, before), (_, after) in pairwise(found))


@pytest.mark.parametrize("hops", [1, 2, 3, 4])
def test_nothing_further_than_the_hops_is_active(open_mesh, hops):
    mesh = open_mesh(hops=hops)
    chain(mesh)
    assert [id_ for id_, _ in mesh.traverse({"a": 1.0})] == list("abcde")[: hops + 1]


def test_no_more_documents_are_active_than_may_be(open_mesh):
    mesh = open_mesh(max_nodes=3)
    mesh.add({id_: {"hub": 1 / (n + 2)} for n, id_ in enumerate(IDS)} | {"hub": {}}, "v1")
    assert [id_ for id_, _ in mesh.traverse({"hub": 1.0})] == ["hub", "d0", "d1"]
    rising = {id_: n + 5.0 for n, id_ in enumerate(IDS)}
    assert [id_ for id_, _ in mesh.traverse(rising)] == ["d7", "d6", "d5"]


def test_equals_are_ordered_by_id_whatever_the_order_of_the_seeds(open_mesh):
    mesh = open_mesh()
    mesh.add({id_: {} for id_ in reversed(IDS)}, "v1")
    for order in (IDS, IDS[::-1], IDS[3:] + IDS[:3]):
        assert mesh.traverse(dict.fromkeys(order, 0.5)) == [(id_, 1.0) for id_ in IDS]


def test_both_kinds_of_links_count(open_mesh):
    mesh = open_mesh(hops=1)
    mesh.add({"a": {"b": 0.75}, "b": {}}, "v1")
    mesh.strengthen(["a", "b"])
    activation = 0.5 * (0.75**3 + 0.5**3) / (0.75**2 + 0.5**2)
    assert mesh.traverse({"a": 1.0}) == [("a", 1.0), ("b", pytest.approx(activation))]


@given(similar=similarities, seeds=seeds, hops=st.integers(1, 4))
def test_activation_is_that_of_the_whole_matrix(similar, seeds, hops):
    mesh = Mesh(MeshConfig.model_validate(LOOSE | {"hops": hops}), now=Clock())
    mesh.add({id_: similar.get(id_, {}) for id_ in IDS}, "v1")
    weights = np.array([[similar.get(one, {}).get(other, 0) for other in IDS] for one in IDS])
    np.fill_diagonal(weights, 0)
    weights = np.maximum(weights, weights.T)
    passed = 0.5 * weights**3 / np.maximum((weights**2).sum(axis=1, keepdims=True), 1e-9)
    wave = expected = np.array([seeds.get(id_, 0) for id_ in IDS])
    for _ in range(hops):
        wave = passed @ wave
        expected = expected + wave
    expected = {id_: value / expected.max() for id_, value in zip(IDS, expected, strict=True) if value}
    assert dict(mesh.traverse(seeds)) == pytest.approx(expected, rel=1e-5)


def test_nothing_is_active_without_a_seed_that_is_known(open_mesh):
    mesh = open_mesh()
    assert mesh.traverse({"a": 1.0}) == []
    chain(mesh)
    assert mesh.traverse({}) == mesh.traverse({"nobody": 1.0}) == mesh.traverse({"a": 0.0}) == []
    assert mesh.traverse({"nobody": 2.0, "e": 1.0, "a": 0.0})[0] == ("e", 1.0)


@pytest.mark.parametrize("score", [-0.1, float("nan"), float("inf")])
def test_a_score_that_is_none_is_refused(open_mesh, score):
    with pytest.raises(DataError, match=r"seed 'b': its score .* must be a finite number of at least 0"):
        open_mesh().traverse({"a": 1.0, "b": score})


def test_more_neighbours_than_edges_are_refused():
    with pytest.raises(ConfigError, match="neighbours = 9: must be at most max_degree = 4"):
        MeshConfig.read('{"neighbours": 9, "max_degree": 4}')


# --- what is linked ----------------------------------------------------------------------------------------


def test_a_document_is_linked_to_the_most_similar_of_those_that_are_known(open_mesh):
    mesh = open_mesh(neighbours=2, hops=1)
    mesh.add({id_: {} for id_ in "abcd"}, "v1")
    mesh.add({"new": {"new": 1.0, "nobody": 1.0, "a": 0.25, "b": 0.75, "c": 0.5, "d": -0.5}}, "v2")
    assert mesh.traverse({"new": 1.0}) == [("new", 1.0), ("b", 0.375), ("c", 0.25)]


def test_similarities_are_between_0_and_1(open_mesh):
    mesh = open_mesh(hops=1)
    mesh.add({"a": {"b": 1.5, "c": 0.0, "d": -1.0}, "b": {}, "c": {}, "d": {}}, "v1")
    assert mesh.traverse({"a": 1.0}) == [("a", 1.0), ("b", 0.5)]


def test_a_replaced_document_has_its_new_neighbours_and_its_old_uses(open_mesh):
    mesh = open_mesh(hops=1)
    mesh.add({"a": {}, "b": {}, "c": {}, "new": {"a": 0.5}}, "v1")
    mesh.strengthen(["new", "c"])
    mesh.add({"new": {"b": 0.5}}, "v2")
    assert {id_ for id_, _ in mesh.traverse({"new": 1.0})} == {"new", "b", "c"}
    assert mesh.traverse({"a": 1.0}) == [("a", 1.0)]
    assert len(mesh) == 4


def test_a_deleted_document_is_neither_found_nor_passed_through(open_mesh):
    mesh = open_mesh(hops=4)
    chain(mesh)
    mesh.strengthen(["b", "c"])
    mesh.remove(["c", "nobody"], "v2")
    assert [id_ for id_, _ in mesh.traverse({"a": 1.0})] == ["a", "b"]
    assert mesh.traverse({"c": 1.0}) == []
    assert len(mesh) == 4


def test_a_new_document_has_no_edge_of_the_deleted_one_whose_place_it_takes(open_mesh):
    mesh = open_mesh()
    chain(mesh)
    mesh.strengthen(["a", "b"])
    mesh.remove(["b"], "v2")
    mesh.add({"new": {}}, "v3")
    assert mesh.traverse({"new": 1.0}) == [("new", 1.0)]
    mesh.add({"b": {}}, "v4")
    assert mesh.traverse({"b": 1.0}) == [("b", 1.0)]


def test_use_counts_and_fades(open_mesh, clock):
    mesh = open_mesh(hops=1)
    mesh.add({"a": {}, "b": {}, "c": {}}, "v1")

    def activation():
        return dict(mesh.traverse({"a": 1.0})).get("b", 0)

    assert activation() == 0
    for uses in (1, 2, 3):
        mesh.strengthen(["a", "b", "b"])
        assert activation() == pytest.approx(0.5 * uses / (uses + 1))
    clock.now += HALF_LIFE
    assert activation() == pytest.approx(0.5 * 1.5 / 2.5)
    mesh.strengthen(["a", "c"])  # writes the weights of a
    clock.now += HALF_LIFE
    assert activation() == pytest.approx(0.5 * 0.75 / 1.75)
    clock.now += 300 * HALF_LIFE
    assert activation() == 0


def test_what_is_not_known_is_not_used(open_mesh):
    mesh = open_mesh()
    chain(mesh)
    mesh.remove(["e"], "v2")
    mesh.strengthen(["a", "e", "nobody"])
    mesh.add({"e": {}, "nobody": {}}, "v3")
    assert mesh.traverse({"e": 1.0}) == [("e", 1.0)]
    assert mesh.traverse({"nobody": 1.0}) == [("nobody", 1.0)]


def test_of_a_thousand_used_together_the_first_are_linked(open_mesh):
    mesh = open_mesh(max_degree=4, neighbours=4, hops=1)
    mesh.add({str(n): {} for n in range(1000)}, "v1")
    mesh.strengthen([str(n) for n in range(1000)])
    assert [id_ for id_, _ in mesh.traverse({"0": 1.0})] == ["0", "1", "2", "3", "4"]
    assert mesh.traverse({"5": 1.0}) == [("5", 1.0)]


adding = st.tuples(st.just("add"), similarities)
using = st.tuples(st.just("strengthen"), st.lists(ids, max_size=5))
removing = st.tuples(st.just("remove"), st.sets(ids))
reopening = st.tuples(st.just("reopen"), st.none())


@given(history=st.lists(st.one_of(adding, using, removing, reopening), max_size=10), seeds=seeds)
def test_whatever_happens_only_what_is_there_is_active(history, seeds, tmp_path_factory):
    path = tmp_path_factory.mktemp("mesh") / "mesh.sqlite"
    config, clock, there = MeshConfig(neighbours=2, max_degree=2), Clock(), set()
    mesh = Mesh(config, path, clock)
    for step, (action, argument) in enumerate(history):
        match action:
            case "add":
                mesh.add(argument, f"v{step}")
                there |= {*argument}
            case "strengthen":
                mesh.strengthen(argument)
            case "remove":
                mesh.remove(argument, f"v{step}")
                there -= argument
            case "reopen":
                before = everything(mesh)
                mesh.close()
                mesh = Mesh(config, path, clock)
                assert everything(mesh) == before
        assert len(mesh) == len(there)
        found = mesh.traverse(seeds)
        assert {id_ for id_, _ in found} <= there
        assert seeds.keys() & there <= {id_ for id_, _ in found}
        assert all(0 < activation <= 1 for _, activation in found)
    mesh.close()


def test_several_threads_lose_no_use(open_mesh):
    mesh = open_mesh(hops=1)
    mesh.add({"a": {}, "b": {}}, "v1")

    def work(worker):
        for n in range(50):
            mesh.strengthen(["a", "b"])
            mesh.add({f"{worker}": {"a": 0.25}}, f"{worker}/{n}")
            mesh.strengthen(["a", f"{worker}"])
            assert [id_ for id_, _ in mesh.traverse({"b": 1.0})] == ["b", "a"]
            mesh.remove([f"{worker}"], f"{worker}/{n}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert mesh.traverse({"b": 1.0}) == [("b", 1.0), ("a", pytest.approx(0.5 * 200 / 201))]


# --- the file ----------------------------------------------------------------------------------------------


def used_and_changed(mesh):
    """A mesh with all that can happen behind it."""
    chain(mesh)
    mesh.add({id_: {"a": 0.3, "d1": 0.7} for id_ in IDS}, "v2")
    mesh.remove(["d1", "e"], "v3")
    mesh.strengthen(["a", "d5", "d2"])
    mesh.add({"f": {"d2": 0.9}}, "v4")


def test_it_opens_again_as_it_was(open_mesh, tmp_path, clock):
    path = tmp_path / "engine" / "mesh.sqlite"
    mesh = open_mesh(path)
    used_and_changed(mesh)
    clock.now += 10.5
    mesh.strengthen(["a", "f", "d2"])
    before = everything(mesh)
    mesh.close()
    for _ in range(2):
        mesh = open_mesh(path)
        assert everything(mesh) == before
        assert len(mesh) == 12
        mesh.reconcile([], "v4", pytest.fail)  # it is in step
        mesh.close()


@pytest.mark.parametrize(
    "settings", [{"max_degree": 2, "neighbours": 2}, {"half_life": 7.0}, {"max_degree": 99}]
)
def test_it_opens_with_other_settings(open_mesh, tmp_path, settings, clock):
    mesh = open_mesh(tmp_path / "mesh.sqlite", hops=1)
    used_and_changed(mesh)
    before = everything(mesh)
    mesh.close()
    mesh = open_mesh(tmp_path / "mesh.sqlite", hops=1, **settings)
    for found, had in zip(everything(mesh), before, strict=True):
        assert dict(found).keys() <= dict(had).keys()
        assert len(found) <= 1 + 2 * settings.get("max_degree", 16)
    clock.now += 7
    mesh.strengthen(["a", "f"])
    assert "f" in dict(mesh.traverse({"a": 1.0}))


def as_after_a_crash(path, folder):
    """A copy of what is on disk now."""
    return shutil.copytree(path.parent, path.parent.with_name(folder)) / path.name


def test_a_crash_takes_at_most_a_minute_of_use_and_nothing_else(open_mesh, tmp_path, clock):
    path = tmp_path / "engine" / "mesh.sqlite"
    mesh = open_mesh(path)
    used_and_changed(mesh)
    before = everything(mesh)
    clock.now += 59
    mesh.strengthen(["b", "d7"])
    clock.now -= 59
    assert everything(open_mesh(as_after_a_crash(path, "first"))) == before
    clock.now += 60
    mesh.strengthen(["c", "d7"])
    assert everything(open_mesh(as_after_a_crash(path, "second"))) == everything(mesh) != before


def test_where_documents_changed_unseen_it_forgets_the_gone_and_links_the_new(open_mesh, tmp_path):
    path = tmp_path / "mesh.sqlite"
    mesh = open_mesh(path, hops=4)
    chain(mesh)
    mesh.strengthen(["a", "b"])
    mesh.close()
    mesh = open_mesh(path, hops=4)
    asked = []

    def similar_to(ids):
        asked.extend(ids)
        return {id_: {"x": 0.5, "a": 0.25, "c": 0.9} for id_ in ids}

    mesh.reconcile(iter(["a", "b", "x", "y", "e"]), "v2", similar_to)
    assert asked == ["x", "y", "e"]  # e was linked to d only
    assert len(mesh) == 5
    assert {id_ for id_, _ in mesh.traverse({"y": 1.0})} == {"y", "x", "a", "b", "e"}
    assert mesh.traverse({"c": 1.0}) == mesh.traverse({"d": 1.0}) == []
    assert "b" in dict(mesh.traverse({"a": 1.0}))
    before = everything(mesh)
    mesh.close()
    mesh = open_mesh(path, hops=4)
    mesh.reconcile([], "v2", pytest.fail)
    assert everything(mesh) == before


def test_a_whole_store_is_linked_a_thousand_at_a_time(open_mesh):
    mesh = open_mesh(hops=1)
    numbers = range(2500)
    asked = []

    def similar_to(ids):
        asked.append(len(ids))
        return {id_: {str((int(id_) + 1) % 2500): 0.5} for id_ in ids}

    mesh.reconcile(map(str, numbers), "v1", similar_to)
    assert asked == [1000, 1000, 500]
    assert {id_ for id_, _ in mesh.traverse({"999": 1.0})} == {"998", "999", "1000"}
    assert {id_ for id_, _ in mesh.traverse({"0": 1.0})} == {"2499", "0", "1"}


@contextmanager
def files_of_at_most(size):
    """Writes past `size` bytes of any file fail, as they do on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_a_full_disk_refused_is_written_with_the_next_change(open_mesh, tmp_path):
    path = tmp_path / "engine" / "mesh.sqlite"
    mesh = open_mesh(path)
    chain(mesh)
    log = path.with_name("mesh.sqlite-wal").stat().st_size
    with files_of_at_most(log), pytest.raises(StorageError, match=r"mesh\.sqlite: .*; check the disk"):
        mesh.remove(["c"], "v2")
    assert [id_ for id_, _ in mesh.traverse({"a": 1.0})] == ["a", "b"]
    assert len(open_mesh(as_after_a_crash(path, "crashed"))) == 5
    mesh.add({"x": {"a": 0.5}}, "v3")
    before = everything(mesh)
    mesh.close()
    mesh = open_mesh(path)
    assert everything(mesh) == before
    assert len(mesh) == 5


def test_a_file_that_is_not_a_mesh_is_refused_and_left_alone(tmp_path):
    text, foreign, newer = (tmp_path / name for name in ("text", "foreign", "newer"))
    text.write_text("not a database, " * 100)
    with closing(sqlite3.connect(foreign)) as file:
        file.execute("CREATE TABLE things (x)")
    Mesh(MeshConfig(), newer).close()
    with closing(sqlite3.connect(newer)) as file:
        file.execute("PRAGMA user_version = 2")
    for path, reason in (
        (text, "text: file is not a database; check the disk, or move the file away"),
        (foreign, "foreign has mesh format 0 of application 0x0, expected 1 of"),
        (newer, "newer has mesh format 2 of"),
    ):
        before = path.read_bytes()
        with pytest.raises(StorageError, match=reason):
            Mesh(MeshConfig(), path)
        assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["x'00'", "x'7700000000000000'"])
def test_a_damaged_mesh_is_refused_with_the_remedy(open_mesh, tmp_path, damage):
    path = tmp_path / "mesh.sqlite"
    mesh = open_mesh(path)
    chain(mesh)
    mesh.close()
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(f"UPDATE nodes SET similar = {damage} WHERE id = 'b'")  # noqa: S608
    with pytest.raises(StorageError, match=r"mesh\.sqlite: .*; move the file away: the mesh is made anew"):
        open_mesh(path)
    path.unlink()
    mesh = open_mesh(path)
    mesh.reconcile(["a", "b"], "v1", lambda ids: {id_: {"b": 0.5} for id_ in ids})
    assert [id_ for id_, _ in mesh.traverse({"a": 1.0})] == ["a", "b"]
