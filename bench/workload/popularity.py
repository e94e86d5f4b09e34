"""Which query each request is for: streams of stated popularity, repetition and drift."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.data_config import Popularity, Repetition, TracePopularity, UniformPopularity, ZipfPopularity
from bench.errors import UsageError
from bench.workload.dataset import IntArray
from brein.settings import Settings

_BLOCK = 100  # requests between two changes of rank
_ENCODING = "utf-8-sig"  # UTF-8, also with the mark that spreadsheets put before it


class Stream(Settings):
    """A stream of `requests` for one of `queries` queries each: all that makes it but the seed.

    `trace` holds query numbers, at most `requests` of them, where the popularity is a trace.
    """

    popularity: Popularity
    queries: int
    requests: int
    trace: tuple[int, ...] = ()

    def drawn(self, seed: int) -> IntArray:
        """The query number of each request, int64 (requests,); the same for the same seed.

        Zipf: the query of rank r is drawn with probability proportional to r^-exponent; which query has which
        rank is itself drawn, so that popularity does not follow the data's order. Drift: after every 100
        requests, each rank is picked with probability drift / 10, and those picked exchange their queries at
        random. Repetition: with this probability a request is the same as one of the `window` before it, each
        as likely, itself repeated or not; the others are drawn as without repetition. A trace is cut to
        `requests`, or begun again.
        """
        ranks, drift, picks, repeats = np.random.default_rng(seed).spawn(4)
        match self.popularity:
            case TracePopularity():
                return np.resize(np.array(self.trace, dtype=np.int64), self.requests)
            case UniformPopularity(repetition=repetition, window=window):
                stream = picks.integers(self.queries, size=self.requests)
            case ZipfPopularity(repetition=repetition, window=window) as zipf:
                weights = np.arange(1, self.queries + 1, dtype=np.float64) ** -zipf.exponent
                picked = picks.choice(self.queries, size=self.requests, p=weights / weights.sum())
                stream = _drifting(picked, ranks.permutation(self.queries), zipf.drift, drift)
        return _repeating(stream, repetition, window, repeats)

    @property
    def described(self) -> str:
        """The popularity in words, with every setting that acts."""
        match self.popularity:
            case TracePopularity(path=path) if len(self.trace) < self.requests:
                return f"trace {path.name} of {len(self.trace):,} requests, again and again"
            case TracePopularity(path=path):
                return f"trace {path.name}, its first {self.requests:,} requests"
            case UniformPopularity() as uniform:
                return f"uniform popularity, {_repetition(uniform)}"
            case ZipfPopularity() as zipf:
                return f"Zipf exponent {zipf.exponent:g}, {_repetition(zipf)}, drift {zipf.drift:g}"


def for_queries(popularity: Popularity, ids: Sequence[str], requests: int) -> Stream:
    """A stream of requests for the queries with these ids.

    Raises:
        UsageError: a trace cannot be read, or has an entry that is no query.
    """
    if not isinstance(popularity, TracePopularity):
        return Stream(popularity=popularity, queries=len(ids), requests=requests)
    entries = _entries(popularity)
    known = {id_: number for number, id_ in enumerate(ids)}
    if not any(entry in known for entry in entries):
        known = {str(number): number for number in range(len(ids))}
    for place, entry in enumerate(entries, 1):
        if entry not in known:
            raise UsageError(
                f"popularity.path: entry {place:,} of {popularity.path}, {entry!r}, is not a query: give ids "
                f"of queries, or numbers from 0 to {len(ids) - 1:,} alone"
            )
    return _replayed(popularity, [known[entry] for entry in entries], len(ids), requests)


def for_keys(popularity: Popularity, keys: int, requests: int) -> Stream:
    """A stream of requests for nameless keys; of a trace, each different entry is the next key.

    Raises:
        UsageError: a trace cannot be read, or its first `requests` have more different entries than there are
            keys.
    """
    if not isinstance(popularity, TracePopularity):
        return Stream(popularity=popularity, queries=keys, requests=requests)
    entries = _entries(popularity)[:requests]
    number = {entry: key for key, entry in enumerate(dict.fromkeys(entries))}
    if len(number) > keys:
        raise UsageError(
            f"suite.memory.cache_keys = {keys}: {popularity.path} has {len(number):,} different entries "
            f"in {len(entries):,} requests; give as many keys"
        )
    return _replayed(popularity, [number[entry] for entry in entries], keys, requests)


def _replayed(popularity: Popularity, trace: Sequence[int], queries: int, requests: int) -> Stream:
    return Stream(popularity=popularity, queries=queries, requests=requests, trace=tuple(trace[:requests]))


def _entries(trace: TracePopularity) -> list[str]:
    try:
        entries = _column(trace.path, trace.column) if trace.column else _lines(trace.path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"popularity.path = {trace.path}: {error}") from None
    if not entries:
        raise UsageError(f"popularity.path = {trace.path}: it holds no requests")
    return entries


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(_ENCODING).splitlines() if line.strip()]


def _column(path: Path, column: str) -> list[str]:
    with path.open(encoding=_ENCODING, newline="") as file:
        rows = csv.DictReader(file)
        if column not in (rows.fieldnames or ()):
            columns = ", ".join(rows.fieldnames or ()) or "none"
            raise UsageError(f"popularity.column = {column!r}: {path} has no such column; it has {columns}")
        return [(row[column] or "").strip() for row in rows]


def _drifting(picked: IntArray, holders: IntArray, drift: float, random: np.random.Generator) -> IntArray:
    """The queries that hold the ranks `picked`, while `holders`, the query of each rank, changes."""
    stream = np.empty_like(picked)
    for start in range(0, len(picked), _BLOCK):
        if start and drift:
            changing = np.flatnonzero(random.random(len(holders)) < drift * _BLOCK / 1000)
            holders[changing] = holders[random.permutation(changing)]
        block = slice(start, start + _BLOCK)
        stream[block] = holders[picked[block]]
    return stream


def _repeating(stream: IntArray, repetition: float, window: int, random: np.random.Generator) -> IntArray:
    """`stream` with some of its requests replaced by one of those before it."""
    places = np.arange(len(stream))
    back = 1 + (random.random(len(stream)) * np.minimum(places, window)).astype(np.int64)
    again = (random.random(len(stream)) < repetition) & (places > 0)
    for place in np.flatnonzero(again).tolist():
        stream[place] = stream[place - back[place]]
    return stream


def _repetition(popularity: Repetition) -> str:
    return f"repetition {popularity.repetition:g} of the last {popularity.window:,}"
