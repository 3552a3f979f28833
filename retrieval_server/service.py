"""What stands behind the endpoints: the index that is served, its cache, the batcher, the reranker.

    service = Service(config, open_index=lambda path: (retriever, info))
    service.load(Path("models/index"))
    service.search(["Who directed Solaris?"], k=10)
    service.reload()          # opens the path again, and serves it from the moment it is ready

A request is answered from one index, the one that was served when it came; the index before is let go once its last
request is answered. So an index is swapped without a request being dropped or mixed.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from jointrag.config import ServerConfig
from jointrag.recently_used import RecentlyUsed
from jointrag.reranker import Reranker
from jointrag.retrieval import Retriever
from jointrag.types import Hit
from retrieval_server.answers import AnswerCache
from retrieval_server.batching import Batcher, QueueFull
from retrieval_server.bodies import Refused
from retrieval_server.metrics import Metrics

logger = logging.getLogger(__name__)
T = TypeVar("T")
State = Literal["starting", "ready", "stopping"]
OpenIndex = Callable[[Path], tuple[Retriever, Mapping[str, object]]]
_BUSY_S, _STARTING_S = 1, 2  # when to ask again
_LOWEST = -3.4e38  # JSON has no minus infinity, which an empty text gets


@dataclass(frozen=True, slots=True)
class Served:
    """An index that is loaded."""

    path: Path
    generation: int
    retriever: Retriever
    info: Mapping[str, object]
    cache: RecentlyUsed[tuple[str, int], list[Hit]]  # by query and k
    answers: AnswerCache


class Service:
    """See the module. Safe for several threads."""

    def __init__(
        self, config: ServerConfig, open_index: OpenIndex, open_reranker: Callable[[], Reranker] | None = None
    ) -> None:
        """`open_index` gives what searches an index folder, and what /info says of it; ValueError where it cannot.
        The reranker is opened before the first index."""
        self.config = config
        self.has_reranker = open_reranker is not None
        self.reranker: Reranker | None = None
        self.on_reloaded: Callable[[Served], None] = lambda served: None  # called once a new index is served
        self._open_index = open_index
        self._open_reranker = open_reranker
        self._served: Served | None = None
        self._stopping = False
        self._started = time.monotonic()
        self._reload: dict[str, object] = {"status": "none"}
        self._reload_lock = threading.Lock()
        self._batcher = Batcher(
            _Nothing(),
            config.max_batch,
            config.batch_window_ms,
            max_characters=config.max_batch_characters,
            max_queued=config.max_queued_queries,
            on_batch=lambda num_queries: self.metrics.batch.observe(num_queries),
        )
        self.metrics = Metrics(lambda: self._batcher.num_queued)

    # ---- life --------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        if self._stopping:
            return "stopping"
        return "starting" if self._served is None else "ready"

    @property
    def served(self) -> Served:
        assert self._served is not None, "nothing is loaded"
        return self._served

    def load(self, path: Path, generation: int = 1) -> Served:
        """Open an index and serve it from now on. Raises ValueError when it cannot be opened."""
        if self.reranker is None and self._open_reranker is not None:
            self.reranker = self._open_reranker()
        retriever, info = self._open_index(path)
        self._batcher.run(lambda: retriever.search(["warm up"], 1), weight=0)  # even when the queue is full
        self._served = Served(
            path,
            generation,
            retriever,
            info,
            RecentlyUsed(self.config.cache_size, lambda _, hits: max(1, len(hits))),  # none takes room, too
            AnswerCache(self.config.answer_cache_bytes),
        )
        self.metrics.generation.set(generation)
        return self._served

    def stop(self) -> None:
        """Refuse whatever comes from now on; what came before is finished."""
        self._stopping = True

    def close(self) -> None:
        """After `stop`, once all is answered: end the thread that searches."""
        self._batcher.close()

    def info(self) -> dict[str, object]:
        served = self.served
        return {
            **served.info,
            "index": str(served.path),
            "generation": served.generation,
            "reload": dict(self._reload),
            "uptime_s": round(time.monotonic() - self._started, 1),
            "pid": os.getpid(),
        }

    # ---- answers -----------------------------------------------------------------------------------------------------

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See `Retriever`. Raises Refused with 503 when it is not ready or asked too much."""
        self._check_ready()
        served = self.served
        unique = dict.fromkeys(queries)
        found = {query: hits for (query, _), hits in served.cache.find((query, k) for query in unique).items()}
        if missing := [query for query in unique if query not in found]:
            searched = self._queued(lambda: self._batcher.search(missing, k, served.retriever))
            fresh = dict(zip(missing, searched, strict=True))
            served.cache.add({(query, k): hits for query, hits in fresh.items()})
            found |= fresh
        self.metrics.cache_hits.inc(len(unique) - len(missing))
        self.metrics.cache_misses.inc(len(missing))
        return [found[query] for query in queries]

    def rerank(self, query: str, texts: Sequence[str], *, normalize: bool) -> list[tuple[int, float]]:
        """Places in `texts` and scores, best first."""
        self._check_ready()
        reranker = self.reranker
        assert reranker is not None, "the caller checks has_reranker"

        def rank() -> list[tuple[int, float]]:
            ranking = reranker.rank(query, texts, normalize=normalize, show_progress=False)
            return [(one.index, max(one.score, _LOWEST)) for one in ranking]

        return self._queued(lambda: self._batcher.run(rank, len(texts)))

    def _check_ready(self) -> None:
        if (state := self.state) != "ready":
            raise Refused(503, f"the retrieval server is {state}", _STARTING_S)

    def _queued(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except QueueFull as error:
            raise Refused(503, str(error), _BUSY_S) from None

    # ---- a new index -------------------------------------------------------------------------------------------------

    def reload(self, path: Path | None = None, generation: int | None = None, *, wait: bool = False) -> dict[str, Any]:
        """Open `path`, or the present one again, in the background; serve it when it is ready, under the next
        generation unless told which. `wait`: return only then. Returns the state of it, as /info shows it.

        Raises Refused with 409 while another index is being opened.
        """
        self._check_ready()
        if not self._reload_lock.acquire(blocking=False):
            raise Refused(409, f"{self._reload.get('index')} is being loaded already", _STARTING_S)
        return self._start_reload(path or self.served.path, generation, wait)

    def follow(self, path: Path, generation: int) -> None:
        """Serve what the other workers do, after whatever is being loaded; nothing to do where it already is."""
        self._reload_lock.acquire()
        if (self.served.path, self.served.generation) == (path, generation):
            self._reload_lock.release()
        else:
            self._start_reload(path, generation, wait=True)

    def _start_reload(self, path: Path, generation: int | None, wait: bool) -> dict[str, Any]:
        self._reload = {"status": "loading", "index": str(path)}
        thread = threading.Thread(target=self._do_reload, args=(path, generation), name="reload", daemon=True)
        thread.start()
        if wait:
            thread.join()
        return dict(self._reload)

    def _do_reload(self, path: Path, generation: int | None) -> None:
        try:
            served = self.load(path, generation or self.served.generation + 1)
        except Exception as error:
            why = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            self._reload = {"status": "failed", "index": str(path), "error": why}
            logger.error("%s was not loaded, %s is served as before: %s", path, self.served.path, why)
        else:
            self._reload = {"status": "done", "index": str(path), "generation": served.generation}
            logger.info("%s is served now, generation %d", path, served.generation)
            self.on_reloaded(served)
        finally:
            self._reload_lock.release()


class _Nothing:
    """Before the first index: nobody gets here."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        raise AssertionError("every search names its retriever")
