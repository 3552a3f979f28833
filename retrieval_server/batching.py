"""Micro-batching: requests that arrive together are encoded and searched together.

One thread does all the work of the models. The first request of a batch waits a few milliseconds for company; a full
batch does not wait. Handlers block in `Batcher.search` until their own results are there. A query that several requests
of a batch ask is searched once. What may wait is bounded: beyond it, `QueueFull` is raised at once.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from jointrag.retrieval import Retriever
from jointrag.types import Hit

logger = logging.getLogger(__name__)
T = TypeVar("T")


class QueueFull(RuntimeError):
    """As many queries wait as may; the server is asked faster than it answers."""


@dataclass(frozen=True, slots=True)
class _Request:
    queries: Sequence[str]
    k: int
    retriever: Retriever
    num_characters: int
    result: Future[list[list[Hit]]] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Work:
    """Anything else that uses the models: it has its turn in the same queue."""

    function: Callable[[], Any]
    result: Future[Any] = field(default_factory=Future)


class Batcher:
    """A `Retriever` for many threads on top of one that is for a single thread."""

    def __init__(
        self,
        retriever: Retriever,
        max_batch: int = 256,
        window_ms: float = 2.0,
        *,
        max_characters: int = 65_536,
        max_queued: int = 4096,
        on_batch: Callable[[int], None] = lambda num_queries: None,
    ) -> None:
        """`on_batch` is told how many queries were searched together, each time."""
        self._retriever = retriever
        self._max_batch = max_batch
        self._max_characters = max_characters
        self._max_queued = max_queued
        self._window_s = window_ms / 1000
        self._on_batch = on_batch
        self._requests: queue.SimpleQueue[_Request | _Work | None] = queue.SimpleQueue()  # None: stop
        self._num_queued = 0
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def num_queued(self) -> int:
        """Queries that have no answer yet, those being searched included."""
        return self._num_queued

    def search(self, queries: Sequence[str], k: int, retriever: Retriever | None = None) -> list[list[Hit]]:
        """See `Retriever`; with `retriever`, of that one. Batches hold queries of one retriever only.

        Raises what the search raised on these queries, QueueFull, RuntimeError after `close`.
        """
        request = _Request(queries, k, retriever or self._retriever, sum(map(len, queries)))
        with self._in_queue(request, len(queries)):
            return request.result.result()

    def run(self, function: Callable[[], T], weight: int) -> T:
        """What `function` returns, called where the searches are; it counts as `weight` queries. Raises as `search`."""
        work = _Work(function)
        with self._in_queue(work, weight):
            return work.result.result()

    def close(self) -> None:
        """Finish what was asked so far, then stop."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._requests.put(None)
        self._thread.join()

    @contextmanager
    def _in_queue(self, request: _Request | _Work, weight: int) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise RuntimeError("the retrieval server is stopping")
            if self._num_queued and self._num_queued + weight > self._max_queued:
                raise QueueFull(
                    f"{self._num_queued} queries are waiting, and {weight} more would exceed {self._max_queued} "
                    "(server.max_queued_queries); ask again later"
                )
            self._num_queued += weight
            self._requests.put(request)
        try:
            yield
        finally:
            with self._lock:
                self._num_queued -= weight

    # ---- the batcher's own thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        held: _Request | _Work | None = None  # did not fit into the batch before
        while True:
            first = held or self._requests.get()
            held = None
            if first is None:
                return
            if isinstance(first, _Work):
                _work(first)
                continue
            batch, held, stop = self._gather(first)
            self._answer(batch)
            if stop:
                return

    def _gather(self, first: _Request) -> tuple[list[_Request], _Request | _Work | None, bool]:
        """The requests to answer together, one that has to wait for the next batch, and whether to stop after them."""
        batch, count, num_characters = [first], len(first.queries), first.num_characters
        deadline = time.monotonic() + self._window_s
        while count < self._max_batch and num_characters < self._max_characters:
            try:
                request = self._requests.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return batch, None, False
            if request is None:
                return batch, None, True
            if isinstance(request, _Work) or request.retriever is not first.retriever:
                return batch, request, False
            count += len(request.queries)
            num_characters += request.num_characters
            if count > self._max_batch or num_characters > self._max_characters:
                return batch, request, False
            batch.append(request)
        return batch, None, False

    def _answer(self, batch: list[_Request]) -> None:
        """Search for each k by itself: approximate indexes find other passages when asked for more."""
        for k in dict.fromkeys(request.k for request in batch):
            self._answer_together([request for request in batch if request.k == k], k)

    def _answer_together(self, batch: list[_Request], k: int) -> None:
        queries = list(dict.fromkeys(query for request in batch for query in request.queries))
        try:
            hits = dict(zip(queries, batch[0].retriever.search(queries, k), strict=True))
        except Exception as error:
            if len(batch) == 1:
                batch[0].result.set_exception(error)
                return
            logger.warning("a batch of %d requests failed (%s); answering them one by one", len(batch), error)
            for request in batch:
                self._answer_together([request], k)
            return
        self._on_batch(len(queries))
        for request in batch:
            request.result.set_result([hits[query] for query in request.queries])


def _work(work: _Work) -> None:
    try:
        work.result.set_result(work.function())
    except Exception as error:
        work.result.set_exception(error)
