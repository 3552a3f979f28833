"""What the server counts, in Prometheus' text format.

With several workers behind a port any of them answers for all: prometheus_client then keeps the numbers in the files
of PROMETHEUS_MULTIPROC_DIR, which the parent of the workers sets.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from retrieval_server.state import METRICS_FOLDER

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_QUERIES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Of one server, in a registry of its own."""

    def __init__(self, num_queued: Callable[[], int]) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "retrieval_requests", "Requests by endpoint and HTTP status.", ("endpoint", "status"), registry=registry
        )
        self.seconds = Histogram(
            "retrieval_request_seconds", "From request to answer.", ("endpoint",), registry=registry, buckets=_SECONDS
        )
        self.batch = Histogram(
            "retrieval_batch_queries", "Queries searched together.", registry=registry, buckets=_QUERIES
        )
        self.cache_hits = Counter("retrieval_cache_hits", "Queries answered from memory.", registry=registry)
        self.cache_misses = Counter("retrieval_cache_misses", "Queries that were searched.", registry=registry)
        self._queued = Gauge(
            "retrieval_queued_queries", "Queries without an answer yet.",
            registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.generation = Gauge(
            "retrieval_index_generation", "1, and one more for every index swapped in.",
            registry=registry, multiprocess_mode="livemax",
        )  # fmt: skip
        self._num_queued = num_queued

    def observe(self, endpoint: str, status: int, seconds: float) -> None:
        self.requests.labels(endpoint, str(status)).inc()
        self.seconds.labels(endpoint).observe(seconds)
        self._queued.set(self._num_queued())  # here too: another worker may be asked for it

    def text(self) -> bytes:
        self._queued.set(self._num_queued())
        if METRICS_FOLDER not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)
        return generate_latest(together)
