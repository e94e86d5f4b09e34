"""Weighted links between numbered nodes: symmetric, fading, and at most so many at a node."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.integer[Any]]
DoubleArray = npt.NDArray[np.float64]

_NOBODY = -1  # the target of a slot that is free
_SLOT = np.dtype([("target", "<i4"), ("weight", "<f4")])


class Edges(NamedTuple):
    """Edges, each from one of its ends to the other: three arrays of shape (e,); weights are 0 or more."""

    sources: IntArray
    targets: IntArray
    weights: DoubleArray


class Links:
    """Weighted edges between nodes 0, 1, …, of which each node keeps its `degree` strongest.

    An edge stands at both its ends or at neither: where one has `degree` stronger ones, it goes. Of equal
    edges those to lower numbers are the stronger.

    Weights halve every `half_life` seconds. That is worked out whenever they are read: a node knows when its
    weights were last written, and nothing ever goes over all edges. After a clock is set back, time stands
    still until it has caught up.

    A node takes 8 × `degree` + 8 bytes, and half of that again for growth. Not safe to use from several
    threads at once.
    """

    def __init__(self, degree: int, half_life: float = math.inf) -> None:
        self._degree = degree
        self._half_life = half_life
        self._slots = _free_slots(0, degree)
        self._written = np.zeros(0)  # when each node's weights were what its slots say, in seconds
        self._latest = 0.0  # of those

    def grow(self, size: int) -> None:
        """Have the nodes 0 to `size` − 1."""
        there = len(self._slots)
        if size > there:
            size = max(size, there + there // 2)
            slots, written = _free_slots(size, self._degree), np.zeros(size)
            slots[:there], written[:there] = self._slots, self._written
            self._slots, self._written = slots, written

    def of(self, nodes: IntArray, now: float) -> Edges:
        """The edges of these nodes, with the weights they have `now`, in seconds."""
        rows, columns = np.nonzero(self._slots["target"][nodes] != _NOBODY)
        slots = self._slots[nodes[rows], columns]
        age = max(now, self._latest) - self._written[nodes]
        fading = np.exp2(-age / self._half_life)
        return Edges(nodes[rows], slots["target"], slots["weight"] * fading[rows])

    def merge(self, edges: Edges, combine: np.ufunc, now: float) -> IntArray:
        """Add edges between two different nodes each; return the nodes whose edges are others now.

        Where a pair of nodes has several weights, of old and given edges, `combine` makes one of them: add or
        maximum. A pair is given in one direction; in both, it counts as given twice.
        """
        given = concatenated(edges, Edges(edges.targets, edges.sources, edges.weights))
        nodes = np.unique(given.sources)
        merged = concatenated(self.of(nodes, now), given)
        self._written[nodes] = self._latest = max(now, self._latest)
        return self._put(nodes, _combined(merged, combine))

    def remove(self, nodes: IntArray) -> IntArray:
        """Take all edges from these nodes; return the nodes whose edges are others now."""
        rows, columns = np.nonzero(self._slots["target"][nodes] != _NOBODY)
        others = self._slots["target"][nodes[rows], columns]
        self._cut(others, nodes[rows])
        self._slots["target"][nodes] = _NOBODY
        return np.union1d(nodes[rows], others)

    def isolated(self, nodes: IntArray) -> IntArray:
        """Those of `nodes` that have no edge."""
        alone: IntArray = nodes[(self._slots["target"][nodes] == _NOBODY).all(axis=1)]
        return alone

    def dump(self, node: int) -> tuple[bytes, float]:
        """A node's edges, and when their weights were written, for `load`."""
        return self._slots[node].tobytes(), float(self._written[node])

    def load(self, nodes: Sequence[int], rows: Iterable[bytes], written: Sequence[float]) -> None:
        """Take over all nodes of other `Links` as `dump` gave them; what exceeds `degree` goes.

        Takes as much memory again for a moment, and more where `degree` differs from the other's.

        Raises:
            ValueError: a row is not one that `dump` can have given.
        """
        joined, ends = bytearray(), [0]
        for row in rows:
            joined += row
            ends.append(len(joined))
        lengths = np.diff(ends)
        if (lengths % _SLOT.itemsize).any():
            raise ValueError("a row of edges is cut short")
        numbers = np.asarray(nodes, dtype=np.int64)
        slots = np.frombuffer(joined, dtype=_SLOT)
        taken = slots["target"] != _NOBODY
        if not np.isin(slots["target"][taken], numbers).all():
            raise ValueError("there is an edge to a node that is not there")
        self.grow(int(numbers.max(initial=-1)) + 1)
        self._written[numbers] = written
        self._latest = max(written, default=0.0)
        if (lengths == self._degree * _SLOT.itemsize).all():
            self._slots[numbers] = slots.reshape(-1, self._degree)
            return
        sources = np.repeat(numbers, lengths // _SLOT.itemsize)[taken]
        edges = Edges(sources, slots["target"][taken], slots["weight"][taken].astype(np.float64))
        self._put(np.sort(numbers), _combined(edges, np.maximum))

    # --- parts ---------------------------------------------------------------------------------------

    def _put(self, nodes: IntArray, edges: Edges) -> IntArray:
        """Give `nodes` the strongest of `edges`, which are ordered; return all whose edges are others now."""
        rank = _ranked(edges)
        strong = rank < self._degree
        elsewhere = ~np.isin(edges.targets, nodes)  # the other end keeps its edges, unless this one does not
        stands = strong & (elsewhere | _reversed_in(edges, strong))
        lost = elsewhere & ~stands
        self._cut(edges.targets[lost], edges.sources[lost])
        self._slots[nodes] = _free_slots(1, self._degree)
        kept = np.empty(int(stands.sum()), dtype=_SLOT)
        kept["target"], kept["weight"] = edges.targets[stands], edges.weights[stands]
        self._slots[edges.sources[stands], rank[stands]] = kept
        return np.union1d(nodes, edges.targets[lost])

    def _cut(self, nodes: IntArray, others: IntArray) -> None:
        """Free the slot that each of `nodes` has for the other at the same place in `others`."""
        rows, columns = np.nonzero(self._slots["target"][nodes] == others[:, None])
        self._slots["target"][nodes[rows], columns] = _NOBODY


def _free_slots(nodes: int, degree: int) -> npt.NDArray[np.void]:
    slots = np.zeros((nodes, degree), dtype=_SLOT)
    slots["target"] = _NOBODY
    return slots


def concatenated(one: Edges, other: Edges) -> Edges:
    """The edges of both."""
    return Edges(
        np.concatenate([one.sources, other.sources]),
        np.concatenate([one.targets, other.targets]),
        np.concatenate([one.weights, other.weights]),
    )


def _combined(edges: Edges, combine: np.ufunc) -> Edges:
    """One edge from a source to a target, ordered by both."""
    if not len(edges.sources):
        return edges
    order = np.lexsort((edges.targets, edges.sources))
    sources, targets, weights = edges.sources[order], edges.targets[order], edges.weights[order]
    first = np.flatnonzero(np.diff(sources, prepend=-1) | np.diff(targets, prepend=-1))
    return Edges(sources[first], targets[first], combine.reduceat(weights, first))


def _ranked(edges: Edges) -> IntArray:
    """The place of each edge among those of its source, 0 the strongest; `edges` are ordered."""
    order = np.lexsort((edges.targets, -edges.weights, edges.sources))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order)) - np.searchsorted(edges.sources, edges.sources)
    return rank


def _reversed_in(edges: Edges, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Whether the same edge, seen from its other end, is among the `chosen` of `edges`, which are ordered."""
    span = int(max(edges.sources.max(initial=0), edges.targets.max(initial=0))) + 1
    there = (edges.sources.astype(np.int64) * span + edges.targets)[chosen]
    return np.isin(edges.targets.astype(np.int64) * span + edges.sources, there)
