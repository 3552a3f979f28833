"""Micro-batching: requests that arrive together are encoded and searched together.

One thread does all the searching. The first request of a batch waits a few milliseconds for company; a full batch does
not wait. Handlers block in `Batcher.search` until their own results are there.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from jointrag.retrieval import Retriever
from jointrag.types import Hit

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Request:
    queries: Sequence[str]
    k: int
    result: Future[list[list[Hit]]] = field(default_factory=Future)


class Batcher:
    """A `Retriever` for many threads on top of one that is for a single thread."""

    def __init__(self, retriever: Retriever, max_batch: int = 256, window_ms: float = 2.0) -> None:
        self._retriever = retriever
        self._max_batch = max_batch
        self._window_s = window_ms / 1000
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()  # None: stop
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See `Retriever`. Raises what the search raised on these queries; RuntimeError after `close`."""
        request = _Request(queries, k)
        with self._lock:
            if self._closed:
                raise RuntimeError("the retrieval server is stopping")
            self._requests.put(request)
        return request.result.result()

    def close(self) -> None:
        """Finish what was asked so far, then stop."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._requests.put(None)
        self._thread.join()

    def _run(self) -> None:
        held: _Request | None = None  # did not fit into the batch before
        while True:
            first = held or self._requests.get()
            if first is None:
                return
            batch, held, stop = self._gather(first)
            self._answer(batch)
            if stop:
                return

    def _gather(self, first: _Request) -> tuple[list[_Request], _Request | None, bool]:
        """The requests to answer together, one that has to wait for the next batch, and whether to stop after them."""
        batch, count = [first], len(first.queries)
        deadline = time.monotonic() + self._window_s
        while count < self._max_batch:
            try:
                request = self._requests.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return batch, None, False
            if request is None:
                return batch, None, True
            if count + len(request.queries) > self._max_batch:
                return batch, request, False
            batch.append(request)
            count += len(request.queries)
        return batch, None, False

    def _answer(self, batch: list[_Request]) -> None:
        queries = [query for request in batch for query in request.queries]
        try:
            hits = iter(self._retriever.search(queries, max(request.k for request in batch)))
            for request in batch:
                request.result.set_result([next(hits)[: request.k] for _ in request.queries])
        except Exception as error:
            if len(batch) == 1:
                batch[0].result.set_exception(error)
                return
            logger.warning("a batch of %d requests failed (%s); answering them one by one", len(batch), error)
            for request in batch:
                self._answer([request])
