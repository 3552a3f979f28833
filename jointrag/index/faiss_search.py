"""Faiss: an index made from a factory string, filled from the shards, searched, and its finds put in order again.

    index = make(config, dim)              # empty; raises what is wrong with the settings before anything is embedded
    fill(index, vectors, config)
    write(index, out / "index.faiss")
    FaissSearch.open(out / "index.faiss", vectors, config).nearest(queries, k=10)

A factory that begins with B is Faiss's of binary indexes: of each number, its sign is kept, one bit.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jointrag.config import IndexConfig
from jointrag.index.estimate import estimate
from jointrag.index.faiss_parts import Parts
from jointrag.index.shards import Vectors
from jointrag.progress import progress

logger = logging.getLogger(__name__)
_VECTORS_AT_ONCE = 16_384  # converted to float32 and added, where Faiss multiplies matrices or takes locks
_CODED_AT_ONCE = 1_024  # where each vector is coded by itself: what was converted is still in the processor's cache
_CELLS = 16_000_000  # numbers of float32 read for rescoring at a time
_LEAST_TRAINING = 100_000
_EF_SEARCH = 128
_LEAST_LINKS = 6  # of HNSW2, as Parts counts them
_RESCORE_SIGNS = 10


class FaissSearch:
    """An index in memory, and the vectors on disk where these have the last word."""

    def __init__(self, index: Any, vectors: Vectors | None, config: IndexConfig) -> None:
        self._index = index
        self._vectors = vectors
        self._is_binary = is_binary(config)
        self._rescore = rescore(config)

    @classmethod
    def open(cls, path: Path, vectors: Vectors, config: IndexConfig) -> FaissSearch:
        """Load what `write` wrote; flat codes are mapped, so that processes share them. Raises ValueError for a file
        that Faiss cannot read, one with another number of vectors, and settings that this machine does not fulfil."""
        import faiss

        read = faiss.read_index_binary if is_binary(config) else faiss.read_index
        try:
            index = read(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise ValueError(f"{path}: damaged ({error}); build the index again") from None
        if index.ntotal != len(vectors) or index.d != vectors.dim:
            raise ValueError(
                f"{path}: {index.ntotal} vectors of {index.d} dimensions where {len(vectors)} of {vectors.dim} were "
                "embedded; build the index again"
            )
        set_search(index, config)
        return cls(to_gpu(index, config), vectors if rescore(config) else None, config)

    def nearest(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions and scores [queries, k] of the best, best first; position -1: no more were found.

        Scores are inner products: exact ones, those of the coded vectors, or, of signs alone, their estimate.
        """
        fetched = min(k * max(1, self._rescore), self._index.ntotal)
        if self._is_binary:
            distances, positions = self._index.search(signs(queries), fetched)
            scores = _cosines(distances, queries.shape[1])
        else:
            scores, positions = self._index.search(np.ascontiguousarray(queries), fetched)
        if self._vectors is not None and len(queries):
            positions, scores = _rescored(queries, positions, self._vectors)
        return positions[:, :k], scores[:, :k]


def is_binary(config: IndexConfig) -> bool:
    return config.factory.startswith("B")


def rescore(config: IndexConfig) -> int:
    """How many times as many passages are fetched and scored again; 0: none are."""
    if config.rescore is None:
        return _RESCORE_SIGNS if is_binary(config) else 0
    return config.rescore


