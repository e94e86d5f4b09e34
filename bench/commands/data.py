"""`python -m bench data`: the data that runs share, listed, fetched, built and pruned."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Column, Table

from bench import config, suites
from bench.artifacts import Artifact, Pruned, Store, Stored
from bench.config import ExperimentConfig
from bench.errors import UsageError
from bench.reports import units
from bench.sitting import Data
from bench.workload import recipes
from bench.workload.recipes import Recipe

SUMMARY = "list, fetch, build and prune the data that runs share"

_SIZES = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_TIMES = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
# Part of an artifact's key that tells people nothing.
_UNSPOKEN = {"dataset", "faiss", "format", "formats", "numpy", "versions"}


def main(argv: list[str]) -> int:
    """Run `data list`, `data fetch NAME`, `data build` or `data prune`.

    Raises:
        UsageError: a recipe is malformed, unknown, or its data cannot be fetched; a setting is wrong, or an
            experiment's data are.
    """
    arguments = _parser().parse_args(argv)
    arguments.act(arguments)
    return 0


def make(experiment: ExperimentConfig, say: Callable[[str], None]) -> list[Artifact]:
    """Make every artifact that an experiment's trials need, measure nothing, and return what they are.

    Raises:
        UsageError: the data or the configuration cannot be used.
        MeasurementError: a build failed.
    """
    prepared = Data(say).experiment(experiment)
    chosen = [suites.SUITES[suite] for suite in experiment.suites]
    for suite in chosen:
        suite.check(prepared)
    needed = {artifact.key: artifact for suite in chosen for artifact in suite.artifacts(prepared)}
    for suite in chosen:
        suite.plan(prepared)
    return list(needed.values())


# --- the command line --------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, as every command does."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m bench data", description=f"{SUMMARY.capitalize()}.")
    actions = parser.add_subparsers(dest="action", required=True)

    listing = actions.add_parser("list", help="every recipe, and every artifact that runs have left")
    listing.add_argument("--json", action="store_true", help="one JSON object on standard output")
    listing.set_defaults(act=_list)

    fetching = actions.add_parser("fetch", help="download, check and unpack one data set; prints its path")
    fetching.add_argument("name", help="a recipe's name")
    fetching.set_defaults(act=_fetch)
    for action in (listing, fetching):
        action.add_argument(
            "--folder",
            type=Path,
            default=Path("datasets"),
            help="where data sets are kept (default: %(default)s)",
        )

    building = actions.add_parser("build", help="make all that an experiment needs, and measure nothing")
    building.set_defaults(act=_build)

    pruning = actions.add_parser(
        "prune",
        help="remove artifacts: damaged ones, and by default what is over artifacts.max_bytes",
        description="Remove artifacts, the least recently used first; never one that a running process uses.",
    )
    bounds = pruning.add_mutually_exclusive_group()
    bounds.add_argument("--max-bytes", type=_size, metavar="SIZE", help="until all take at most this: 5GiB")
    bounds.add_argument("--all", action="store_true", help="every one")
    pruning.add_argument(
        "--older-than", type=_age, metavar="AGE", help="those not used for this long: 30d, 12h"
    )
    pruning.add_argument("--kind", help="only of this kind: indexes, embeddings, truth, …")
    pruning.add_argument(
        "--dry-run", action="store_true", help="say what would be removed, and remove nothing"
    )
    pruning.set_defaults(act=_prune)
    for action in (listing, building, pruning):
        action.add_argument(
            "overrides", nargs="*", metavar="SETTING", help="as `run` takes them: paths.artifacts=FOLDER, …"
        )
    return parser


def _size(text: str) -> int:
    return round(_quantity(text, _SIZES, "B", "a size, such as 500MB or 5GiB"))


def _age(text: str) -> float:
    return _quantity(text, _TIMES, "", "an age, such as 12h or 30d")


def _quantity(text: str, units: Mapping[str, int], default: str, wanted: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", text)
    number, unit = found.groups() if found else ("", "")
    if not number or (unit or default) not in units:
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}; units: {', '.join(units)}")
    return float(number) * units[unit or default]


# --- list and fetch ----------------------------------------------------------------------------------


def _fetch(arguments: argparse.Namespace) -> None:
    print(recipes.fetch(recipes.find(arguments.name, arguments.folder), arguments.folder))


def _list(arguments: argparse.Namespace) -> None:
    found, store = recipes.find_all(arguments.folder), _store(config.from_overrides(arguments.overrides))
    if arguments.json:
        rows = {
            "recipes": [_recipe(recipe, arguments.folder) for recipe in found],
            "artifacts": [_artifact(one, store) for one in store.stored()],
        }
        print(json.dumps(rows, indent=1))
    else:
        console = Console(width=None if sys.stdout.isatty() else 120)
        console.print(_recipe_table(found, arguments.folder))
        console.print(_artifact_table(store))


def _store(experiment: ExperimentConfig) -> Store:
    return Store(experiment.paths.artifacts.absolute(), max_bytes=experiment.artifacts.max_bytes)


def _recipe(recipe: Recipe, folder: Path) -> dict[str, str | bool | None]:
    return {
        "name": recipe.name,
        "title": recipe.title,
        "kind": recipe.kind,
        "licence": recipe.licence,
        "source": recipe.source,
        "checksum": recipe.checksum,
        "fetched": recipes.is_fetched(recipe, folder),
    }


def _recipe_table(found: tuple[Recipe, ...], folder: Path) -> Table:
    wrapped = (Column(name, overflow="fold") for name in ("what", "licence"))
    table = Table(
        Column("name", no_wrap=True), "loader", *wrapped, "fetched", title="data sets with a recipe"
    )
    for recipe in found:
        here = "yes" if recipes.is_fetched(recipe, folder) else "no"
        table.add_row(recipe.name, recipe.kind, recipe.title, recipe.licence, here)
    return table


def _artifact(one: Stored, store: Store) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "key": one.key,
        "what": _words(one.content),
        "bytes": one.bytes,
        "made_at": one.made_at,
        "build_seconds": one.seconds,
        "last_used": _day(one.last_used),
        "in_use": store.in_use(one),
        "damage": one.damage,
        "folder": str(one.folder),
    }


def _artifact_table(store: Store) -> Table:
    stored = store.stored()
    total = _shown(sum(one.bytes for one in stored))
    limit = "no limit" if store.max_bytes is None else f"at most {_shown(store.max_bytes)}"
    whole = (Column(name, no_wrap=True) for name in ("kind", "key", "size", "last used"))
    table = Table(*whole, Column("made of", overflow="fold"), "state")
    table.title = f"artifacts in {store.root}: {total}, {limit}"
    for one in stored:
        state = f"damaged: {one.damage}" if one.damage else "in use" if store.in_use(one) else ""
        used = _day(one.last_used)[:16].replace("T", " ")
        table.add_row(one.kind, one.key[:8], _shown(one.bytes), used, _words(one.content), state)
    return table


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _words(content: Mapping[str, Any]) -> str:
    """What an artifact was made of: its settings, and the first digits of the keys it was made from."""
    return ", ".join(_word(name, value) for name, value in content.items() if name not in _UNSPOKEN)


def _word(name: str, value: Any) -> str:
    if name == "libraries":
        return f"{len(value)} libraries"
    if isinstance(value, dict):
        first = [str(value["kind"])] if "kind" in value else []
        return " ".join([*first, *(_word(key, inner) for key, inner in value.items() if key != "kind")])
    short = value[:8] if isinstance(value, str) and re.fullmatch("[0-9a-f]{32,}", value) else value
    return f"{name} {short}"


# --- build and prune ---------------------------------------------------------------------------------


def _build(arguments: argparse.Namespace) -> None:
    experiment = config.from_overrides(arguments.overrides)
    progress = Console(stderr=True)
    needed = make(experiment, lambda text: progress.print(text, style="dim", highlight=False))
    store = _store(experiment)
    for artifact in needed:
        print(f"{artifact.kind} {artifact.key[:8]}: {store.find(*artifact)}")


def _prune(arguments: argparse.Namespace) -> None:
    store = _store(config.from_overrides(arguments.overrides))
    since = None if arguments.older_than is None else time.time() - arguments.older_than
    limit = 0 if arguments.all else arguments.max_bytes
    if limit is None and since is None:
        limit = store.max_bytes
    pruned = store.prune(max_bytes=limit, unused_since=since, kind=arguments.kind, dry_run=arguments.dry_run)
    _report(pruned, "would remove" if arguments.dry_run else "removed")


def _report(pruned: Pruned, verb: str) -> None:
    for one, reason in pruned.removed:
        print(f"{verb} {one.kind} {one.key[:8]}, {_shown(one.bytes)}: {reason}")
    for reason in sorted({reason for _, reason in pruned.kept}):
        kept = [one.bytes for one, why in pruned.kept if why == reason]
        print(f"kept {len(kept)} of {_shown(sum(kept))}: {reason}")
    print(f"{verb} {len(pruned.removed)} of {_shown(sum(one.bytes for one, _ in pruned.removed))} in all")


def _shown(size: int) -> str:
    return units.show(size, "B")
