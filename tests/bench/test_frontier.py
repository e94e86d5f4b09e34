import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import frontier
from bench.config import ObjectiveConfig
from bench.frontier import AXES, Failure, Point
from bench.metrics import METRICS, Measured
from bench.record import DatasetFacts, RunRecord, Validity

BETTER = {key: METRICS[axis.metric].better for key, axis in AXES["memory"].items()}


def measured(axis, value, low=None, high=None, **why):
    metric = METRICS[AXES["memory"][axis].metric]
    # Not validated: a NaN must do no harm either.
    return Measured.model_construct(
        name=metric.name,
        unit=metric.unit,
        better=metric.better,
        value=value,
        ci_low=low,
        ci_high=high,
        labels={},
        **{"reason": None, "reasons": [], **why},
    )


def point(cell, valid=True, **values):
    """A point with values on its axes: a number, a number and its interval, or the whole metric."""
    found = {}
    for axis, value in values.items():
        given = value if isinstance(value, tuple) else (value,) * 3
        found[axis] = value if isinstance(value, Measured) else measured(axis, *given)
    return Point(cell, (f"index.efSearch={cell}",), "IndexHNSW", valid, found)


def objective(recall=None, p95=None, memory=None):
    return ObjectiveConfig(recall=recall, p95=p95, memory=memory)


def cells(points):
    return [point.cell for point in points]


# Few values, so that ties and equal points are common.
VALUES = st.sampled_from([0.0, 1.0, 2.0, 3.0])
MISSING = st.sampled_from([None, math.nan, math.inf])
AXIS_SETS = st.sampled_from(
    [("recall", "p95"), ("recall", "memory"), ("recall", "p95", "memory"), ("recall",)]
)


@st.composite
def point_lists(draw, values=VALUES | MISSING):
    drawn = draw(st.lists(st.tuples(st.booleans(), values, values, values), max_size=12))
    return [
        point(cell, valid, recall=recall, p95=p95, memory=memory)
        for cell, (valid, recall, p95, memory) in enumerate(drawn, start=1)
    ]


def dominates(one, other, axes):
    """The definition, word for word."""
    better = {"higher": lambda a, b: a > b, "lower": lambda a, b: a < b}
    pairs = [(better[BETTER[axis]], one.value(axis), other.value(axis)) for axis in axes]
    return any(is_better(a, b) for is_better, a, b in pairs) and not any(
        is_better(b, a) for is_better, a, b in pairs
    )


@given(point_lists(), AXIS_SETS)
def test_the_frontier_is_what_no_other_dominates(points, axes):
    best = frontier.pareto(points, axes)
    whole = [point for point in points if point.valid and all(point.value(axis) is not None for axis in axes)]
    assert all(point in whole for point in best)
    for point in whole:
        dominated = any(dominates(other, point, axes) for other in whole)
        assert (point in best) == (not dominated)
        assert not dominated or any(dominates(other, point, axes) for other in best)
    assert bool(best) == bool(whole)


@given(point_lists(), AXIS_SETS, st.randoms(use_true_random=False))
def test_the_frontier_does_not_depend_on_the_order(points, axes, random):
    shuffled = random.sample(points, len(points))
    assert sorted(cells(frontier.pareto(shuffled, axes))) == cells(frontier.pareto(points, axes))


def test_equal_points_stay():
    points = [point(1, recall=0.9, p95=2.0), point(2, recall=0.9, p95=2.0), point(3, recall=0.9, p95=3.0)]
    assert cells(frontier.pareto(points, ("recall", "p95"))) == [1, 2]


def test_each_axis_counts_in_its_own_direction():
    points = [point(1, recall=0.9, throughput=10.0), point(2, recall=0.8, throughput=20.0)]
    points.append(point(3, recall=0.8, throughput=15.0))
    assert cells(frontier.pareto(points, ("recall", "throughput"))) == [1, 2]


def test_latency_is_p95_or_the_mean_where_no_cell_has_p95():
    without = [point(1, recall=0.9, mean=1.0), point(2, recall=0.8, mean=2.0)]
    assert list(frontier.frontiers(without)) == [("recall", "mean")]
    one_has = [*without, point(3, recall=0.7, mean=3.0, p95=4.0, memory=5.0)]
    assert {axes: cells(best) for axes, best in frontier.frontiers(one_has).items()} == {
        ("recall", "p95"): [3],
        ("recall", "memory"): [3],
        ("recall", "p95", "memory"): [3],
    }


# --- the cheapest --------------------------------------------------------------------------------------


