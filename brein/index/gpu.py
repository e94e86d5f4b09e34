"""GPU search: the same index, copied to the device for as long as it does not change.

It needs a `faiss` built for GPUs. `faiss-gpu-cu12` and `faiss-cpu` both own the package `faiss`, so one
replaces the other; see docs/memory-system.md. Without a GPU the CPU index answers, and a warning says so.
"""

from __future__ import annotations

import warnings
from functools import cache
from threading import Lock
from typing import Any, Literal

from brein.errors import ConfigError
from brein.index.base import Config, LabelArray
from brein.index.family import FaissStructure
from brein.index.snapshot import first_line
from brein.records import FloatArray

Device = Literal["cpu", "gpu"]
DEVICE = "where a search runs; gpu without a GPU says so and runs on the CPU"
_SELECTION = 2048  # neighbours, or lists, that FAISS's GPU search can choose; for more the CPU index is asked
_one_at_a_time = Lock()  # FAISS's GPU resources serve one thread


def count() -> int:
    """How many GPUs this `faiss` can use."""
    import faiss

    return int(faiss.get_num_gpus()) if hasattr(faiss, "get_num_gpus") else 0


class OnDevice(FaissStructure[Config]):
    """A structure that FAISS can copy to a GPU: `GpuIndexFlat`, `GpuIndexIVFFlat`, `GpuIndexIVFPQ`.

    The CPU index stays the truth: it is what is trained, written to, filtered and saved. FAISS's GPU indexes
    neither filter nor remove, so a filtered search runs on the CPU, and a write drops the copy. What a GPU
    cannot do with the parameters, it says when the first search copies the index there.
    """

    _copy: Any = None

    def tune(self, config: Any) -> None:
        """Take over the query parameters of `config`."""
        super().tune(config)
        if config.device == "gpu" and not count():
            warnings.warn(
                f"{config.kind}: faiss reports no GPU, so the CPU index of the same parameters is used",
                RuntimeWarning,
                stacklevel=2,
            )

    def _apply(self) -> None:
        super()._apply()
        self._copy = None

    def add(self, labels: LabelArray, vectors: FloatArray) -> None:
        """Add float32 (n, d) under int64 (n,)."""
        self._copy = None
        super().add(labels, vectors)

    def remove(self, labels: LabelArray) -> None:
        """Remove these labels."""
        self._copy = None
        super().remove(labels)

    def _search_all(self, queries: FloatArray, k: int) -> tuple[FloatArray, LabelArray]:
        config: Any = self.config
        if config.device == "cpu" or not count() or max(k, getattr(config, "nprobe", 0)) > _SELECTION:
            return super()._search_all(queries, k)
        with _one_at_a_time:
            scores, labels = self._on_gpu().search(queries, k)
        return scores, labels

    def _on_gpu(self) -> Any:
        import faiss

        if self._copy is None:
            try:
                self._copy = faiss.index_cpu_to_gpu(_resources(), 0, self._faiss)
            except RuntimeError as error:
                raise ConfigError(
                    f"device = 'gpu': faiss cannot copy this {self.config.kind} there ({first_line(error)}); "
                    "change its parameters, or use device = 'cpu'"
                ) from None
        return self._copy


@cache
def _resources() -> Any:
    import faiss

    return faiss.StandardGpuResources()
