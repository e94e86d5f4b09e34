"""Filters and questions against plain Python: what they mean, on every kind of store."""

import json
import re
from collections import defaultdict
from contextlib import closing
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brein import storage
from brein.errors import DataError
from brein.records import Document
from brein.storage import StorageConfig
from brein.storage.filters import canonical, condition

NAMES = st.sampled_from(["user_id", "n", 'quo"te', "ü", "a.b", ""])
TEXTS = st.sampled_from(["", "a", "b", "B", "10", "ü", "a\0b", "1"])
NUMBERS = st.integers(-3, 3) | st.sampled_from(
    [0.0, -0.5, 1.0, 2.5, 1e300, 0.1, 2**63 - 1, -(2**63), 2.0**53]
)
VALUES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
METADATA = st.dictionaries(NAMES, VALUES, max_size=4)
TESTS = st.one_of(
    VALUES,
    st.lists(VALUES, max_size=3),
    st.dictionaries(st.sampled_from(["eq", "ne"]), VALUES, min_size=1, max_size=2),
    st.dictionaries(
        st.sampled_from(["lt", "lte", "gt", "gte"]), NUMBERS | st.booleans() | TEXTS, min_size=1, max_size=2
    ),
    st.fixed_dictionaries({"in": st.lists(VALUES, max_size=3)}),
)
FILTERS = st.dictionaries(NAMES, TESTS, max_size=3)
SHARDS = st.sampled_from([StorageConfig(shards=3), StorageConfig(shards=4, shard_key="user_id")])
PLAIN = StorageConfig()


def comparable(a, b):
    return isinstance(a, str) == isinstance(b, str) and a is not None and b is not None


MEANING = {
    "eq": lambda value, operand: value == operand,
    "ne": lambda value, operand: value != operand,
    "in": lambda value, operand: value in operand,
    "lt": lambda value, operand: comparable(value, operand) and value < operand,
    "lte": lambda value, operand: comparable(value, operand) and value <= operand,
    "gt": lambda value, operand: comparable(value, operand) and value > operand,
    "gte": lambda value, operand: comparable(value, operand) and value >= operand,
}


def fulfils(metadata, where):
    """The reference: what Python makes of the same filter."""
    for name, wanted in where.items():
        tests = wanted if isinstance(wanted, dict) else {"in" if isinstance(wanted, list) else "eq": wanted}
        if not all(MEANING[operator](metadata.get(name), operand) for operator, operand in tests.items()):
            return False
    return True


def opened(config, metadata):
    store = storage.create(config, None)
    documents = [Document(f"{n:03}", f"text {n % 3}", fields) for n, fields in enumerate(metadata)]
    store.add(documents, np.ones((len(documents), 2), dtype=np.float32), "space")
    return closing(store)


@given(st.lists(METADATA, max_size=12), FILTERS, st.sampled_from([PLAIN]) | SHARDS)
def test_a_filter_finds_what_python_finds(metadata, where, config):
    with opened(config, metadata) as store:
        assert store.find(where) == [f"{n:03}" for n, m in enumerate(metadata) if fulfils(m, where)]


FIELDS = st.sampled_from(
    ["id", "text", "metadata.user_id", "metadata.n", 'metadata.quo"te', "metadata.nobody"]
)
ORDERS = st.lists(FIELDS | FIELDS.map(lambda field: f"-{field}"), max_size=3)


@given(
    st.lists(METADATA, max_size=15),
    st.lists(FIELDS, min_size=1, max_size=3),
    FILTERS,
    st.tuples(ORDERS, st.none() | st.integers(0, 8), st.integers(0, 8)),
    SHARDS,
)
def test_shards_answer_a_query_as_one_file_does(metadata, fields, where, page, config):
    order_by, limit, offset = page
    with opened(PLAIN, metadata) as plain, opened(config, metadata) as sharded:
        rows = sharded.query(fields, where, order_by, limit, offset)
        assert rows == plain.query(fields, where, order_by, limit, offset)
        every = plain.query(["id"], where, order_by)
        assert sorted(id_ for (id_,) in every) == plain.find(where)
        assert len(rows) == len(every[offset:][:limit])


AGGREGATES = st.tuples(st.sampled_from(["count", "sum", "min", "max", "avg"]), FIELDS)


@given(
    st.lists(METADATA, max_size=15),
    st.lists(AGGREGATES, min_size=1, max_size=3),
    FILTERS,
    st.lists(FIELDS, max_size=2),
    SHARDS,
)
def test_shards_aggregate_as_one_file_does(metadata, functions, where, group_by, config):
    with opened(PLAIN, metadata) as plain, opened(config, metadata) as sharded:
        expected = plain.aggregate(functions, where, group_by)
        rows = sharded.aggregate(functions, where, group_by)
        assert len(rows) == len(expected)
        for row, wanted in zip(rows, expected, strict=True):
            for value, one in zip(row, wanted, strict=True):
                # Only the order of a float sum differs; the largest numbers drown the smallest.
                assert value == (pytest.approx(one, rel=1e-9, abs=1e286) if isinstance(one, float) else one)


