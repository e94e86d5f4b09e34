"""Opening the store in a folder, and moving it to another number of shards or another shard key."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from secrets import token_hex

from brein.errors import StorageError
from brein.storage import layout
from brein.storage.base import DocumentStore, Row, StorageConfig
from brein.storage.layout import Layout, file_errors
from brein.storage.shard import SQLiteStore
from brein.storage.sharded import ShardedStorage

_BATCH = 2000  # documents in memory at once while they move


def create(config: StorageConfig, folder: Path | None) -> DocumentStore:
    """Open the store in `folder`, made if none is there; in memory where `folder` is None.

    Raises:
        StorageError: files are missing, foreign, damaged or cannot be written, or the documents lie in
            another number of shards, or by another shard key, than configured.
    """
    if folder is None:
        return _open(config, _planned(config, token_hex(16)), [None] * config.shards)
    with file_errors(folder):
        layout.make_folder(folder)
        layout.sweep(folder)
        found = layout.find(folder) or _build(config, folder, token_hex(16), None)
        if not _same(found, config):
            raise StorageError(
                f"the documents in {folder} lie in {found}, the configuration says {_planned(config, '')}; "
                f"configure what is there, or move them with storage.rebalance"
            )
        return _open(config, found, _present(found, folder))


def rebalance(folder: Path, config: StorageConfig) -> None:
    """Move the documents in `folder` into the shards that `config` describes; 1 makes a plain store.

    The new files are written beside the old ones and take their place by one rename: a crash at any moment
    leaves the old store or the new one, whole. There must be room for both. The identity stays, the version
    is new. The folder is claimed meanwhile, so no engine has it open.

    Raises:
        StorageError: there are no documents, the folder is claimed, or files cannot be written.
    """
    with file_errors(folder), ExitStack() as held:
        _found(folder)  # claiming would make a folder that is not there
        held.callback(os.close, layout.claim(folder))
        layout.sweep(folder)
        found = _found(folder)
        if _same(found, config):
            return
        with closing(_open(config, found, _present(found, folder))) as source:
            _build(config, folder, source.identity, source)
        layout.sweep(folder)


def _build(config: StorageConfig, folder: Path, identity: str, source: DocumentStore | None) -> Layout:
    """Make a store, with the documents of `source`, beside what is there; then put it in place."""
    new, draft = _planned(config, identity), folder / layout.DRAFT
    paths = new.paths(draft)
    paths[0].parent.mkdir(parents=True)
    with closing(_open(config, new, paths)) as made:
        for page in source.pages("id, text, metadata, vector", _BATCH) if source else ():
            made.write([Row(*row) for row in page], source.space if source else "")
    new.finish(draft)
    layout.place(folder, new)
    return new


def _open(config: StorageConfig, found: Layout, paths: Sequence[Path | None]) -> DocumentStore:
    if found.shards == 1:
        return SQLiteStore(config, paths[0], found.identity or None)
    with ExitStack() as opened:
        shards = []
        for n, path in enumerate(paths):
            shard = SQLiteStore(config, path, f"{found.identity}/{n}")
            opened.callback(shard.close)
            if shard.identity != f"{found.identity}/{n}":
                raise StorageError(
                    f"{path} is {shard.identity}, expected {found.identity}/{n}; restore a backup"
                )
            shards.append(shard)
        opened.pop_all()
    return ShardedStorage(shards, found)


def _planned(config: StorageConfig, identity: str) -> Layout:
    key = "id" if config.shards == 1 else config.shard_key
    return Layout(identity=identity, shards=config.shards, shard_key=key)


def _same(found: Layout, config: StorageConfig) -> bool:
    return str(found) == str(_planned(config, ""))


def _found(folder: Path) -> Layout:
    found = layout.find(folder)
    if found is None:
        raise StorageError(f"{folder} holds no documents; there is nothing to rebalance")
    return found


def _present(found: Layout, folder: Path) -> list[Path]:
    paths = found.paths(folder)
    for path in paths:
        if not path.exists():
            raise StorageError(f"{path} is missing; restore a backup")
    return paths
