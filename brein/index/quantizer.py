"""Vector quantisation: a vector as its nearest centroid and what is left over."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from brein.errors import DataError, StorageError
from brein.files import write_whole
from brein.index.base import POINTS_PER_CENTROID, LabelArray
from brein.records import FloatArray

ClusterArray = npt.NDArray[np.int32]
ResidualArray = npt.NDArray[np.float64]


class VectorQuantizer:
    """k-means over `n_dims` components: each vector is one of `n_clusters` centroids plus a residual.

    Residuals are float64, so that centroid + residual is the vector again, bit for bit, for every component
    that is zero or at least 2⁻²⁹ of its centroid's; a smaller one comes back within 2⁻⁵³ of the centroid's.
    The k-means is FAISS's, seeded: equal vectors give equal centroids on the same machine.
    """

    def __init__(self, n_clusters: int = 256, n_dims: int = 384, seed: int = 42) -> None:
        if n_clusters < 1 or n_dims < 1:
            raise DataError(f"n_clusters = {n_clusters}, n_dims = {n_dims}: both must be at least 1")
        self.n_clusters = n_clusters
        self.n_dims = n_dims
        self.seed = seed
        self.centroids: FloatArray | None = None  # float32 (n_clusters, n_dims)

    @property
    def fitted(self) -> bool:
        """Whether there are centroids."""
        return self.centroids is not None

    def fit(self, vectors: FloatArray) -> None:
        """Find the centroids of float32 (n, n_dims), or of a sample where there are more than 256 a cluster.

        Raises:
            DataError: fewer vectors than clusters, or of the wrong shape.
        """
        import faiss

        self._check(vectors)
        if len(vectors) < self.n_clusters:
            raise DataError(
                f"n_clusters = {self.n_clusters}: at most as many as vectors, of which there are "
                f"{len(vectors)}; give more, or ask for fewer clusters"
            )
        kmeans = faiss.Kmeans(
            self.n_dims,
            self.n_clusters,
            seed=self.seed,
            min_points_per_centroid=1,  # FAISS would only warn
            max_points_per_centroid=POINTS_PER_CENTROID,
        )
        kmeans.train(np.ascontiguousarray(vectors, dtype=np.float32))
        self.centroids = kmeans.centroids

    def quantize(self, vector: FloatArray) -> tuple[int, ResidualArray]:
        """The nearest centroid's number and the residual, float64 (n_dims,), of one vector, (n_dims,)."""
        clusters, residuals = self.quantize_batch(vector[None])
        return int(clusters[0]), residuals[0]

    def quantize_batch(self, vectors: FloatArray) -> tuple[ClusterArray, ResidualArray]:
        """Numbers of the nearest centroids, int32 (n,), and residuals, float64 (n, n_dims).

        Raises:
            DataError: `fit` comes first, or the vectors have the wrong shape.
        """
        import faiss

        self._check(vectors)
        centroids = self._fitted_centroids()
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        nearest: LabelArray = faiss.knn(rows, centroids, 1)[1]
        clusters: ClusterArray = nearest[:, 0].astype(np.int32)
        residuals: ResidualArray = rows.astype(np.float64) - centroids[clusters]
        return clusters, residuals

    def reconstruct(self, cluster: int, residual: ResidualArray) -> FloatArray:
        """The vector again, float32 (n_dims,)."""
        vector: FloatArray = self.reconstruct_batch(np.array([cluster], dtype=np.int32), residual[None])[0]
        return vector

    def reconstruct_batch(self, clusters: ClusterArray, residuals: ResidualArray) -> FloatArray:
        """The vectors again, float32 (n, n_dims)."""
        vectors: FloatArray = (self._fitted_centroids()[clusters] + residuals).astype(np.float32)
        return vectors

    def save(self, path: Path) -> None:
        """Write the centroids to a NumPy file, atomically.

        Raises:
            DataError: `fit` comes first.
            StorageError: the file cannot be written.
        """
        buffer = io.BytesIO()
        np.save(buffer, self._fitted_centroids(), allow_pickle=False)
        try:
            write_whole(path, buffer.getvalue())
        except OSError as error:
            raise StorageError(f"the quantiser cannot be written to {path}: {error.strerror}") from None

    @classmethod
    def load(cls, path: Path) -> VectorQuantizer:
        """Read what `save` wrote.

        Raises:
            StorageError: it is missing, truncated or something else.
        """
        try:
            with path.open("rb") as file:  # np.load would take archives too
                centroids: FloatArray = np.lib.format.read_array(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise StorageError(f"no usable quantiser in {path}: {error}; fit it again") from None
        if centroids.dtype != np.float32 or centroids.ndim != 2 or not centroids.size:
            raise StorageError(f"no usable quantiser in {path}: it holds no float32 centroids; fit it again")
        made = cls(*centroids.shape)
        made.centroids = centroids
        return made

    def _fitted_centroids(self) -> FloatArray:
        if self.centroids is None:
            raise DataError("the quantiser has no centroids yet; call fit first")
        return self.centroids

    def _check(self, vectors: FloatArray) -> None:
        if vectors.ndim != 2 or vectors.shape[1] != self.n_dims:
            raise DataError(f"vectors have shape {vectors.shape}; this quantiser takes (n, {self.n_dims})")