def signs(vectors: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The signs of `vectors` [n, dim] as bits [n, dim / 8]."""
    is_half = vectors.dtype == np.float16  # whose bits, read as an integer, are above 0 when it is: quick to compare
    return np.packbits((vectors.view(np.int16) if is_half else vectors) > 0, axis=1)


def _cosines(distances: NDArray[np.int32], dim: int) -> NDArray[np.float32]:
    """What the angle between vectors is where so many signs differ, were their directions random (Charikar 2002)."""
    return np.cos(np.pi * distances / dim).astype(np.float32)


def _rescored(
    queries: NDArray[np.float32], positions: NDArray[np.int64], vectors: Vectors
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """`positions` [queries, n] in the order of their inner products, and these; equal ones in the corpus's order."""
    scores = np.full(positions.shape, -np.inf, dtype=np.float32)
    at_once = max(1, _CELLS // (positions.shape[1] * vectors.dim))
    for start in range(0, len(queries), at_once):
        part = slice(start, start + at_once)
        found, where = np.unique(np.maximum(positions[part], 0), return_inverse=True)
        read = vectors[found][where.reshape(positions[part].shape)]
        scores[part] = np.einsum("qd,qnd->qn", queries[part], read)
    scores[positions < 0] = -np.inf
    order = np.lexsort((positions, -scores), axis=1)
    return np.take_along_axis(positions, order, axis=1), np.take_along_axis(scores, order, axis=1)


# ---- building --------------------------------------------------------------------------------------------------------


def make(config: IndexConfig, dim: int) -> Any:
    """An empty index. Raises ValueError for what Faiss does not build or search so, and for GPUs that are not there."""
    import faiss

    try:
        if is_binary(config):
            index = faiss.index_binary_factory(dim, config.factory)
        else:
            index = faiss.index_factory(dim, config.factory, faiss.METRIC_INNER_PRODUCT)
        parts = Parts.of(index)
        is_empty = (parts.ivf and not parts.num_clusters) or (parts.graph and parts.num_links < _LEAST_LINKS)
    except RuntimeError as error:
        raise ValueError(
            f"index.factory={config.factory!r}: Faiss does not build this for {dim} dimensions ({error})"
        ) from None
    if is_empty:  # Faiss would end the process when something is added
        raise ValueError(f"index.factory={config.factory!r}: give at least IVF1, or HNSW2")
    set_search(index, config)
    check_gpu(config)
    return index


def check_size(index: Any, config: IndexConfig, num_vectors: int) -> None:
    """Raises ValueError where there is less to learn from than is to be learned, known before anything is embedded."""
    parts = Parts.of(index)
    needed, sample = max(parts.num_clusters, parts.num_centroids), num_training(config, parts, num_vectors)
    if not index.is_trained and sample < needed:
        raise ValueError(
            f"index.factory={config.factory!r} cannot be trained on {sample} passages: it has {needed} clusters; "
            "choose fewer, or Flat"
        )


def describe(index: Any, config: IndexConfig, num_vectors: int) -> str:
    """What filling it will take: memory, time, how many vectors are learned from."""
    parts = Parts.of(index)
    sample = 0 if index.is_trained else num_training(config, parts, num_vectors)
    return f"{config.factory}: {estimate(parts, num_vectors, sample)}"


def fill(index: Any, vectors: Vectors, config: IndexConfig) -> None:
    """Train an empty index on a random sample and add everything, block by block."""
    assert index.ntotal == 0
    parts = Parts.of(index)
    if not index.is_trained:
        _train(index, parts, vectors, num_training(config, parts, len(vectors)), config)
    parts.reserve(len(vectors))
    at_once = _CODED_AT_ONCE if parts.ivf is None and parts.graph is None else _VECTORS_AT_ONCE
    started, num_blocks = time.monotonic(), sum(1 for _ in vectors.blocks(at_once))
    blocks = progress(vectors.blocks(at_once), "adding vectors, block", total=num_blocks)
    try:
        _add(index, blocks, len(vectors))
    except RuntimeError as error:
        raise ValueError(f"index.factory={config.factory!r}: Faiss adds nothing to this ({error})") from None
    logger.info("%s: vectors added in %.1f s", config.factory, time.monotonic() - started)


def _add(index: Any, blocks: Iterable[NDArray[np.float16]], num_vectors: int) -> None:
    """Blocks go through one piece of memory; those of a flat index straight to where they stay."""
    import faiss

    if isinstance(index, faiss.IndexFlat):
        index.codes.resize(num_vectors * index.code_size)
        codes = faiss.rev_swig_ptr(index.codes.data(), num_vectors * index.code_size)
        rows = codes.view(np.float32).reshape(num_vectors, index.d)
        for block in blocks:
            _widen(block, rows[index.ntotal : index.ntotal + len(block)])
            index.ntotal += len(block)
        return
    is_of_signs = isinstance(index, faiss.IndexBinary)
    room = np.empty((0 if is_of_signs else _VECTORS_AT_ONCE, index.d), dtype=np.float32)
    for block in blocks:
        if is_of_signs:
            index.add(signs(block))
        else:
            _widen(block, room[: len(block)])
            index.add(room[: len(block)])


def _widen(vectors: NDArray[np.float16], out: NDArray[np.float32]) -> None:
    """fp16 to float32 by Faiss, whose code for it is several times as fast as numpy's and has all threads."""
    import faiss

    halves = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16)
    halves.sa_decode(vectors.view(np.uint8), out)


def num_training(config: IndexConfig, parts: Parts, num_vectors: int) -> int:
    """How many vectors are learned from."""
    wanted = config.num_training_passages or max(_LEAST_TRAINING, 50 * parts.num_clusters)
    return min(wanted, num_vectors)


def _train(index: Any, parts: Parts, vectors: Vectors, sample: int, config: IndexConfig) -> None:
    started = time.monotonic()
    positions = np.random.default_rng(0).choice(len(vectors), sample, replace=False, shuffle=False)
    read = vectors[np.sort(positions)]
    if config.gpu != "no" and parts.ivf is not None and not is_binary(config):
        import faiss

        parts.ivf.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(read.shape[1]))
    try:
        index.train(signs(read) if is_binary(config) else read)
    except RuntimeError as error:
        raise ValueError(
            f"index.factory={config.factory!r} cannot be trained on {sample} passages ({error}); "
            "choose fewer clusters, or Flat"
        ) from None
    logger.info("%s: trained on %d vectors in %.1f s", config.factory, sample, time.monotonic() - started)


