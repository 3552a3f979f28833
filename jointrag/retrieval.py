"""Queries in, passages out: the `Retriever` protocol, in this process or over HTTP, and the candidates of a question.

retriever = HttpRetriever("http://127.0.0.1:8000")
hits = retriever.search(sub_questions, k=10)      # list[list[Hit]], best first
candidates(hits, num_candidates=10)               # list[Hit], shared out over the sub-questions
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from jointrag.encoder_backends import Backend
from jointrag.encoders import Encoder
from jointrag.index import SearchIndex
from jointrag.index import load as load_index
from jointrag.retrieval_client import HttpRetriever, RetrieverUnavailable
from jointrag.types import Hit

if TYPE_CHECKING:
    from jointrag.reranker import Reranker


__all__ = [
    "HttpRetriever",
    "InProcessRetriever",
    "RerankingRetriever",
    "Retriever",
    "RetrieverUnavailable",
    "TimedRetriever",
    "candidates",
    "share_out",
]


class Retriever(Protocol):
    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The `k` best passages of each query, best first; the whole corpus where it is smaller."""
        ...


class InProcessRetriever:
    """An index of any kind in this process, and the encoder where it has vectors."""

    def __init__(self, index: SearchIndex, encoder: Encoder | None, batch_size: int = 256) -> None:
        self.index = index
        self._encoder = encoder
        self._batch_size = batch_size

    @classmethod
    def open(
        cls, path: Path, device: str = "auto", batch_size: int = 256, encoder_backend: Backend = "torch"
    ) -> InProcessRetriever:
        """Load an index folder and the encoder it was built with, if any. `encoder_backend`: how that computes the
        queries' vectors, whichever computed the passages'."""
        index = load_index(path, device)
        encoder = Encoder.load(index.encoder_path, device, encoder_backend) if index.encoder_path else None
        return cls(index, encoder, batch_size)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See `Retriever`. A query that is there twice is searched once, as over HTTP: then the scores are the same."""
        unique = list(dict.fromkeys(queries))
        vectors = None
        if self._encoder is not None:
            vectors = self._encoder.encode(unique, kind="query", batch_size=self._batch_size)
        found = dict(zip(unique, self.index.search(vectors, k, unique), strict=True))
        return [list(found[query]) for query in queries]


class TimedRetriever:
    """A retriever that adds up the seconds spent in it."""

    def __init__(self, inner: Retriever) -> None:
        self._inner = inner
        self.seconds = 0.0

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        started = time.monotonic()
        hits = self._inner.search(queries, k)
        self.seconds += time.monotonic() - started
        return hits


class RerankingRetriever:
    """The best `num_retrieved` passages of another retriever, in a reranker's order and with its scores."""

    def __init__(self, retriever: Retriever, reranker: Reranker, num_retrieved: int = 50) -> None:
        self._retriever = retriever
        self._reranker = reranker
        self._num_retrieved = num_retrieved

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        found = self._retriever.search(queries, max(k, self._num_retrieved))
        rankings = self._reranker.rank_batch(
            queries, [[hit.passage.contents for hit in hits] for hits in found], top_k=k, show_progress=False
        )
        return [
            [Hit(hits[one.index].passage, one.score) for one in ranking]
            for hits, ranking in zip(found, rankings, strict=True)
        ]


# ---- candidates ------------------------------------------------------------------------------------------------------


def share_out(num_candidates: int, num_queries: int) -> list[int]:
    """How many candidates each query brings, the first ones more: 10 over 3 is 4, 3, 3."""
    if num_queries < 1:
        raise ValueError("there is no query to share the candidates out over")
    each, extra = divmod(num_candidates, num_queries)
    return [each + (position < extra) for position in range(num_queries)]


def candidates(hits_per_query: Sequence[Sequence[Hit]], num_candidates: int) -> list[Hit]:
    """At most `num_candidates` hits, no passage twice; as many as the hits allow.

    Each query's best hits come first, by its share. Where queries found the same passage, their next hits fill the
    gaps, one query after the other.
    """
    taken: dict[str, Hit] = {}
    shares = share_out(num_candidates, len(hits_per_query))
    for hits, share in zip(hits_per_query, shares, strict=True):
        for hit in hits[:share]:
            taken.setdefault(hit.passage.id, hit)
    rest = [iter(hits[share:]) for hits, share in zip(hits_per_query, shares, strict=True)]
    while rest and len(taken) < num_candidates:
        for hits in list(rest):
            new = next((hit for hit in hits if hit.passage.id not in taken), None)
            if new is None:
                rest.remove(hits)
            elif len(taken) < num_candidates:
                taken[new.passage.id] = new
    return list(taken.values())
