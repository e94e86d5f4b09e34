import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import sweeper
from bench.errors import UsageError
from bench.sweeper import combine


def test_a_grid_gives_every_combination_and_several_grids_their_union():
    grids = [{"index": "flat"}, {"index": "hnsw", "index.M": [16, 32], "index.efSearch": [8, 64]}]
    assert combine(grids, {}) == [
        ["index=flat"],
        ["index=hnsw", "index.M=16", "index.efSearch=8"],
        ["index=hnsw", "index.M=16", "index.efSearch=64"],
        ["index=hnsw", "index.M=32", "index.efSearch=8"],
        ["index=hnsw", "index.M=32", "index.efSearch=64"],
    ]


def test_without_grids_the_command_line_is_the_sweep():
    assert combine([], {"a": ["a=1", "a=2"], "b": ["b=3"]}) == [["a=1", "b=3"], ["a=2", "b=3"]]


def test_the_command_line_multiplies_with_every_grid():
    cells = combine([{"index": "flat"}, {"index": "pq"}], {"storage": ["storage=sqlite", "storage=sharded"]})
    assert len(cells) == 4
    assert ["storage=sharded", "index=pq"] in cells


def test_the_command_line_takes_the_place_of_a_list():
    cells = combine(
        [{"index": "hnsw", "index.efSearch": [8, 64]}], {"index.efSearch": ["index.efSearch=100"]}
    )
    assert cells == [["index.efSearch=100", "index=hnsw"]]


def test_a_grid_that_the_command_line_contradicts_is_left_out():
    grids = [{"index": "flat"}, {"index": "hnsw", "index.efSearch": [8, 64]}]
    cells = combine(grids, {"index": ["index=hnsw"]})
    assert cells == [["index=hnsw", "index.efSearch=8"], ["index=hnsw", "index.efSearch=64"]]
    assert len(combine(grids, {"index": ["index=hnsw", "index=flat"]})) == 3


def test_a_command_line_that_no_grid_agrees_with_is_refused():
    with pytest.raises(UsageError, match="no grid of the sweep agrees with index=pq"):
        combine([{"index": "flat"}], {"index": ["index=pq"]})


def test_equal_cells_are_one():
    grids = [{"index": "hnsw", "index.efSearch": [8, 64]}, {"index": "hnsw", "index.efSearch": [64, 128]}]
    assert len(combine(grids, {})) == 3


def test_lists_null_and_booleans_are_written_as_hydra_reads_them():
    grids = [{"suites": "[memory]", "limit": [None, 3], "index.memory_map": True, "parts": [["a", "b"]]}]
    assert combine(grids, {})[0] == [
        "suites=[memory]", "limit=null", "index.memory_map=true", 'parts=["a", "b"]'
    ]  # fmt: skip


def test_a_slip_of_the_keyboard_is_refused_before_it_fills_the_memory():
    values = {f"a{n}": [f"a{n}={v}" for v in range(100)] for n in range(5)}
    with pytest.raises(UsageError, match=f"more than {sweeper.MOST_CELLS:,} cells"):
        combine([], values)


KEYS = st.sampled_from(["a", "b", "c", "d"])
GRID = st.dictionaries(
    KEYS, st.integers(0, 3) | st.lists(st.integers(0, 3), min_size=1, max_size=3), max_size=4
)


@given(st.lists(GRID, min_size=1, max_size=3))
def test_every_cell_sets_what_one_grid_has_and_none_comes_twice(grids):
    cells = combine(grids, {})
    assert len({tuple(cell) for cell in cells}) == len(cells)
    for cell in cells:
        settings = dict(text.split("=") for text in cell)
        assert any(
            settings.keys() == grid.keys()
            and all(
                settings[key] in map(str, value if isinstance(value, list) else [value])
                for key, value in grid.items()
            )
            for grid in grids
        )


def test_single_values_are_left_to_the_cells_and_what_the_folder_depends_on_is_not():
    given = ["+profile=smoke", "paths.runs=x", "name=a", "hydra.sweep.dir=y", "-m", "a=1,2", "a=choice(1,2)"]
    assert sweeper.left_to_cells(given) == given
    assert sweeper.left_to_cells(["index=hnsw", "index.efSearch=9", "suites=[memory]", "a='b, c'"]) == [
        "index=choice(hnsw)", "index.efSearch=choice(9)", "suites=choice([memory])", "a=choice('b, c')"
    ]  # fmt: skip
    assert sweeper.left_to_cells(["what is this"]) == ["what is this"]


def test_a_folder_that_was_given_is_known_whatever_its_quotes():
    given = ["index=flat", "hydra.run.dir='a b'", "hydra.run.dir=c"]
    assert sweeper.given(given, "hydra.run.dir") == ["a b", "c"]


def test_what_a_run_was_begun_with_is_found_as_it_was_typed(tmp_path):
    begun = {
        "hydra": {"overrides": {"hydra": ["hydra.mode=RUN"], "task": ["paths.artifacts=${paths.runs}/a"]}}
    }
    (tmp_path / "hydra.yaml").write_text(json.dumps(begun))
    assert sweeper.arguments(tmp_path / "hydra.yaml") == ["hydra.mode=RUN", "paths.artifacts=${paths.runs}/a"]
