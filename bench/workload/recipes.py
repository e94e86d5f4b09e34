"""Recipes: where a public data set is, what its bytes must hash to, and how it is read.

A recipe is a YAML file in `datasets/recipes/`; `datasets/README.md` says how to write one.
"""

from __future__ import annotations

import ftplib
import json
import shutil
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pooch
import yaml
from pydantic import Field, model_validator

from bench.data_config import BeirConfig, VectorFileConfig
from bench.errors import UsageError
from brein.errors import ConfigError
from brein.files import sync_tree
from brein.index import Metric
from brein.settings import Settings

_HERE = Path(__file__).resolve().parents[1]
# Beside the package in a checkout, inside it once installed from a wheel.
SHIPPED = next(path for path in (_HERE / "recipes", _HERE.parent / "datasets" / "recipes") if path.is_dir())
TIMEOUT = 60  # seconds without an answer from a server
_CHUNK = 65_536  # bytes written at once while downloading


class Recipe(Settings):
    """How one data set is fetched and read."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", description="the file's name without .yaml")
    title: str = Field(min_length=1, description="one line for people")
    kind: Literal["beir", "fvecs", "fbin", "hdf5", "npy"] = Field(description="the loader")
    url: str | None = Field(None, pattern=r"^(https?|ftp)://[^ ]+[^/ ]$", description="the file to fetch")
    path: Path | None = Field(None, description="instead of url: data already on this machine")
    checksum: str | None = Field(
        None,
        pattern=r"^(md5|sha256|sha512):[0-9a-f]{32,128}$",
        description="of the fetched file; null: trust the first",
    )
    folder: PurePosixPath | None = Field(
        None, description="where the data is inside the archive; null: its top"
    )
    split: str | None = Field(None, min_length=1, description="BEIR only: which judgements")
    metric: Metric | None = Field(None, description="vectors only: metric of the ground truth")
    licence: str = Field(min_length=1, description="of the data, or that it is not known")
    source: str = Field(min_length=1, description="who publishes it: a page for people")

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if (self.url is None) == (self.path is None):
            raise ValueError("url, path: exactly one of the two is needed")
        if self.path is not None and (self.checksum is not None or self.folder is not None):
            raise ValueError("checksum, folder: only for a url; remove them")
        if self.folder is not None and not _is_inside(self.folder):
            raise ValueError(f"folder = {str(self.folder)!r} leaves the archive; give a path inside it")
        if (self.split is None) == (self.kind == "beir"):
            raise ValueError("split: needed for kind beir, and only there")
        if self.metric is not None and self.kind == "beir":
            raise ValueError("metric: texts have none; remove it")
        return self

    def dataset(self, path: Path) -> BeirConfig | VectorFileConfig:
        """Return the configuration that loads all of the data at `path`."""
        if self.kind == "beir":
            return BeirConfig(
                path=path,
                split=self.split or "",
                documents=None,
                queries=None,
                max_tokens=None,
                memory_vectors=None,
            )
        return VectorFileConfig(kind=self.kind, path=path, metric=self.metric, vectors=None, queries=None)


def find(name: str, fetched: Path) -> Recipe:
    """Return the recipe called `name`, from `fetched`/recipes or else from those that came with the lab.

    Raises:
        UsageError: there is none, or its file is not a recipe.
    """
    paths = _paths(fetched)
    if name not in paths:
        raise UsageError(
            f"dataset.name = {name!r} is not a recipe; known: {', '.join(sorted(paths)) or 'none'}"
        )
    return read(paths[name])


def find_all(fetched: Path) -> tuple[Recipe, ...]:
    """Return every recipe, ordered by name.

    Raises:
        UsageError: a file is not a recipe.
    """
    return tuple(read(path) for _, path in sorted(_paths(fetched).items()))


def read(path: Path) -> Recipe:
    """Read one recipe.

    Raises:
        UsageError: one line with the file, the field, the bound and the value.
    """
    try:
        content = json.dumps(yaml.safe_load(path.read_text(encoding="utf-8")))
        recipe = Recipe.read(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, ConfigError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from None
    if recipe.name != path.stem:
        raise UsageError(
            f"{path}: name = {recipe.name!r} is not the file's own name {path.stem!r}; rename one"
        )
    return recipe


def is_fetched(recipe: Recipe, fetched: Path) -> bool:
    """Whether the recipe's file is on this machine; its bytes are checked when it is loaded."""
    return (recipe.path or _file(recipe, fetched)).exists()


