"""Every error the lab raises on purpose, each with the exit code it ends in.

    BenchError
    ├── UsageError         2  the command line, configuration or data cannot be used as given
    └── MeasurementError   3  a measurement failed, or cannot be judged

A message is one line: what, the bound, the value, the remedy.
"""

from __future__ import annotations

from typing import ClassVar


class BenchError(Exception):
    """Root of the lab's errors."""

    exit_code: ClassVar[int]


class UsageError(BenchError, ValueError):
    """The command line, configuration or data cannot be used as given."""

    exit_code = 2


class MeasurementError(BenchError):
    """A measurement failed or cannot be judged."""

    exit_code = 3
