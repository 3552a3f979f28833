"""The retrieval server in this process, on a real socket, over any retriever."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from jointrag import Reranker
from jointrag.config import ServerConfig
from jointrag.retrieval import Retriever
from jointrag.types import Hit, Passage
from retrieval_server.address import bind
from retrieval_server.app import create_app
from retrieval_server.listening import Listener
from retrieval_server.service import Service


class Counting:
    """Answers "query#i" and keeps the queries it was asked; fails on "bad". `gate` holds searches back."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.started = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        if list(queries) != ["warm up"]:
            self.asked += queries
            self.started.set()
            assert self.gate.wait(30)
        if "bad" in queries:
            raise RuntimeError("out of order")
        return [[Hit(Passage(f"{query}#{i}", "T", query), 1 / (i + 1)) for i in range(k)] for query in queries]


def service_over(
    retriever: Retriever,
    config: ServerConfig | None = None,
    *,
    info: Mapping[str, object] | None = None,
    reranker: Callable[[], Reranker] | None = None,
) -> Service:
    """Ready to answer."""
    service = Service(config or ServerConfig(), lambda path: (retriever, info or {"num_passages": 128}), reranker)
    service.load(Path("index"))
    return service


@contextmanager
def listening(service: Service, port: int = 0, token: str | None = None) -> Iterator[str]:
    """The server's address; it is stopped with the block, and what was asked is answered."""
    bound = bind("127.0.0.1", port)
    listener = Listener(create_app(service, token), bound, service.config)
    try:
        with running(listener, service.config, service.stop):
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        if not listener.dropped:
            service.close()


@contextmanager
def running(listener: Listener, config: ServerConfig, stop: Callable[[], object]) -> Iterator[None]:
    """It listens in a thread; at the end `stop` is called, then the listener is stopped."""
    thread = threading.Thread(target=listener.run)
    thread.start()
    try:
        yield
    finally:
        stop()
        listener.stop()
        thread.join(config.stop_timeout_s + 10)
        assert not thread.is_alive()


def wait_until(condition: Callable[[], bool], timeout_s: float = 30, every_s: float = 0.01) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(every_s)


def ended(pid: int, timeout_s: float = 20) -> bool:
    """Whether the process, of anybody, ends in time."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    is_over = bool(select.select([pidfd], [], [], timeout_s)[0])
    os.close(pidfd)
    return is_over
