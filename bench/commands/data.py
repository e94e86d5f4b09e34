"""`python -m bench data`: list the data sets that recipes fetch, and fetch one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.table import Column, Table

from bench.errors import UsageError
from bench.workload import recipes
from bench.workload.recipes import Recipe

SUMMARY = "list the public data sets with a recipe, or fetch one"


def main(argv: list[str]) -> int:
    """Run `data list` or `data fetch NAME`.

    Raises:
        UsageError: a recipe is malformed, unknown, or its data cannot be fetched.
    """
    arguments = _parser().parse_args(argv)
    if arguments.action == "fetch":
        print(recipes.fetch(recipes.find(arguments.name, arguments.folder), arguments.folder))
    elif arguments.json:
        print(
            json.dumps({"recipes": [_row(recipe, arguments.folder) for recipe in _all(arguments)]}, indent=1)
        )
    else:
        Console().print(_table(_all(arguments), arguments.folder))
    return 0


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, as every command does."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m bench data", description=f"{SUMMARY.capitalize()}.")
    actions = parser.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="every recipe, and whether its data is here")
    listing.add_argument("--json", action="store_true", help="one JSON object on standard output")
    fetching = actions.add_parser("fetch", help="download, check and unpack one data set; prints its path")
    fetching.add_argument("name", help="a recipe's name")
    for action in (listing, fetching):
        action.add_argument(
            "--folder",
            type=Path,
            default=Path("datasets"),
            help="where data sets are kept (default: %(default)s)",
        )
    return parser


def _all(arguments: argparse.Namespace) -> tuple[Recipe, ...]:
    return recipes.find_all(arguments.folder)


def _row(recipe: Recipe, folder: Path) -> dict[str, str | bool | None]:
    return {
        "name": recipe.name,
        "title": recipe.title,
        "kind": recipe.kind,
        "licence": recipe.licence,
        "source": recipe.source,
        "checksum": recipe.checksum,
        "fetched": recipes.is_fetched(recipe, folder),
    }


def _table(found: tuple[Recipe, ...], folder: Path) -> Table:
    wrapped = (Column(name, overflow="fold") for name in ("what", "licence"))
    table = Table(Column("name", no_wrap=True), "loader", *wrapped, "fetched")
    for recipe in found:
        here = "yes" if recipes.is_fetched(recipe, folder) else "no"
        table.add_row(recipe.name, recipe.kind, recipe.title, recipe.licence, here)
    return table
