"""A saved index: a folder of files that is replaced as a whole, and refused unless it is whole.

    folder/
      CURRENT            the version that counts, and the SHA-256 of its manifest
      <version>/         manifest.json and the files it lists, each with its size and SHA-256

A new version is written beside the current one, flushed, and made current by one rename; only then does the
older one go. A crash at any moment leaves one of the two.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from brein.errors import StorageError
from brein.files import sync, sync_tree, write_whole

FORMAT = 2  # of the saved files
_VERSION = re.compile("[0-9a-f]{16}")


def write(folder: Path, facts: Mapping[str, Any], fill: Callable[[Path], None]) -> Path:
    """Save what `fill` puts into the empty folder it is given, with JSON `facts`; return where that lies.

    Raises:
        StorageError: it cannot be written, and the version before is still there; or the folder cannot be
            flushed, and this one is.
    """
    version = secrets.token_hex(8)
    draft = folder / version
    try:
        draft.mkdir(parents=True)
        fill(draft)
        files = {
            str(path.relative_to(draft)): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
            for path in sorted(draft.rglob("*"))
            if path.is_file()
        }
        manifest = json.dumps({"format": FORMAT, "facts": facts, "files": files}).encode()
        (draft / "manifest.json").write_bytes(manifest)
        sync_tree(draft)
        sync(folder)
        write_whole(folder / "CURRENT", f"{version} {hashlib.sha256(manifest).hexdigest()}\n".encode())
    except (OSError, RuntimeError, StorageError) as error:  # FAISS reports a failed write as a RuntimeError
        if not _is_current(folder, version):  # the last flush comes after it was made current
            shutil.rmtree(draft, ignore_errors=True)
        raise StorageError(f"the index cannot be written to {folder}: {first_line(error)}") from None
    for path in folder.iterdir():
        if path != draft and _VERSION.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
    return draft


def read(folder: Path) -> tuple[dict[str, Any], Path]:
    """The facts of the saved index, and the folder of its files, every one of them checked.

    Raises:
        StorageError: it is missing, truncated, changed, not ours or of another format.
    """
    try:
        version, _, digest = (folder / "CURRENT").read_text().strip().partition(" ")
        source = folder / version
        data = (source / "manifest.json").read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise StorageError("manifest.json is not the one that was saved")
        manifest = json.loads(data)
        if manifest["format"] != FORMAT:
            raise StorageError(f"it has format {manifest['format']}, this version reads {FORMAT}")
        for name, stated in manifest["files"].items():
            _check(source / name, stated["bytes"], stated["sha256"])
        return manifest["facts"], source
    except (OSError, StorageError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"no usable index in {folder}: {first_line(error)}; rebuild it") from None


def _is_current(folder: Path, version: str) -> bool:
    try:
        return (folder / "CURRENT").read_text().startswith(version)
    except (OSError, ValueError):
        return False


def _check(path: Path, size: int, digest: str) -> None:
    found = path.stat().st_size
    if found != size:
        raise StorageError(f"{path.name} has {found} bytes, {size} were saved")
    if _sha256(path) != digest:
        raise StorageError(f"{path.name} has changed since it was saved")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: BaseException) -> str:
    """The first line of an error's text: FAISS's go on with C++ source lines."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
