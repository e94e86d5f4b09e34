"""Vectors drawn from clusters whose sizes, spread and intrinsic dimension are stated.

A vector is a cluster's centre plus a deviation, both Gaussian in `intrinsic_dimension` directions whose
standard deviations fall with their rank, plus a small remainder over all directions, scaled to length 1.
Cluster sizes follow Zipf's law. The fall and the remainder are fixed so that `conf/dataset/synthetic.yaml`
behaves under IVF and PQ as sentence embeddings do; plain Gaussian clusters flatter IVF.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.data_config import SyntheticConfig
from bench.errors import UsageError
from bench.workload.dataset import VectorDataset
from brein.records import FloatArray

FALL = 0.4  # exponent of the spectrum's fall with rank
REMAINDER = 0.2  # standard deviation over all directions together, in units of the clusters' own
ZIPF = 1.0  # exponent of the cluster sizes
_BLOCK = 4096  # rows drawn by one generator: part of what a seed means, never a tuning knob
_CLUSTERS, _VECTORS, _QUERIES = range(3)  # streams of a seed


def load(config: SyntheticConfig) -> VectorDataset:
    """Draw the data set that `config` describes; the same configuration gives the same vectors.

    They are the same bit for bit with one NumPy on one kind of processor, whatever the number of threads.
    Each block of rows has a generator of its own, so the first n vectors do not depend on how many
    are drawn in all, nor on how many queries are.

    Raises:
        UsageError: more intrinsic dimensions than dimensions, or more clusters than vectors.
    """
    _check(config)
    mixture = _mixture(config)
    facts = {**config.model_dump(exclude={"kind"}), "numpy": np.__version__}
    return VectorDataset(
        name="synthetic",
        vectors=_draw(mixture, config, _VECTORS, config.vectors),
        queries=_draw(mixture, config, _QUERIES, config.queries),
        facts=facts,
    )


@dataclass(frozen=True)
class _Mixture:
    """`shares` (clusters,), `centres` (clusters, intrinsic), `scale` (intrinsic,), `basis` (intrinsic, d)."""

    shares: npt.NDArray[np.float64]
    centres: FloatArray
    scale: FloatArray
    basis: FloatArray


def _check(config: SyntheticConfig) -> None:
    if config.intrinsic_dimension > config.dimension:
        raise UsageError(
            f"dataset.intrinsic_dimension = {config.intrinsic_dimension} is larger than "
            f"dataset.dimension = {config.dimension}; lower it"
        )
    if config.clusters > config.vectors:
        raise UsageError(
            f"dataset.clusters = {config.clusters} is larger than "
            f"dataset.vectors = {config.vectors}; lower it"
        )


def _mixture(config: SyntheticConfig) -> _Mixture:
    random = _generator(config.seed, _CLUSTERS, 0)
    inner = config.intrinsic_dimension
    sizes = np.arange(1, config.clusters + 1) ** -ZIPF
    scale = np.arange(1, inner + 1) ** -FALL
    scale /= np.sqrt(np.square(scale).sum())
    orthonormal, _ = np.linalg.qr(random.standard_normal((config.dimension, inner)))
    centres = random.standard_normal((config.clusters, inner)) * scale
    return _Mixture(
        shares=sizes / sizes.sum(),
        centres=centres.astype(np.float32),
        scale=scale.astype(np.float32),
        basis=np.ascontiguousarray(orthonormal.T, dtype=np.float32),
    )


def _draw(mixture: _Mixture, config: SyntheticConfig, stream: int, count: int) -> FloatArray:
    drawn = np.empty((count, config.dimension), dtype=np.float32)
    for block, start in enumerate(range(0, count, _BLOCK)):
        part = drawn[start : start + _BLOCK]
        part[:] = _block(mixture, config, _generator(config.seed, stream, block))[: len(part)]
    return drawn


def _block(mixture: _Mixture, config: SyntheticConfig, random: np.random.Generator) -> FloatArray:
    inner, dimension = mixture.basis.shape
    cluster = random.choice(len(mixture.shares), _BLOCK, p=mixture.shares)
    deviation = random.standard_normal((_BLOCK, inner), dtype=np.float32) * mixture.scale
    points = (mixture.centres[cluster] + np.float32(config.cluster_spread) * deviation) @ mixture.basis
    remainder = REMAINDER * np.sqrt((1 + config.cluster_spread**2) / dimension)
    points += np.float32(remainder) * random.standard_normal(points.shape, dtype=np.float32)
    points /= np.sqrt(np.square(points).sum(axis=1, keepdims=True))
    return points


def _generator(seed: int, stream: int, block: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, block)))