def test_the_cheapest_has_the_fewest_bytes_then_the_lowest_latency_then_the_shortest_build():
    meets = {"recall": (0.97, 0.96, 0.98)}
    points = [
        point(1, **meets, memory=200.0, p95=1.0, build=1.0),
        point(2, **meets, memory=100.0, p95=3.0, build=1.0),
        point(3, **meets, memory=100.0, p95=2.0, build=2.0),
        point(4, **meets, memory=100.0, p95=2.0, build=1.0),
        point(5, recall=(0.90, 0.89, 0.91), memory=50.0, p95=1.0, build=1.0),
    ]
    choice = frontier.cheapest(points, objective(recall=0.95))
    assert (choice.verdict, choice.point.cell, choice.doubts) == ("proven", 4, ())


def test_an_interval_that_straddles_the_bound_proves_nothing_and_loses_to_one_that_does_not():
    cheap = point(1, recall=(0.96, 0.94, 0.98), memory=100.0)
    dear = point(2, recall=(0.97, 0.96, 0.98), memory=200.0)
    choice = frontier.cheapest([cheap, dear], objective(recall=0.95))
    assert (choice.verdict, choice.point, choice.cheaper) == ("proven", dear, cheap)
    assert frontier.cheapest(
        [dear, point(3, recall=cheap.measured["recall"], memory=300.0)], objective(recall=0.95)
    ) == (frontier.Choice("proven", dear))
    choice = frontier.cheapest([cheap], objective(recall=0.95))
    assert (choice.verdict, choice.point) == ("not proven", cheap)
    assert choice.doubts == (("recall", "more queries would narrow its interval"),)


def test_among_the_unproven_those_whose_values_meet_the_bounds_come_first():
    outside = point(1, recall=(0.94, 0.92, 0.96), memory=100.0)
    inside = point(2, recall=(0.96, 0.94, 0.98), memory=200.0)
    assert frontier.cheapest([outside, inside], objective(recall=0.95)).point == inside


def test_a_timing_without_an_interval_is_in_doubt_with_what_it_needs():
    reason = "3 of the 5 processes an interval needs"
    unsure = point(1, recall=1.0, p95=measured("p95", 0.001, reason=reason))
    choice = frontier.cheapest([unsure], objective(recall=0.9, p95=0.005))
    assert (choice.verdict, choice.doubts) == ("not proven", (("p95", reason),))
    wide = point(2, recall=1.0, p95=(0.004, 0.003, 0.006))
    choice = frontier.cheapest([wide], objective(p95=0.005))
    assert choice.doubts == (("p95", "more repeats would narrow its interval"),)
    absent = frontier.cheapest([point(3, recall=1.0), wide], objective(p95=0.002))
    assert (absent.verdict, absent.point.cell) == ("not proven", 3)
    assert absent.doubts == (("p95", "it was not measured"),)


def test_a_bound_on_what_no_cell_measured_cannot_be_judged():
    choice = frontier.cheapest([point(1, recall=1.0)], objective(recall=0.9, p95=0.005))
    assert (choice.verdict, choice.point) == ("none", None)
    assert choice.doubts == (("p95", "it was not measured"),)


def test_what_is_not_fit_to_be_judged_proves_nothing():
    unfit = point(1, p95=measured("p95", 0.001, 0.001, 0.001, reasons=["the machine was noisy"]))
    choice = frontier.cheapest([unfit], objective(p95=0.005))
    assert (choice.verdict, choice.doubts) == ("not proven", (("p95", "the machine was noisy"),))
    assert frontier.cheapest([unfit], objective(p95=0.0005)).verdict == "not proven"


def test_where_all_fail_there_is_no_choice_and_without_a_bound_there_is_no_question():
    points = [point(1, recall=(0.5, 0.4, 0.6)), point(2, valid=False, recall=1.0)]
    assert frontier.cheapest(points, objective(recall=0.95)).verdict == "none"
    assert frontier.cheapest(points, objective()) is None
    assert frontier.cheapest([], objective(recall=0.95)).point is None


INTERVALS = st.tuples(VALUES, VALUES, VALUES).map(sorted).map(lambda ends: (ends[1], ends[0], ends[2]))