def fetch(recipe: Recipe, fetched: Path) -> Path:
    """Download the recipe's file into `fetched`/<name> unless it is there, check it, and unpack an archive.

    Without a checksum in the recipe the first download is trusted: its SHA-256 is written beside it, said on
    standard error, and checked from then on. Returns the path that the recipe's loader reads.

    Raises:
        UsageError: the server does not answer or does not have the file; the bytes are not the expected ones;
            or the archive is damaged or holds names outside itself.
    """
    if recipe.path is not None:
        if not recipe.path.exists():
            raise UsageError(f"recipe {recipe.name}: path = {recipe.path} does not exist; correct the recipe")
        return recipe.path
    file = _file(recipe, fetched)
    checksum = recipe.checksum or _pinned(file)
    _download(str(recipe.url), file, checksum)
    if checksum is None:
        checksum = _pin(file)
    if not file.name.endswith((".zip", ".tar", ".tar.gz", ".tgz")):
        return file
    unpacked = file.parent / f"unpacked-{checksum.partition(':')[2][:16]}"
    if not unpacked.exists():
        _unpack(file, unpacked)
    data = unpacked / (recipe.folder or "")
    if not data.exists():
        there = ", ".join(sorted(path.name for path in unpacked.iterdir()))
        raise UsageError(
            f"recipe {recipe.name}: folder = {str(recipe.folder)!r} is not in {file.name}; there: {there}"
        )
    return data


def _paths(fetched: Path) -> dict[str, Path]:
    # The user's own folder last: a recipe there replaces one of the same name.
    return {
        path.stem: path for folder in (SHIPPED, fetched / "recipes") for path in sorted(folder.glob("*.yaml"))
    }


def _file(recipe: Recipe, fetched: Path) -> Path:
    return fetched / recipe.name / PurePosixPath(str(recipe.url)).name


def _download(url: str, file: Path, checksum: str | None) -> None:
    shown = sys.stderr.isatty()
    settings: dict[str, Any] = {"progressbar": shown, "chunk_size": _CHUNK, "timeout": TIMEOUT}
    if url.startswith("ftp:"):
        downloader = pooch.FTPDownloader(**settings)
    else:
        downloader = pooch.HTTPDownloader(**settings, hooks={"response": _close_refused})
    pooch.get_logger().setLevel("WARNING")  # its notices would break the rule of one line per error
    try:
        pooch.retrieve(url, checksum, fname=file.name, path=file.parent, downloader=downloader)
    except (OSError, EOFError, ftplib.Error) as error:
        raise UsageError(
            f"{url}: cannot be fetched ({_short(error)}); check the connection, or put the file at {file}"
        ) from None
    except ValueError as error:
        raise UsageError(
            f"{url}: not the expected file ({_short(error)}); it was not kept: fetch again, or correct "
            "the recipe's checksum if the publisher changed the file"
        ) from None


def _close_refused(response: Any, **_: Any) -> None:
    if not response.ok:
        response.close()  # pooch raises without closing it


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _pin_file(file: Path) -> Path:
    return file.with_name(file.name + ".sha256")


def _pinned(file: Path) -> str | None:
    pin = _pin_file(file)
    if not pin.exists():
        return None
    digest = pin.read_text(encoding="utf-8", errors="replace").partition(" ")[0]
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise UsageError(f"{pin}: does not begin with a SHA-256; delete it to trust the next download")
    return f"sha256:{digest}"


def _pin(file: Path) -> str:
    digest = pooch.file_hash(str(file), alg="sha256")
    draft = file.with_name(file.name + ".sha256.draft")
    draft.write_text(f"{digest}  {file.name}\n", encoding="utf-8")
    draft.replace(_pin_file(file))
    print(
        f"{file.name}: no checksum known, this download is trusted; pin it: sha256:{digest}", file=sys.stderr
    )
    return f"sha256:{digest}"


def _unpack(file: Path, folder: Path) -> None:
    draft = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=file.parent))
    try:
        if file.suffix == ".zip":
            _unzip(file, draft)
        else:
            with tarfile.open(file) as archive:
                archive.extractall(draft, filter="data")
        sync_tree(draft)
        draft.rename(folder)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise UsageError(f"{file}: cannot be unpacked ({_short(error)}); delete it and fetch again") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _unzip(file: Path, folder: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if not _is_inside(PurePosixPath(name)):
                raise UsageError(f"{file}: holds {name!r}, a name outside the archive; nothing was unpacked")
        archive.extractall(folder)  # noqa: S202 - every name was just checked


def _is_inside(name: PurePosixPath) -> bool:
    return not name.is_absolute() and ".." not in name.parts
