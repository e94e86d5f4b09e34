"""Content-addressed store of what runs share: data sets, embeddings, ground truth, built indexes.

    root/
      <kind>/<key>/       an artifact: its files, and artifact.json, which lists them
      <kind>/.<key>-…/    one that is being built
      scratch/<process>/  what a process's trials throw away
      locks/              a file for each of these that was ever used

A key is the hash of everything that determines the content, so nothing stale is ever found. An artifact is
built beside its final place and renamed when complete: a crash leaves no half of one.

There are two locks, which the system lets go of when their process ends, however it ends. Whoever builds
holds `build` alone, so that two processes that want one artifact build it once. Whoever got an artifact
holds `use` with others for the rest of its life, and whoever removes it has to hold `use` alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import resource
import secrets
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from brein.files import sync, sync_tree

FORMAT = 2  # of everything stored here; a change makes every older artifact unreachable
_MANIFEST = "artifact.json"
# Nothing else is ever removed, so that a folder that holds other things too loses none of them.
_KEY, _DRAFT = re.compile("[0-9a-f]{32}"), re.compile(r"\.([0-9a-f]{32})-.+")
_PROCESS = secrets.token_hex(8)
_SCRATCH = re.compile(f"[0-9a-f]{{{len(_PROCESS)}}}")

# Locks held until this process ends, and the descriptors that hold them. Children do not inherit them.
_held: dict[Path, int] = {}
_guard = threading.Lock()


class Artifact(NamedTuple):
    """What an artifact is: `content`, JSON, holds everything that determines it.

    That is the canonical configuration (as validated, defaults written out), the data's hash, the versions of
    what makes it, and the number of its own format.
    """

    kind: str
    content: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Hash of the kind and the content, whatever the order of the content's keys."""
        return _hash([FORMAT, self.kind, self.content])[:32]


@dataclass(frozen=True)
class Stored:
    """An artifact on disk.

    `bytes` is the size of its files, `last_used` a time in seconds since 1970. `damage` says why it is not
    whole, as far as its files' sizes tell; it is None, and `content`, `seconds` (of building) and `made_at`
    (UTC) are known, where it is.
    """

    kind: str
    key: str
    folder: Path
    bytes: int
    last_used: float
    damage: str | None
    content: Mapping[str, Any]
    seconds: float | None
    made_at: str | None


class Pruned(NamedTuple):
    """What was removed and what was kept, each with the reason."""

    removed: list[tuple[Stored, str]]
    kept: list[tuple[Stored, str]]


