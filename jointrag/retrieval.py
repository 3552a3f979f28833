"""Queries in, passages out: the `Retriever` protocol, in this process or over HTTP, and the candidates of a question.

retriever = HttpRetriever("http://127.0.0.1:8000")
hits = retriever.search(sub_questions, k=10)      # list[list[Hit]], best first
candidates(hits, num_candidates=10)               # list[Hit], shared out over the sub-questions
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import requests

from jointrag.encoder_backends import Backend
from jointrag.encoders import Encoder
from jointrag.index import SearchIndex
from jointrag.index import load as load_index
from jointrag.types import Hit, Passage

if TYPE_CHECKING:
    from jointrag.reranker import Reranker

logger = logging.getLogger(__name__)


class Retriever(Protocol):
    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The `k` best passages of each query, best first; the whole corpus where it is smaller."""
        ...


class RetrieverUnavailable(ConnectionError):
    """The retrieval server did not answer for as long as was agreed to wait."""


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
        vectors = None
        if self._encoder is not None:
            vectors = self._encoder.encode(queries, kind="query", batch_size=self._batch_size)
        return self.index.search(vectors, k, queries)


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


class HttpRetriever:
    """Client of the retrieval server's /v1/search.

    A query asked before is answered from memory: the index does not change under a run. While the server cannot be
    reached (it is restarted when it dies) requests are repeated for `timeout_s`, then `RetrieverUnavailable` is raised.
    """

    def __init__(self, url: str, timeout_s: float = 60.0, cache_size: int = 50_000) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._cache_size = cache_size
        self._cache: OrderedDict[tuple[str, int], list[Hit]] = OrderedDict()
        self._lock = threading.Lock()
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy from the environment has no business with a local server

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See `Retriever`.

        Raises RetrieverUnavailable; ValueError for a request that the server refuses, RuntimeError for one it fails on.
        """
        found: dict[str, list[Hit]] = {}
        with self._lock:
            for query in queries:
                if (hits := self._cache.get((query, k))) is not None:
                    self._cache.move_to_end((query, k))
                    found[query] = hits
        missing = [query for query in dict.fromkeys(queries) if query not in found]
        if missing:
            fresh = dict(zip(missing, self._ask(missing, k), strict=True))
            found |= fresh
            with self._lock:
                self._cache.update({(query, k): hits for query, hits in fresh.items()})
                while len(self._cache) > self._cache_size:
                    self._cache.popitem(last=False)
        return [list(found[query]) for query in queries]

    def _ask(self, queries: list[str], k: int) -> list[list[Hit]]:
        response = self._post(queries, k)
        if not response.ok:
            error = ValueError if response.status_code < 500 else RuntimeError
            raise error(f"{self.url}/v1/search answered {response.status_code}: {response.text[:500]}")
        return [
            [Hit(Passage(hit["id"], hit["title"], hit["text"]), hit["score"]) for hit in hits]
            for hits in response.json()["results"]
        ]

    def _post(self, queries: list[str], k: int) -> requests.Response:
        body = {"queries": queries, "k": k}
        deadline = time.monotonic() + self.timeout_s
        pause_s = 0.05
        while True:
            left_s = deadline - time.monotonic()
            try:
                return self._session.post(f"{self.url}/v1/search", json=body, timeout=max(left_s, 0.1))
            except (requests.ConnectionError, requests.Timeout) as error:
                if time.monotonic() + pause_s >= deadline:
                    raise RetrieverUnavailable(
                        f"no answer from the retrieval server at {self.url} within {self.timeout_s:g} s ({error}); "
                        "is it running? Its log says why it stopped; a larger timeout_s helps if it is only slow"
                    ) from error
            if pause_s == 0.05:
                logger.warning("retrieval server at %s does not answer; trying for %d s", self.url, self.timeout_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)


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
