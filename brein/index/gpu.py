"""GPU search: the same index, copied to the device for as long as it does not change.

It needs a `faiss` built for GPUs. `faiss-gpu-cu12` and `faiss-cpu` both own the package `faiss`, so one
replaces the other; see docs/memory-system.md. Without a GPU the CPU index answers, and a warning says so.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

from brein.index.base import Config, LabelArray
from brein.index.family import FaissStructure
from brein.records import FloatArray

Device = Literal["cpu", "gpu"]
DEVICE = "where a search runs; gpu without a GPU says so and runs on the CPU"


def count() -> int:
    """How many GPUs this `faiss` can use."""
    import faiss

    return int(faiss.get_num_gpus()) if hasattr(faiss, "get_num_gpus") else 0


class OnDevice(FaissStructure[Config]):
    """A structure that FAISS can copy to a GPU: `GpuIndexFlat`, `GpuIndexIVFFlat`, `GpuIndexIVFPQ`.

    The CPU index stays the truth: it is what is trained, written to, filtered and saved. FAISS's GPU indexes
    neither filter nor remove, so a filtered search runs on the CPU, and a write drops the copy.
    """

    _copy: Any = None
    _resources: Any = None

    def tune(self, config: Any) -> None:
        """Take over the query parameters of `config`."""
        super().tune(config)
        self._copy = None
        if config.device == "gpu" and not count():
            warnings.warn(
                f"{config.kind}: faiss reports no GPU, so the CPU index of the same parameters is used",
                RuntimeWarning,
                stacklevel=2,
            )

    def add(self, labels: LabelArray, vectors: FloatArray) -> None:
        """Add float32 (n, d) under int64 (n,)."""
        self._copy = None
        super().add(labels, vectors)

    def remove(self, labels: LabelArray) -> None:
        """Remove these labels."""
        self._copy = None
        super().remove(labels)

    def _search_all(self, queries: FloatArray, k: int) -> tuple[FloatArray, LabelArray]:
        if getattr(self.config, "device", "cpu") == "cpu" or not count():
            return super()._search_all(queries, k)
        scores, labels = self._on_gpu().search(queries, k)
        return scores, labels

    def _on_gpu(self) -> Any:
        import faiss

        if self._copy is None:
            self._resources = self._resources or faiss.StandardGpuResources()
            self._copy = faiss.index_cpu_to_gpu(self._resources, 0, self._faiss)
        return self._copy
