"""Where the files of a store lie.

    documents.sqlite                      a plain store
    documents/manifest.json               a sharded store: how many shards, by which key, in which folder
    documents/<folder>/shard-00.sqlite …
    .documents/                           the same again: files that are not in place yet

The manifest rules: where there is one, nothing that it does not name counts.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from pydantic import Field

from brein.errors import ConfigError, StorageError
from brein.files import sync, write_whole
from brein.settings import Settings

FORMAT = 3  # of the SQLite files and the manifest; of format 2 the manifest is the same

PLAIN = "documents.sqlite"
SHARDED = "documents"
DRAFT = ".documents"
_MANIFEST = "manifest.json"


class Layout(Settings):
    """What a store is made of; that of a sharded store is its manifest."""

    format: int = FORMAT
    identity: str = Field("", description="of the store; a plain store's is in its file")
    shards: int = Field(1, ge=1, le=64)
    shard_key: str = "id"
    folder: str = Field(default_factory=lambda: token_hex(8), pattern="^[0-9a-f]{16}$")

    def __str__(self) -> str:
        return "one file" if self.shards == 1 else f"{self.shards} shards by {self.shard_key}"

    def paths(self, folder: Path) -> list[Path]:
        """The SQLite files, in order, of the store in `folder`."""
        if self.shards == 1:
            return [folder / PLAIN]
        return [folder / SHARDED / self.folder / f"shard-{n:02}.sqlite" for n in range(self.shards)]

    def finish(self, folder: Path) -> None:
        """Flush the store's written files in `folder`, and put the manifest to them."""
        paths = self.paths(folder)
        for path in (*paths, paths[0].parent):
            sync(path)
        if self.shards > 1:
            write_whole(folder / SHARDED / _MANIFEST, self.model_dump_json().encode())


def find(folder: Path) -> Layout | None:
    """The layout of the store in `folder`, or None where there is none yet.

    Raises:
        StorageError: the manifest is missing, damaged, or of another format.
    """
    manifest = folder / SHARDED / _MANIFEST
    if manifest.exists():
        return _read(manifest)
    if (folder / PLAIN).exists():
        return Layout()
    if manifest.parent.exists():
        raise StorageError(f"{manifest} is missing; restore a backup, or remove its folder to start anew")
    return None


def place(folder: Path, new: Layout) -> None:
    """Make the finished store in the draft folder the one that counts, by one rename or removal."""
    draft, home = folder / DRAFT, folder / SHARDED
    if new.shards == 1:
        os.replace(draft / PLAIN, folder / PLAIN)
        sync(folder)
        (home / _MANIFEST).unlink(missing_ok=True)
    elif not home.exists():
        os.replace(draft / SHARDED, home)
    else:
        os.replace(draft / SHARDED / new.folder, home / new.folder)
        sync(home)
        os.replace(draft / SHARDED / _MANIFEST, home / _MANIFEST)
    for changed in (folder, home):
        if changed.exists():
            sync(changed)


def sweep(folder: Path) -> None:
    """Remove what does not count: the old store of a rebalance, or the new one of an interrupted one."""
    if (folder / DRAFT).exists():
        shutil.rmtree(folder / DRAFT)
    home, found = folder / SHARDED, find(folder)
    if found is not None and found.shards == 1:
        if home.exists():
            shutil.rmtree(home)
        return
    for suffix in ("", "-wal", "-shm"):  # SQLite would apply a log left here to the next file of that name
        (folder / f"{PLAIN}{suffix}").unlink(missing_ok=True)
    if found is not None:
        for other in home.iterdir():
            if other.is_dir() and other.name != found.folder:
                shutil.rmtree(other)


def claim(folder: Path) -> int:
    """Make the folder and lock it for whoever has it open; the lock ends with the process, however that ends.

    Returns the descriptor that holds the lock; close it to give the folder up.

    Raises:
        StorageError: the folder is locked, or cannot be made or read.
    """
    try:
        make_folder(folder)
        held = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"path = {folder}: {error.strerror}; choose a folder you can write") from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        raise StorageError(
            f"path = {folder} is open in another engine or being rebalanced; close that one first"
        ) from None
    return held


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, so that no power cut takes away what is flushed in it later."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in made:
        sync(each.parent)


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a StorageError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"{path}: {reason}; check the path, its permissions and the disk") from None


def _read(path: Path) -> Layout:
    try:
        manifest = Layout.read(path.read_text())
    except (ConfigError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} is damaged: {error}; restore a backup") from None
    if manifest.format not in (2, FORMAT) or manifest.shards == 1:
        raise StorageError(
            f"{path} has format {manifest.format} and {manifest.shards} shards, expected {FORMAT} and more "
            f"than 1; use the version that wrote it, or restore a backup"
        )
    return manifest