@dataclass(frozen=True)
class Store:
    """The artifacts under `root`.

    `say` is told of what has to be built, waited for or removed. After a build, the least recently used
    artifacts that nobody uses are removed until all take at most `max_bytes`; None: no limit.
    """

    root: Path
    say: Callable[[str], None] = lambda text: None
    max_bytes: int | None = None

    def get_or_build(self, kind: str, content: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
        """Return the folder of an `Artifact`, building it first if it is not there or not whole.

        `build(folder)` fills an empty folder; if it raises, nothing is kept. Every file's hash is compared
        when a process first gets the artifact, its size always. The folder stays until the process ends.
        """
        artifact = Artifact(kind, content)
        folder = self._folder(artifact)
        compared_before = _hold(self._lock(folder, "use"))
        if _damage(folder, hashes=not compared_before) is not None:
            with self._builders_turn(folder):
                damage = _damage(folder, hashes=True)  # None, if another process has built it meanwhile
                if damage is not None:
                    self._build(artifact, build, damage)
                    self._keep_within_limit()
        os.utime(folder / _MANIFEST)
        return folder

    def find(self, kind: str, content: Mapping[str, Any]) -> Path | None:
        """The folder of an `Artifact` that is there with all of its files; None where it has to be built."""
        folder = self._folder(Artifact(kind, content))
        return None if _damage(folder, hashes=False) else folder

    def expected_seconds(self, kind: str) -> float | None:
        """Median of the seconds that the stored artifacts of this kind took to build; None where none is."""
        known = [one.seconds for one in self.stored() if one.kind == kind and one.seconds is not None]
        return statistics.median(known) if known else None

    def stored(self) -> list[Stored]:
        """Every artifact, by kind, the least recently used first."""
        folders = [folder for folder in self.root.glob("*/*") if _KEY.fullmatch(folder.name)]
        found = [one for folder in folders if (one := _describe(folder)) is not None]
        return sorted(found, key=lambda one: (one.kind, one.last_used, one.key))

    def in_use(self, stored: Stored) -> bool:
        """Whether a process that got this artifact lives."""
        with alone(self._lock(stored.folder, "use")) as free:
            return not free

    def prune(
        self,
        *,
        max_bytes: int | None = None,
        unused_since: float | None = None,
        kind: str | None = None,
        dry_run: bool = False,
    ) -> Pruned:
        """Remove artifacts, damaged ones first, then the least recently used; and what killed processes left.

        Those go that are damaged, that nobody used since `unused_since` (seconds since 1970), and those
        without which all take at most `max_bytes`; of these only those of `kind`, and never one in use.
        """
        pruned, stored = Pruned([], []), self.stored()
        total = sum(one.bytes for one in stored)
        for one in sorted(stored, key=lambda one: (one.damage is None, one.last_used)):
            if kind not in (None, one.kind):
                keep, reason = True, "of another kind"
            elif one.damage:
                keep, reason = False, f"damaged: {one.damage}"
            elif unused_since is not None and one.last_used < unused_since:
                keep, reason = False, "not used for so long"
            elif max_bytes is not None and total > max_bytes:
                keep, reason = False, "the least recently used"
            else:
                keep, reason = True, "within the limits"
            if not keep and not self._remove(one.folder, dry_run):
                keep, reason = True, "in use"
            (pruned.kept if keep else pruned.removed).append((one, reason))
            total -= 0 if keep else one.bytes
        if not dry_run:
            self._sweep()
        return pruned

    def scratch(self) -> Path:
        """A folder of this process for what its trials throw away, on the disk the artifacts are on.

        It stays as long as the process; then another one that asks for its own removes it.
        """
        folder = self.root / "scratch" / _PROCESS
        if not _hold(self._lock(folder, "use")):
            self._sweep()
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _folder(self, artifact: Artifact) -> Path:
        return self.root / artifact.kind / artifact.key

    def _lock(self, folder: Path, purpose: str) -> Path:
        return self.root / "locks" / f"{folder.parent.name}.{folder.name}.{purpose}"

    @contextmanager
    def _builders_turn(self, folder: Path) -> Iterator[None]:
        """Be the one that builds, after waiting for any other that does."""
        lock = self._lock(folder, "build")
        with alone(lock) as free:
            if free:
                yield
                return
        self.say(f"wait for another process to build {folder.parent.name}")
        with alone(lock, wait=True):
            yield

    def _build(self, artifact: Artifact, build: Callable[[Path], None], damage: str) -> None:
        folder = self._folder(artifact)
        for left in folder.parent.glob(f".{folder.name}-*"):  # by a builder that was killed
            shutil.rmtree(left, ignore_errors=True)
        if folder.exists():
            self.say(f"warning: {artifact.kind} {folder.name[:8]} was damaged ({damage}): built again")
            shutil.rmtree(folder)
        else:
            self.say(f"build {artifact.kind}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            start = time.perf_counter()
            build(draft)
            _write_manifest(draft, artifact, time.perf_counter() - start)
            sync_tree(draft)
            draft.rename(folder)
            sync(folder.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _keep_within_limit(self) -> None:
        if self.max_bytes is None:
            return
        pruned = self.prune(max_bytes=self.max_bytes)
        for one, reason in pruned.removed:
            self.say(f"removed {one.kind} {one.key[:8]} of {_mib(one.bytes)}: {reason}")
        left = sum(one.bytes for one, _ in pruned.kept)
        if left > self.max_bytes:
            limit = f"artifacts.max_bytes = {self.max_bytes:,} ({_mib(self.max_bytes)})"
            self.say(f"warning: artifacts in use take {_mib(left)}, over {limit}")

    def _remove(self, folder: Path, dry_run: bool) -> bool:
        """Remove an artifact unless it is in use; a crash midway leaves what counts as damaged."""
        with alone(self._lock(folder, "use")) as free:
            if free and not dry_run and folder.exists():  # another process may have removed it by now
                (folder / _MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(folder)
            return free

    def _sweep(self) -> None:
        """Remove what killed processes left behind: drafts, and what their trials would have thrown away."""
        for draft in self.root.glob("*/.*"):
            if named := _DRAFT.fullmatch(draft.name):
                with alone(self._lock(draft.with_name(named[1]), "build")) as free:
                    if free:
                        shutil.rmtree(draft, ignore_errors=True)
        for folder in (self.root / "scratch").glob("*"):
            if _SCRATCH.fullmatch(folder.name):
                with alone(self._lock(folder, "use")) as free:
                    if free:
                        shutil.rmtree(folder, ignore_errors=True)


# --- what is on disk ---------------------------------------------------------------------------------


class _DamagedError(Exception):
    """An artifact is not whole; the text says why."""


def _write_manifest(folder: Path, artifact: Artifact, seconds: float) -> None:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _file_hash(path)}
        for path in paths
    }
    facts = {
        "kind": artifact.kind,
        "content": artifact.content,
        "bytes": sum(path.stat().st_size for path in paths),
        "seconds": seconds,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": files,
    }
    (folder / _MANIFEST).write_text(json.dumps({**facts, "sha256": _hash(facts)}, indent=1))


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Raises _DamagedError: it is missing, changed, or another artifact's."""
    try:
        facts: dict[str, Any] = json.loads((folder / _MANIFEST).read_text())
        if "sha256" not in facts:
            raise _DamagedError(f"{_MANIFEST} is of an older format")
        if facts.pop("sha256") != _hash(facts):
            raise _DamagedError(f"{_MANIFEST} has changed")
        if Artifact(facts["kind"], facts["content"]).key != folder.name:
            raise _DamagedError(f"{_MANIFEST} is another artifact's, or of another format")
    except FileNotFoundError:
        raise _DamagedError(f"{_MANIFEST} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _DamagedError(f"{_MANIFEST} cannot be read") from None
    return facts


def _check_files(folder: Path, facts: Mapping[str, Any], hashes: bool) -> None:
    """Raises _DamagedError: a file is missing, or has another size or (with `hashes`) other content."""
    for name, stated in facts["files"].items():
        try:
            size = (folder / name).stat().st_size
            if size != stated["bytes"]:
                raise _DamagedError(f"{name} has {size:,} bytes, {stated['bytes']:,} were stored")
            if hashes and _file_hash(folder / name) != stated["sha256"]:
                raise _DamagedError(f"{name} has changed")
        except OSError as error:
            raise _DamagedError(f"{name}: {error.strerror}") from None


def _damage(folder: Path, hashes: bool) -> str | None:
    """Why an artifact is not whole; None where it is."""
    try:
        _check_files(folder, _read_manifest(folder), hashes)
    except _DamagedError as damage:
        return str(damage)
    return None


def _describe(folder: Path) -> Stored | None:
    """What is known of an artifact; None where another process removes it meanwhile."""
    facts: dict[str, Any] = {}
    try:
        facts = _read_manifest(folder)
        damage = _damage(folder, hashes=False)
    except _DamagedError as error:
        damage = str(error)
    try:
        used = folder / _MANIFEST if (folder / _MANIFEST).exists() else folder
        size = facts.get("bytes") or sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        last_used = used.stat().st_mtime
    except FileNotFoundError:
        return None
    return Stored(
        kind=folder.parent.name,
        key=folder.name,
        folder=folder,
        bytes=size,
        last_used=last_used,
        damage=damage,
        content=facts.get("content", {}),
        seconds=facts.get("seconds"),
        made_at=facts.get("made_at"),
    )


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash(content: Any) -> str:
    """SHA-256 of JSON, in its one canonical form."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


# --- locks -------------------------------------------------------------------------------------------


def _hold(lock: Path) -> bool:
    """Hold a lock together with others until this process ends; return whether it was held already."""
    with _guard:
        if lock in _held:
            return True
        if not _held:  # each takes a descriptor, and a long sweep more of them than the usual 1,024
            _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            with suppress(ValueError):  # a system that says "infinity" may not mean it
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        descriptor = _locked(lock, fcntl.LOCK_SH)
        if descriptor is not None:
            _held[lock] = descriptor
        return False


@contextmanager
def alone(lock: Path, wait: bool = False) -> Iterator[bool]:
    """Hold a lock alone, if nobody else holds it or after waiting; give whether it is held."""
    descriptor = _locked(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(lock: Path, operation: int) -> int | None:
    """A descriptor that holds the lock; None where another process holds it and `operation` does not wait."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, operation)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if _is_open_on(descriptor, lock):
            return descriptor
        os.close(descriptor)  # whoever held it alone has removed the file: begin again


def _is_open_on(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
