"""Micro-batching: everyone gets the answers to their own queries, and their own errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from jointrag.types import Hit, Passage
from retrieval_server.batching import Batcher, QueueFull


class Echo:
    """Finds "query/1", "query/2" … for a query; fails on "bad". `gate` holds every search back."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.started = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.batches.append(list(queries))
        self.started.set()
        assert self.gate.wait(10)
        if "bad" in queries:
            raise KeyError("bad")
        return [[Hit(Passage(f"{query}/{i}", "", ""), 1.0) for i in range(k)] for query in queries]


def ids(results: list[list[Hit]]) -> list[list[str]]:
    return [[hit.passage.id for hit in hits] for hits in results]


@pytest.fixture
def echo() -> Echo:
    return Echo()


def test_concurrent_requests_get_their_own_answers(echo: Echo) -> None:
    batcher = Batcher(echo, max_batch=16, window_ms=2)

    def ask(n: int) -> bool:
        queries = [f"{n}-{i}" for i in range(n % 4 + 1)]
        return ids(batcher.search(queries, n % 3 + 1)) == [[f"{q}/{i}" for i in range(n % 3 + 1)] for q in queries]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(200)))
    batcher.close()
    assert sum(map(len, echo.batches)) == sum(n % 4 + 1 for n in range(200))
    assert max(map(len, echo.batches)) <= 16


def test_requests_that_wait_together_are_searched_together(echo: Echo) -> None:
    batcher = Batcher(echo, max_batch=4, window_ms=0)
    echo.gate.clear()
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(batcher.search, ["first"], 1)
        assert echo.started.wait(10)
        others = [pool.submit(batcher.search, [f"{i}a", f"{i}b", f"{i}c"][: i + 1], 1) for i in range(3)]
        while batcher._requests.qsize() < 3:
            assert first.running()
        echo.gate.set()
        assert ids(first.result(10)) == [["first/0"]]
        for i, other in enumerate(others):
            assert ids(other.result(10)) == [[f"{i}{letter}/0"] for letter in "abc"[: i + 1]]
    batcher.close()
    assert len(echo.batches) == 3  # the first alone, then four and two queries, or three and three
    assert sorted(len(batch) for batch in echo.batches[1:]) in ([2, 4], [3, 3])
    assert all(len(batch) <= 4 for batch in echo.batches)


def test_an_error_reaches_only_who_caused_it(echo: Echo) -> None:
    batcher = Batcher(echo, max_batch=8, window_ms=0)
    echo.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(batcher.search, ["first"], 1)
        assert echo.started.wait(10)
        bad = pool.submit(batcher.search, ["bad"], 1)
        good = pool.submit(batcher.search, ["good"], 1)
        while batcher._requests.qsize() < 2:
            assert first.running()
        echo.gate.set()
        with pytest.raises(KeyError):
            bad.result(10)
        assert ids(good.result(10)) == [["good/0"]]
    batcher.close()


def test_a_request_larger_than_a_batch_is_answered_whole(echo: Echo) -> None:
    batcher = Batcher(echo, max_batch=2, window_ms=0)
    assert len(batcher.search(["a", "b", "c", "d", "e"], 2)) == 5
    batcher.close()


def test_closed_batcher_refuses_and_its_thread_is_gone(echo: Echo) -> None:
    batcher = Batcher(echo)
    batcher.search(["x"], 1)
    batcher.close()
    batcher.close()
    assert not batcher._thread.is_alive()
    with pytest.raises(RuntimeError, match="stopping"):
        batcher.search(["x"], 1)


@contextmanager
def while_busy(batcher: Batcher, echo: Echo, *asked: tuple[Any, ...]) -> Iterator[list[Future[list[list[Hit]]]]]:
    """Requests, each the arguments of `search`, that wait while a first one is searched; answered after the block."""
    echo.gate.clear()
    with ThreadPoolExecutor(len(asked) + 1) as pool:
        pool.submit(batcher.search, ["first"], 1)
        assert echo.started.wait(10)
        waiting = []
        for i, arguments in enumerate(asked, 1):
            waiting.append(pool.submit(batcher.search, *arguments))
            while batcher._requests.qsize() < i:
                assert not waiting[-1].done()
        yield waiting
        echo.gate.set()
    batcher.close()


def test_a_query_of_several_requests_is_searched_once(echo: Echo) -> None:
    sizes: list[int] = []
    batcher = Batcher(echo, window_ms=0, on_batch=sizes.append)
    with while_busy(batcher, echo, (["a", "b", "a"], 2), (["b", "c"], 2)) as asked:
        pass
    assert echo.batches[1:] == [["a", "b", "c"]]
    assert ids(asked[0].result()) == [["a/0", "a/1"], ["b/0", "b/1"], ["a/0", "a/1"]]
    assert ids(asked[1].result()) == [["b/0", "b/1"], ["c/0", "c/1"]]
    assert sizes == [1, 3]


def test_each_k_is_searched_by_itself(echo: Echo) -> None:
    """An approximate index finds other passages when it is asked for more."""
    with while_busy(Batcher(echo, window_ms=0), echo, (["a"], 2), (["b"], 3), (["c"], 2)) as asked:
        pass
    assert echo.batches[1:] == [["a", "c"], ["b"]]
    assert [len(one.result()[0]) for one in asked] == [2, 3, 2]


def test_a_batch_of_long_queries_is_smaller(echo: Echo) -> None:
    batcher = Batcher(echo, window_ms=0, max_characters=25)
    with while_busy(batcher, echo, (["a" * 10], 1), (["b" * 10], 1), (["c" * 10], 1), (["d" * 100], 1)):
        pass
    assert [[query[0] for query in batch] for batch in echo.batches[1:]] == [["a", "b"], ["c"], ["d"]]


def test_a_full_queue_refuses_at_once_and_has_room_again(echo: Echo) -> None:
    batcher = Batcher(echo, window_ms=0, max_queued=4)
    with while_busy(batcher, echo, (["a", "b"], 1)):
        assert batcher.num_queued == 3
        with pytest.raises(QueueFull, match=r"3 queries are waiting, and 2 more would exceed 4"):
            batcher.search(["c", "d"], 1)
        with pytest.raises(QueueFull):
            batcher.run(lambda: None, 2)
        echo.gate.set()
        while batcher.num_queued:
            pass
        assert len(batcher.search(["c"] * 9, 1)) == 9  # nobody waits: even what is larger than the queue
    assert batcher.num_queued == 0


def test_a_batch_has_one_retriever(echo: Echo) -> None:
    """An index that is swapped in answers what comes from then on, and nothing of before."""
    other = Echo()
    with while_busy(Batcher(echo, window_ms=0), echo, (["a"], 1), (["b"], 1, other), (["c"], 1)) as asked:
        pass
    assert (echo.batches[1:], other.batches) == ([["a"], ["c"]], [["b"]])
    assert [ids(one.result()) for one in asked] == [[["a/0"]], [["b/0"]], [["c/0"]]]


def test_other_work_has_its_turn_in_the_same_thread(echo: Echo) -> None:
    batcher = Batcher(echo)
    assert batcher.run(lambda: threading.current_thread().name, 1) == "batcher"
    with pytest.raises(KeyError, match="mine"):
        batcher.run(lambda: {}["mine"], 1)
    assert ids(batcher.search(["a"], 1)) == [["a/0"]]
    batcher.close()