def write(index: Any, path: Path) -> None:
    import faiss

    aside = path.with_name(f".{path.name}.{os.getpid()}")
    write_to: Any = faiss.write_index_binary if isinstance(index, faiss.IndexBinary) else faiss.write_index
    write_to(index, str(aside))
    aside.replace(path)


# ---- settings of a search --------------------------------------------------------------------------------------------


def set_search(index: Any, config: IndexConfig) -> None:
    """How thoroughly to search. Raises ValueError for a setting that this kind of index does not have."""
    parts = Parts.of(index)
    if parts.ivf is not None:
        parts.ivf.nprobe = config.nprobe or max(1, round(math.sqrt(parts.num_clusters)))
    elif config.nprobe is not None:
        raise ValueError(f"index.nprobe={config.nprobe}: index.factory={config.factory!r} has no clusters (IVF)")
    if parts.graph is not None:
        parts.graph.efSearch = config.ef_search or _EF_SEARCH
    elif config.ef_search is not None:
        raise ValueError(f"index.ef_search={config.ef_search}: index.factory={config.factory!r} has no graph (HNSW)")


def check_gpu(config: IndexConfig) -> None:
    """Raises ValueError where GPUs are asked for and Faiss has none, or has no code for such an index on them."""
    if config.gpu == "no":
        return
    import faiss

    if not (num_gpus := faiss.get_num_gpus()):
        raise ValueError(
            f"index.gpu={config.gpu}: this Faiss finds no GPU; install faiss-gpu in the place of faiss-cpu, or choose "
            "index.gpu=no or index.type=torch"
        )
    if is_binary(config) or "HNSW" in config.factory:
        raise ValueError(f"index.gpu={config.gpu}: index.factory={config.factory!r} is for CPUs; set index.gpu=no")
    logger.info("index.gpu=%s: %d GPUs", config.gpu, num_gpus)


def to_gpu(index: Any, config: IndexConfig) -> Any:
    """The index where config.gpu wants it."""
    check_gpu(config)
    if config.gpu == "no":
        return index
    import faiss

    if config.gpu == "one":
        return faiss.index_cpu_to_all_gpus(index, ngpu=1)
    options = faiss.GpuMultipleClonerOptions()
    options.shard = config.gpu == "shard"
    return faiss.index_cpu_to_all_gpus(index, options)