@given(st.lists(st.tuples(TEXTS, st.integers(-1000, 1000)), max_size=30), SHARDS)
def test_aggregates_are_what_python_computes(pairs, config):
    with opened(config, [{"user_id": user, "n": n} for user, n in pairs]) as store:
        groups = defaultdict(list)
        for user, n in pairs:
            groups[user].append(n)
        functions = [(name, "metadata.n") for name in ("count", "sum", "min", "max", "avg")]
        assert store.aggregate(functions, group_by=["metadata.user_id"]) == [
            (user, len(n), sum(n), min(n), max(n), sum(n) / len(n)) for user, n in sorted(groups.items())
        ]


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("x = 1", "where = 'x = 1': must map names of metadata fields to conditions"),
        (5, "where = 5: must map names"),
        ([], "where = []: must map names"),
        ({1: 2}, "filter on 1: the name of a metadata field is a valid text"),
        ({"\ud800": 2}, "is a valid text"),
        ({"x": {}}, "filter on 'x': no operator is given; known: eq, ne, lt, lte, gt, gte, in"),
        ({"x": {"regex": "a"}}, "filter on 'x': operator 'regex' is unknown; known: eq, ne, lt"),
        ({"x": {"in": "abc"}}, "filter on 'x': in = 'abc': must be a list of values"),
        ({"x": {"eq": [1]}}, "filter on 'x': eq = [1]: a list cannot be compared"),
        ({"x": {1, 2}}, "filter on 'x': eq = {1, 2}: a set cannot be compared"),
        ({"x": {"in": {1}}}, "filter on 'x': in = {1}: must be a list of values"),
        ({"x": b"a"}, "filter on 'x': eq = b'a': a bytes cannot be compared"),
        ({"x": [np.int64(1)]}, "a int64 cannot be compared; give a text, a number, a boolean or null"),
        ({"x": {("eq",): 1}}, "filter on 'x': operator ('eq',) is unknown"),
        ({"x": {"lt": None}}, "filter on 'x': lt = null: null has no order; use eq or ne"),
        ({"x": 2**63}, "filter on 'x': eq = 9223372036854775808: an integer takes at most 64 bits"),
        ({"x": [float("inf")]}, "filter on 'x': in = inf: a number must be finite"),
        ({"x": "\ud800"}, "not valid Unicode"),
        ({"x": list(range(40_000))}, "the filter holds 40000 values; split it, 30000 is the most"),
        ({f"{n}": n for n in range(501)}, "the filter holds 501 conditions; split it, 500 is the most"),
    ],
)
@pytest.mark.parametrize("read", [canonical, condition])
def test_a_malformed_filter_is_refused_with_the_reason(read, where, reason):
    with pytest.raises(DataError, match=re.escape(reason)):
        read(where)


@given(FILTERS, st.randoms(use_true_random=False))
def test_a_filter_written_in_another_order_has_the_same_canonical_form(where, random):
    def turned(mapping):
        pairs = list(mapping.items())
        random.shuffle(pairs)
        return MappingProxyType(dict(pairs))

    other = turned({name: turned(test) if isinstance(test, dict) else test for name, test in where.items()})
    assert json.dumps(canonical(other)) == json.dumps(canonical(where))
    assert condition(other) == condition(where)


@given(FILTERS, FILTERS)
def test_filters_of_one_canonical_form_ask_the_same(one, other):
    same = json.dumps(canonical(one)) == json.dumps(canonical(other))
    assert same <= (condition(one) == condition(other))


def test_the_canonical_form_names_every_test():
    where = {"year": {"lt": 2024, "gte": 2020}, "lang": ("en", None), "draft": False}
    assert canonical(where) == [
        ("draft", "eq", False),
        ("lang", "in", ["en", None]),
        ("year", "gte", 2020),
        ("year", "lt", 2024),
    ]
    assert canonical(None) == canonical({}) == []


def test_only_fixed_words_go_into_the_statement():
    sql, values = condition({"x'": "y'", "z;": {"gte": 1, "lt": "--"}, "w": ["a", None]})
    assert re.fullmatch(r"[A-Za-z_?<>='(), ]+", sql)
    assert sql.count("?") == len(values) == 9
    assert "'" not in sql.replace("''", "")


@pytest.mark.parametrize("test", [{"ne": None}, {"gte": 1, "lt": 2}, [1, None]], ids=["ne", "between", "in"])
def test_the_most_conditions_are_one_filter(test):
    where = {f"{n}": test for n in range(500 // max(1, len(test) if isinstance(test, dict) else 1))}
    with opened(StorageConfig(shards=3), [dict.fromkeys(where, 1), {}]) as store:
        assert store.query(["id"], where)[0] == ("000",)
        assert store.find(where)[0] == "000"


def test_a_large_list_of_values_is_one_filter():
    with opened(PLAIN, [{"n": n} for n in range(50)]) as store:
        assert len(store.find({"n": list(range(25, 29_000))})) == 25
