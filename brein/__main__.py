"""`python -m brein`: one table of commands, errors in one line, exit codes."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import NoReturn

from brein.errors import BreinError, ConfigError

COMMANDS = {  # modules with SUMMARY, add_arguments and run, loaded when called
    "serve": "brein.server.serve",
    "balance": "brein.server.balance",
    "dashboard": "brein.monitoring.dashboards",
}

_INTRODUCTION = """usage: python -m brein COMMAND [ARGUMENTS]

A semantic-memory engine.

commands:
{commands}

  python -m brein COMMAND --help    what a command takes

exit codes: 0 done · 2 wrong usage or configuration · 3 the engine failed
"""


class _Parser(argparse.ArgumentParser):
    """Raises what argparse would print with a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def main(argv: list[str]) -> int:
    """Run the command that `argv` names and return the exit code; errors are one line on stderr."""
    if argv and argv[0] in ("-h", "--help", "help"):
        lines = [f"  {name:<10}{importlib.import_module(path).SUMMARY}" for name, path in COMMANDS.items()]
        sys.stdout.write(_INTRODUCTION.format(commands="\n".join(lines)))
        return 0
    try:
        return _run(argv)
    except BreinError as error:
        sys.stderr.write(f"brein: {' '.join(str(error).split())}\n")
        return 2 if isinstance(error, ConfigError) else 3


def _run(argv: list[str]) -> int:
    name = argv[0] if argv else ""
    if name not in COMMANDS:
        raise ConfigError(f"command {name!r} is unknown; known commands: {', '.join(COMMANDS)}")
    module = importlib.import_module(COMMANDS[name])
    parser = _Parser(prog=f"python -m brein {name}", description=module.SUMMARY)
    module.add_arguments(parser)
    return int(module.run(parser.parse_intermixed_args(argv[1:])))


def entry() -> int:
    """The console script `brein`."""
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(entry())
