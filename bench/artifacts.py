"""Content-addressed store of what runs share: data sets, embeddings, ground truth, built indexes.

An artifact is a folder whose name is the hash of everything that determines its content. It is
written beside its final place and renamed when complete, so a crash leaves no half artifact, and two
processes that build the same one both end with a whole one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1  # of everything stored here; a change makes every older artifact unreachable


@dataclass(frozen=True)
class Store:
    """The artifacts under `root`, as <kind>/<key>/. `say` is told of what has to be built."""

    root: Path
    say: Callable[[str], None] = lambda text: None

    def get_or_build(self, kind: str, content: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
        """Return the folder of the artifact that `content` determines, building it first if it is not there.

        `content` is JSON: the canonical configuration, the data's hash and the versions of what makes the
        artifact. `build(folder)` fills an empty folder; if it raises, nothing is kept.
        """
        folder = self.root / kind / key(content)
        if (folder / "artifact.json").exists():
            return folder
        self.say(f"build {kind}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name[:8]}-", dir=folder.parent))
        try:
            build(draft)
            (draft / "artifact.json").write_text(json.dumps({"kind": kind, "content": content}, indent=1))
            flush(draft)
            _publish(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return folder

    def scratch(self) -> Path:
        """A folder for what a trial throws away, on the disk the artifacts are on."""
        folder = self.root / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def key(content: Mapping[str, Any]) -> str:
    """Hash of a JSON object, independent of the order of its keys."""
    canonical = json.dumps({"format": FORMAT, **content}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def _publish(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError:
        if not (folder / "artifact.json").exists():  # not another process's equal artifact
            raise


def flush(folder: Path) -> None:
    """Flush every file under `folder`, and the folders themselves, to disk."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
