"""Which cells a sweep has: a Hydra Sweeper whose presets are unions of grids.

A preset's `hydra.sweeper.grids` is a list; each grid maps overrides to a value or a list of values, and gives
every combination of them. Comma-separated values on the command line multiply with every grid. Where the
command line overrides what a grid has, it takes the place of a list, and leaves out a grid whose single value
it contradicts. `each` are overrides of every cell that the command line does not override itself. Cells that
come out equal are measured once. A cell's overrides reproduce it alone: the preset is not among them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from bench.errors import UsageError

MOST_CELLS = 10_000  # more is a slip of the keyboard
_OF_THE_SWEEP = ("hydra.", "hydra/", "paths.", "name=", "+", "~", "-")


class GridSweeper(Sweeper):
    """Hands all cells of all `grids` to the launcher at once."""

    def __init__(self, each: Mapping[str, Any], grids: Sequence[Mapping[str, Any]]) -> None:
        self._each, self._grids = each, grids

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what a sweep needs; Hydra calls this."""
        self._context, self._config = hydra_context, config
        self._launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Launch every cell.

        Raises:
            UsageError: an argument sweeps in a way that is no list of values, or there are too many cells.
        """
        grids: Any = OmegaConf.to_container(OmegaConf.create({"grids": self._grids}), resolve=True)
        given = {key: [_text(key, value)] for key, value in self._each.items()} | self._given(arguments)
        return [self._launcher.launch(combine(grids["grids"], given), initial_job_idx=0)]

    def _given(self, arguments: list[str]) -> dict[str, list[str]]:
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        given: dict[str, list[str]] = {}
        for override in parser.parse_overrides(arguments):
            key = override.get_key_element()
            if key == "+sweep":
                if not isinstance(override.value(), str):
                    raise UsageError(
                        f"{override.input_line}: give one preset; a union of grids makes another"
                    )
                continue
            if not override.is_sweep_override():
                given[key] = [f"{key}={override.get_value_element_as_str()}"]
            elif override.is_discrete_sweep():
                given[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            else:
                raise UsageError(f"{override.input_line} is no list of values; write {key}=1,2,3")
        return given


def combine(grids: Sequence[Mapping[str, Any]], given: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """The overrides of every cell: each grid's combinations, times those `given` on the command line.

    Raises:
        UsageError: no grid agrees with the command line, or there are more than `MOST_CELLS`.
    """
    cells: dict[tuple[str, ...], None] = {}
    for grid in grids or [{}]:
        for cell in itertools.product(*_choices(grid, given)):
            cells[cell] = None
            if len(cells) > MOST_CELLS:
                raise UsageError(f"the sweep has more than {MOST_CELLS:,} cells; give fewer values")
    if not cells:
        own = {key for grid in grids for key in grid}
        asked = ", ".join(text for key, texts in given.items() if key in own for text in texts)
        raise UsageError(f"no grid of the sweep agrees with {asked}; `+sweep=` presets are in conf/sweep/")
    return [list(cell) for cell in cells]


def _choices(grid: Mapping[str, Any], given: Mapping[str, Sequence[str]]) -> list[Sequence[str]]:
    """For each key of the command line, then of the grid, the overrides to choose from."""
    choices = dict(given)
    for key, value in grid.items():
        if not isinstance(value, list):
            only = _text(key, value)
            choices[key] = [only] if only in given.get(key, [only]) else []
        elif key not in given:
            choices[key] = [_text(key, one) for one in value]
    return list(choices.values())


def _text(key: str, value: Any) -> str:
    return f"{key}={value if isinstance(value, str) else json.dumps(value)}"


def given(arguments: Sequence[str], key: str) -> list[str]:
    """The values that arguments give a key, unquoted."""
    parsed = OverridesParser.create().parse_overrides(list(arguments))
    return [str(override.value()) for override in parsed if override.get_key_element() == key]


def left_to_cells(arguments: Sequence[str]) -> list[str]:
    """The arguments of a sweep, with single values written as sweeps of one.

    Hydra composes the arguments of a sweep once without those that sweep, and there `index.efSearch=64` does
    not fit, if it is the sweep that chooses an index which has it. What the sweep's folder depends on stays.
    """
    parser = OverridesParser.create()
    return [
        argument if argument.startswith(_OF_THE_SWEEP) else _sweep_of_one(argument, parser)
        for argument in arguments
    ]


def _sweep_of_one(argument: str, parser: OverridesParser) -> str:
    key, _, value = argument.partition("=")
    one = f"{key}=choice({value})"
    try:
        sweeps = parser.parse_override(argument).is_sweep_override()
        parser.parse_override(one)
    except HydraException:
        return argument  # Hydra says what is wrong with it
    return argument if sweeps else one


def arguments(hydra: Path) -> list[str]:
    """What a run or sweep was started with, from the file that Hydra keeps of itself."""
    begun: Any = OmegaConf.to_container(OmegaConf.load(hydra).hydra.overrides)  # "${…}" as they were typed
    return [*begun["hydra"], *begun["task"]]
