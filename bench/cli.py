"""The command line: one table of commands, the only catch-all, the exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

from bench.errors import explain

COMMANDS = ("run", "data")  # modules of bench.commands, loaded when they are called

_INTRODUCTION = """usage: python -m bench COMMAND [ARGUMENTS]

A performance lab for semantic-memory engines: measures, keeps raw samples, says what they prove.

commands:
{commands}

  python -m bench COMMAND --help           what a command takes
  python -m bench run +profile=small_dataset    a first answer, in a few minutes

exit codes: 0 done · 2 wrong usage or configuration · 3 invalid, missing or failed · 130 interrupted
"""


def main(argv: list[str]) -> int:
    """Run the command `argv` names and return the exit code; errors are one line on stderr."""
    # Hydra prints errors and exits by itself unless this is set; here they are raised and caught below.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    if not argv or argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(_introduction())
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        return _fail(f"command {name!r} is unknown; known commands: {', '.join(COMMANDS)}", 2)
    try:
        return int(_command(name).main(rest))
    except KeyboardInterrupt as error:
        return _fail(f"interrupted; {str(error) or 'earlier runs are untouched'}", 130)
    except Exception as error:
        return _fail(*explain(error))


def _command(name: str) -> ModuleType:
    return importlib.import_module(f"bench.commands.{name}")


def _introduction() -> str:
    lines = [f"  {name:<10}{_command(name).SUMMARY}" for name in COMMANDS]
    return _INTRODUCTION.format(commands="\n".join(lines))


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"bench: {message}\n")
    return code
