"""An index that is open: vectors or texts in, hits out, whatever kind it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jointrag.bm25 import BM25
from jointrag.config import Bm25IndexConfig, HybridIndexConfig, IndexConfig, TorchIndexConfig
from jointrag.corpus import Corpus
from jointrag.index.exact import ExactSearch
from jointrag.index.faiss_search import FaissSearch
from jointrag.index.info import INFO, IndexInfo, check_files, find_encoder
from jointrag.index.shards import Shards, Vectors, cut
from jointrag.types import Hit

FAISS, BM25_FILES, CORPUS, VECTORS = "index.faiss", "bm25", "corpus", "vectors"
Ranking = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Places in the corpus and scores, [queries, k] each, best first; place -1: none found."""


class VectorSearch(Protocol):
    def nearest(self, queries: NDArray[np.float32], k: int) -> Ranking: ...


@dataclass(frozen=True)
class SearchIndex:
    """A loaded index. Safe to search from several threads."""

    corpus: Corpus
    info: IndexInfo
    encoder_path: Path | None
    """None: this index reads texts alone."""
    dense: VectorSearch | None = None
    bm25: BM25 | None = None

    def search(
        self, vectors: NDArray[np.float32] | None, k: int, texts: Sequence[str] | None = None
    ) -> list[list[Hit]]:
        """The `k` best passages of each query, best first; all where the corpus is smaller.

        `vectors`: the queries embedded, [queries, dim]; None for BM25. `texts`: the queries, which BM25 and a hybrid
        index read. An approximate index may find fewer, and BM25 finds none that share no word with the query. Scores
        are inner products, BM25's, or reciprocal ranks added up.
        """
        positions, scores = self.nearest(vectors, k, texts)
        return [
            [Hit(self.corpus[i], score) for score, i in zip(row, ids, strict=True) if i >= 0]
            for row, ids in zip(scores.tolist(), positions.tolist(), strict=True)
        ]

    def nearest(self, vectors: NDArray[np.float32] | None, k: int, texts: Sequence[str] | None = None) -> Ranking:
        """The same as places in the corpus and scores, [queries, k or the corpus's size]; place -1: none found."""
        if k < 1:
            raise ValueError(f"k={k}: ask for at least one passage")
        k = min(k, len(self.corpus))
        section = self.info.section
        if not isinstance(section, HybridIndexConfig):
            return self._by_vectors(vectors, k) if self.dense else self._by_words(texts, k)
        num_fetched = min(max(k, section.num_fetched), len(self.corpus))
        rankings = [self._by_vectors(vectors, num_fetched)[0], self._by_words(texts, num_fetched)[0]]
        return fuse(rankings, k, section.rank_constant)

    def _by_vectors(self, vectors: NDArray[np.float32] | None, k: int) -> Ranking:
        assert self.dense is not None
        if vectors is None:
            raise ValueError(f"an index of type {self.info.type} needs the queries' vectors")
        if vectors.shape[1] != self.info.encoder_dim:
            raise ValueError(f"vectors of {vectors.shape[1]} dimensions; the encoder's have {self.info.encoder_dim}")
        return self.dense.nearest(cut(vectors, self.info.dim), k)

    def _by_words(self, texts: Sequence[str] | None, k: int) -> Ranking:
        assert self.bm25 is not None
        if texts is None:
            raise ValueError(f"an index of type {self.info.type} needs the queries' texts")
        return self.bm25.search(texts, k)


def fuse(rankings: Sequence[NDArray[np.int64]], k: int, constant: float) -> Ranking:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009) of `rankings` [queries, any]: the `k` places with the
    highest sums of 1 / (constant + rank); of equal sums the corpus's order."""
    num_queries = len(rankings[0])
    positions = np.full((num_queries, k), -1, dtype=np.int64)
    scores = np.zeros((num_queries, k), dtype=np.float32)
    weights = np.concatenate([1 / (constant + np.arange(1, ranking.shape[1] + 1)) for ranking in rankings])
    for row, found in enumerate(np.concatenate(rankings, axis=1)):
        known = found >= 0
        places, where = np.unique(found[known], return_inverse=True)
        sums = np.bincount(where, weights[known], len(places))
        best = np.argsort(-sums, kind="stable")[:k]
        positions[row, : len(best)], scores[row, : len(best)] = places[best], sums[best]
    return positions, scores


def open_dense(folder: Path, section: IndexConfig | TorchIndexConfig, vectors: Vectors, device: str) -> VectorSearch:
    if isinstance(section, TorchIndexConfig):
        return ExactSearch(vectors, device)
    return FaissSearch.open(folder / FAISS, vectors, section)


def load(path: Path, device: str = "auto") -> SearchIndex:
    """Open an index folder; `device` is where a torch index searches.

    Raises ValueError when it is unfinished, damaged, put together from several, or its encoder is gone or changed.
    """
    info = IndexInfo.read(path)
    corpus = Corpus.open(path / CORPUS)
    if len(corpus) != info.num_passages:
        raise ValueError(
            f"{path}: {len(corpus)} passages in the corpus where {INFO} says {info.num_passages}; build the index again"
        )
    check_files(path, info)
    section = info.section
    encoder = find_encoder(path, info)
    dense = None
    if not isinstance(section, Bm25IndexConfig):
        shards = Shards.open(path / VECTORS)
        if shards.fingerprint != info.vectors_fingerprint:
            raise ValueError(f"{path / VECTORS}: the vectors of another index; build the index again")
        inner = section.dense if isinstance(section, HybridIndexConfig) else section
        dense = open_dense(path, inner, shards.vectors(), device)
    bm25 = None
    if isinstance(section, Bm25IndexConfig | HybridIndexConfig):
        bm25 = BM25.load(path / BM25_FILES)
    return SearchIndex(corpus, info, encoder, dense, bm25)
