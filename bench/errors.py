"""Every error the lab raises on purpose, each with the exit code it ends in.

    BenchError
    ├── UsageError         2  the command line, configuration or data cannot be used as given
    └── MeasurementError   3  a measurement failed, or cannot be judged

A message is one line: what, the bound, the value, the remedy.
"""

from __future__ import annotations

import traceback
from typing import ClassVar

from brein.errors import BreinError


class BenchError(Exception):
    """Root of the lab's errors."""

    exit_code: ClassVar[int]


class UsageError(BenchError, ValueError):
    """The command line, configuration or data cannot be used as given."""

    exit_code = 2


class MeasurementError(BenchError):
    """A measurement failed or cannot be judged."""

    exit_code = 3


def explain(error: Exception) -> tuple[str, int]:
    """Any error as one line and the exit code it ends in."""
    from hydra.errors import HydraException

    if isinstance(error, BenchError):
        return one_line(error), error.exit_code
    if isinstance(error, BreinError | HydraException):
        return one_line(error), UsageError.exit_code
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; check the path and its permissions", UsageError.exit_code
    place = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {one_line(error)}"
    where = f"{place.filename}:{place.lineno}"
    return f"{what} (a defect, at {where}; please report it)", MeasurementError.exit_code


def one_line(error: BaseException) -> str:
    """An error's text on a single line, without the noise of its library."""
    noise = ("full_key", "object_type", "Config search", "provider=")
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(noise))
