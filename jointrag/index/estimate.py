"""What building a Faiss index will take, about, said before it starts. A time to tell minutes from hours by."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from jointrag.index.faiss_parts import Parts

_IVF_ITERATIONS, _PQ_ITERATIONS = 10, 25  # Faiss's
_SAMPLES_PER_CENTROID = 256  # of a training sample, Faiss takes that many
_LINK_S = 4.0  # a step in a graph reads from all over the memory: so many times the cost of its products alone
_COPY_S = 5e-9  # a number read, converted, copied and written
_CODE_S = 3.0  # products of a few dimensions each do not fill the processor either


@dataclass(frozen=True, slots=True)
class Estimate:
    """bytes: in memory at the end; peak_bytes: while training, if more."""

    num_vectors: int
    num_training: int
    bytes: int
    peak_bytes: int
    seconds: float

    def __str__(self) -> str:
        sample = f", trained on {self.num_training:,} of them" if self.num_training else ""
        return (
            f"{self.num_vectors:,} vectors{sample}; about {_size(self.bytes)} in memory "
            f"({self.bytes / self.num_vectors:.0f} bytes a vector), {_size(self.peak_bytes)} while it is built; "
            f"{_duration(self.seconds)}"
        )


def estimate(parts: Parts, num_vectors: int, num_training: int) -> Estimate:
    """For an index of these `parts`, from the speed of this machine's matrix products."""
    size = parts.bytes_per_vector * num_vectors + 4 * parts.dim * parts.num_clusters
    training = 4 * parts.dim * num_training
    seconds = num_vectors * parts.dim * _COPY_S
    if products := _products(parts, num_vectors, num_training):
        seconds += products / _rate()
    return Estimate(num_vectors, num_training, size, max(size, training * 2), seconds)


def _products(parts: Parts, num_vectors: int, num_training: int) -> float:
    """Multiplications, each weighted by how much slower than in a large matrix product it is."""
    clusters, centroids = parts.num_clusters, parts.num_centroids
    found = 0.0
    if clusters:
        sample = min(num_training, _SAMPLES_PER_CENTROID * clusters)
        found += (_IVF_ITERATIONS * sample + num_vectors) * clusters * parts.dim
    if centroids:
        sample = min(num_training, _SAMPLES_PER_CENTROID * centroids)
        found += _CODE_S * (_PQ_ITERATIONS * sample + num_vectors) * centroids * parts.dim
    if parts.graph is not None:
        found += _LINK_S * num_vectors * parts.graph.efConstruction * parts.num_links * parts.dim
    return found


def _rate() -> float:
    """Multiplications a second in a matrix product, on all threads."""
    import faiss

    rng = np.random.default_rng(0)
    queries, vectors = (rng.random((num, 256), dtype=np.float32) for num in (256, 4096))
    faiss.knn(queries[:8], vectors, 1)  # threads start
    start = time.perf_counter()
    faiss.knn(queries, vectors, 1, metric=faiss.METRIC_INNER_PRODUCT)
    return queries.shape[0] * vectors.size / (time.perf_counter() - start)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return "less than a minute"
    return f"some {seconds / 60:.0f} minutes" if seconds < 5400 else f"some {seconds / 3600:.0f} hours"
