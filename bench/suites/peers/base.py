"""What a peer is to the lab: three verbs, `build`, `search` and `close`, and a few it may have besides.

An adapter of your own is a Python file with one class of either kind:

    class Mine(VectorPeer):
        def build(self, vectors, metric, parameters): ...
        def search(self, queries, k): ...
        def close(self): ...

It is loaded in the children that build and measure, nowhere else.
"""

from __future__ import annotations

import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt

from bench.errors import UsageError
from bench.workload.dataset import IntArray
from brein.records import FloatArray

Parameters = Mapping[str, Any]
Embed = Callable[[Sequence[str]], FloatArray]


class Peer(ABC):
    """What both kinds share. `threads` is how many a peer may compute with."""

    NEEDS: ClassVar[tuple[str, ...]] = ()  # distributions, as pip names them; other versions build anew
    MODULES: ClassVar[tuple[str, ...]] = ()  # what it imports where it is used: imported before it is timed
    IS_ENGINE: ClassVar[bool] = False  # what the others are compared with
    IN_PROCESS: ClassVar[bool] = True  # whether its memory is that of this process

    def __init__(self, threads: int) -> None:
        self.threads = threads

    @classmethod
    def needs(cls, parameters: Parameters) -> tuple[str, ...]:
        """The distributions that it cannot do without, built with these parameters."""
        return cls.NEEDS

    @abstractmethod
    def close(self) -> None:
        """Let go of everything held: memory, files, processes, connections."""

    def tune(self, setting: Parameters) -> None:
        """Take parameters of the searches to come. It need not be there for a peer that has none.

        Raises:
            UsageError: it has no such parameter.
        """
        if setting:
            raise UsageError(f"{type(self).__name__} has no parameters of its searches, got {dict(setting)}")

    def memory(self) -> int | None:
        """Bytes it holds by its own account, where it lives in another process; None: not known."""
        return None


class VectorPeer(Peer):
    """Vectors in, row numbers out."""

    METRICS: ClassVar[tuple[str, ...]] = ("cosine", "inner_product", "l2")
    SAVES: ClassVar[bool] = (
        False  # whether it has `save` and `load`: it is then built once, not in each trial
    )

    @classmethod
    def saves(cls, parameters: Parameters) -> bool:
        """Whether what is built with these parameters can be saved."""
        return cls.SAVES

    @abstractmethod
    def build(self, vectors: FloatArray, metric: str, parameters: Parameters) -> None:
        """Index float32 (n, d); when this returns, every row can be found."""

    @abstractmethod
    def search(self, queries: FloatArray, k: int) -> npt.NDArray[Any]:
        """Rows of the `k` nearest vectors of each query, float32 (m, d): integers (m, ≤ k), nearest first.

        -1 stands where fewer are found.
        """

    def save(self, folder: Path) -> None:
        """Write what was built into an empty folder."""
        raise NotImplementedError

    def load(self, folder: Path, dimension: int, metric: str, parameters: Parameters) -> None:
        """Take over what `save` wrote, in another process; stands in the place of `build`."""
        raise NotImplementedError


class TextPeer(Peer):
    """Text in, row numbers out."""

    @abstractmethod
    def build(self, texts: Sequence[str], embed: Embed, parameters: Parameters) -> None:
        """Index `texts`; when this returns, every one can be found.

        `embed` takes n texts to float32 (n, d), rows of length 1, to be compared by cosine; queries, too.
        """

    @abstractmethod
    def search(self, text: str, k: int) -> Sequence[int]:
        """The rows of the `k` texts nearest to `text`, nearest first; fewer where there are no more."""


def from_file(path: Path) -> type[Peer]:
    """The adapter that a Python file defines.

    Raises:
        UsageError: the file cannot be run, or has not exactly one class of a `VectorPeer` or `TextPeer`.
    """
    try:
        spec = importlib.util.spec_from_file_location("adapter", path)
        if spec is None or spec.loader is None:
            raise UsageError(f"{path} is no Python file; give one that ends in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["adapter"] = module  # where a dataclass, for one, looks up what its annotations name
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"{path} cannot be run: {type(error).__name__}: {error}") from None
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Peer) and value.__module__ == "adapter"
    ]
    if len(classes) != 1:
        raise UsageError(
            f"{path} defines {len(classes)} adapters; define one class of bench.suites.peers.base.VectorPeer "
            "or TextPeer"
        )
    return classes[0]


def pick(parameters: Parameters, **known: Any) -> dict[str, Any]:
    """The `known` parameters, with those given in the place of their defaults.

    Raises:
        UsageError: one is given that is not known.
    """
    for name in parameters:
        if name not in known:
            raise UsageError(f"{name} is no parameter here; known: {', '.join(known) or 'none'}")
    return {**known, **parameters}


__all__ = ["Embed", "IntArray", "Parameters", "Peer", "TextPeer", "VectorPeer", "from_file", "pick"]
