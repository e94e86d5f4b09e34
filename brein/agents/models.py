"""Which language model answers: the performance guide's thresholds and names."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from brein.errors import DataError

ModelName = Literal["tinyllama-1.1b", "phi-3.1-mini", "llama-3.2-3b"]
MODELS: tuple[str, ...] = get_args(ModelName)  # from the fastest to the best
EXTRACTIVE = "extractive"

_THRESHOLDS = (0.3, 0.7)  # of complexity; each model takes those below its own, the last one the rest


@dataclass(frozen=True, slots=True)
class Selection:
    """The model to use, the one `wanted`, and the `reason` where they differ (None where they do not)."""

    name: str
    wanted: str
    reason: str | None = None


def select_optimal_model(complexity: float, available: Collection[str]) -> Selection:
    """Select the model for a question of `complexity`, 0 to 1.

    Where it is not among `available`, the nearest in size is taken, of two equally near ones the larger: a
    question too hard for its model costs more than the time of a larger one. Where none is, `extractive`,
    which needs no language model. Names that are not the guide's have no known size and are never selected.

    Raises:
        DataError: the complexity is no number from 0 to 1.
    """
    if isinstance(complexity, bool) or not isinstance(complexity, int | float) or not 0 <= complexity <= 1:
        raise DataError(f"complexity = {complexity!r}: must be a number from 0 to 1")
    place = sum(complexity >= threshold for threshold in _THRESHOLDS)
    wanted = MODELS[place]
    usable = [other for other in range(len(MODELS)) if MODELS[other] in available]
    if not usable:
        return Selection(EXTRACTIVE, wanted, f"{wanted} is not available, nor is another language model")
    nearest = MODELS[min(usable, key=lambda other: (abs(other - place), -other))]
    if nearest == wanted:
        return Selection(wanted, wanted)
    return Selection(nearest, wanted, f"{wanted} is not available, {nearest} is the nearest in size")