@given(
    point_lists(INTERVALS | VALUES | st.none()),
    st.sampled_from([None, 1.0]),
    st.sampled_from([None, 1.0, 2.0]),
)
def test_nothing_invalid_or_failing_wins_and_nothing_proven_is_cheaper(points, recall, p95):
    wanted = objective(recall=recall, p95=p95)
    choice = frontier.cheapest(points, wanted)
    if choice is None or choice.point is None:
        return
    assert choice.point.valid

    def proven(point):
        found = point.measured
        ends = {"recall": found["recall"].ci_low, "p95": found["p95"].ci_high}
        enough = recall is None or (ends["recall"] is not None and ends["recall"] >= recall)
        return enough and (p95 is None or (ends["p95"] is not None and ends["p95"] <= p95))

    sure = [point for point in points if point.valid and proven(point)]
    assert (choice.verdict == "proven") == bool(sure)
    size = choice.point.value("memory")
    if sure:
        assert choice.point in sure
        sizes = [point.value("memory") for point in sure if point.value("memory") is not None]
        assert size == min(sizes, default=None)


# --- from records --------------------------------------------------------------------------------------


def record(command, metrics=(), **more):
    class Facts:
        fingerprint, sha256 = more.get("machine", "m"), more.get("data", "d")
        counts = more.get("counts", {"documents": 9})

    return RunRecord.model_construct(
        command=command,
        metrics=list(metrics),
        experiment={"index": {"kind": "IndexFlat"}, "embedding": more.get("embedding", {})},
        machine=Facts,
        dataset=Facts,
        memory_vectors=more.get("memory_vectors"),
        validity=Validity(valid=more.get("valid", True), reasons=[], notes=[]),
    )


def test_a_points_own_overrides_are_those_that_not_every_cell_has():
    records = [record(["a=1", "index=flat"]), record(["a=1", "index=hnsw", "index.M=8"])]
    assert [point.own for point in frontier.points(records)] == [("index=flat",), ("index=hnsw", "index.M=8")]
    assert frontier.points(records[:1])[0].own == ()
    failed = Failure(["a=1", "index=pq"], "M must divide 128")
    assert frontier.points(records[:1], [failed])[0].own == ("index=flat",)


def test_a_sweep_is_judged_by_the_suite_that_searched():
    vectors = measured("recall", 0.9)
    texts = vectors.model_copy(update={"name": "query.recall_at_10", "labels": {"phase": "cold"}})
    size = measured("memory", 100.0)
    assert frontier.judged([record([], [size]), record([], [texts, vectors])]) == "memory"
    assert frontier.judged([record([], [texts])]) == "query"
    assert frontier.judged([record([], [size])]) is None
    assert frontier.points([record([], [texts])])[0].value("recall") == 0.9
    assert frontier.points([record([], [size])])[0].measured == {}


def test_records_of_two_machines_or_two_data_sets_do_not_compare():
    assert frontier.differences([record([]), record([])]) == []
    assert frontier.differences([record([]), record([], machine="other")]) == ["machine"]
    assert frontier.differences([record([]), record([], data="other")]) == ["data"]
    assert frontier.differences([record([]), record([], data="other", valid=False)]) == []


def test_texts_compare_where_the_query_suite_is_judged_and_vectors_where_the_memory_suite_is():
    vectors = DatasetFacts(name="synthetic", sha256="v", counts={"vectors": 5}, facts={})
    memory = measured("recall", 0.9)
    query = memory.model_copy(update={"name": "query.recall_at_10", "labels": {"phase": "cold"}})

    def differ(metric, **more):
        return frontier.differences([record([], [metric]), record([], [metric], **more)])

    def data_differ(metric):
        return frontier.differences(
            [record([], [metric], data=data, memory_vectors=vectors) for data in ("one", "other")]
        )

    assert (data_differ(query), data_differ(memory)) == (["data"], [])
    other = {"embedding": {"kind": "hashing"}}
    assert (differ(query, **other), differ(memory, **other)) == ([], ["embedding"])
    assert differ(memory, embedding={"batch_size": 64, "shared_batch": 1}) == []
    assert differ(memory, memory_vectors=vectors, data="v") == ["data"]
    searched = [record([], [memory], memory_vectors=vectors, **more) for more in ({}, other)]
    assert frontier.differences(searched) == []


@pytest.mark.parametrize("suite", AXES)
def test_every_axis_is_a_metric_and_means_the_same_in_each_suite(suite):
    for key, axis in AXES[suite].items():
        metric = METRICS[axis.metric]
        assert metric.suite == suite
        if key in AXES["memory"] and key != "throughput":
            assert metric.unit == METRICS[AXES["memory"][key].metric].unit
            assert metric.better == BETTER[key]
            assert axis.title == AXES["memory"][key].title


def test_every_bound_of_an_objective_is_an_axis():
    assert set(ObjectiveConfig.model_fields) <= set(AXES["memory"])
