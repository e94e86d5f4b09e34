"""`python -m brein`: one table of commands, errors in one line, exit codes."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import NoReturn

from brein.errors import BreinError, ConfigError

COMMANDS = {"serve": "brein.server.serve"}  # modules with SUMMARY, add_arguments and run


class _Parser(argparse.ArgumentParser):
    """Raises what argparse would print with a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def main(argv: list[str]) -> int:
    """Run the command that `argv` names: 0 done, 2 wrong usage or configuration, 3 the engine failed."""
    parser = _Parser(prog="python -m brein", description="A semantic-memory engine.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, path in COMMANDS.items():
        module = importlib.import_module(path)
        command = commands.add_parser(name, help=module.SUMMARY, description=module.SUMMARY)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    try:
        arguments = parser.parse_args(argv)
        return int(arguments.run(arguments))
    except BreinError as error:
        sys.stderr.write(f"brein: {' '.join(str(error).split())}\n")
        return 2 if isinstance(error, ConfigError) else 3


def entry() -> int:
    """The console script `brein`."""
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(entry())
