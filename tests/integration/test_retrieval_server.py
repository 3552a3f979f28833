"""The Flask application over a socket, and its client."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests

from jointrag.retrieval import HttpRetriever, InProcessRetriever, Retriever, RetrieverUnavailable
from jointrag.types import Hit, Passage
from retrieval_server.app import create_app
from retrieval_server.batching import Batcher


@contextmanager
def listening(retriever: Retriever, port: int = 0) -> Iterator[str]:
    """The application on a real socket; yields its address."""
    from waitress.server import create_server

    server = create_server(create_app(retriever, {"num_passages": 128}), host="127.0.0.1", port=port, threads=8)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}"  # type: ignore[attr-defined]
    finally:
        server.task_dispatcher.shutdown()  # type: ignore[attr-defined]
        server.asyncore.close_all(server._map)  # type: ignore[attr-defined]
        thread.join(10)
        assert not thread.is_alive()


class Counting:
    """Answers "query#i" and counts the queries it was asked; fails on "bad"."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.asked += queries
        if "bad" in queries:
            raise RuntimeError("out of order")
        return [[Hit(Passage(f"{query}#{i}", "T", query), 1 / (i + 1)) for i in range(k)] for query in queries]


@pytest.fixture(scope="module")
def local(index_dir: Path) -> InProcessRetriever:
    return InProcessRetriever.open(index_dir, "cpu")


@pytest.fixture(scope="module")
def url(local: InProcessRetriever) -> Iterator[str]:
    batcher = Batcher(local, max_batch=64, window_ms=2)
    with listening(batcher) as address:
        yield address
    batcher.close()


def test_http_and_in_process_agree(url: str, local: InProcessRetriever) -> None:
    queries = ["Where does Ada Adler live?", "Hugo Haas", "Ünknöwn 字 🙂 words", ""]
    remote, direct = HttpRetriever(url).search(queries, 7), local.search(queries, 7)
    for ours, theirs in zip(remote, direct, strict=True):
        assert len(ours) == 7
        np.testing.assert_allclose([h.score for h in ours], [h.score for h in theirs], atol=1e-5)
        assert {h.passage for h in ours[:3]} <= {h.passage for h in theirs}
    assert HttpRetriever(url).search([], 5) == []


def test_concurrent_clients_get_answers_to_their_own_queries(url: str, local: InProcessRetriever) -> None:
    def ask(i: int) -> bool:
        queries = [
            f"Where does {passage.title} live?" for passage in (local.index.corpus[i], local.index.corpus[i + 1])
        ]
        hits, k = HttpRetriever(url).search(queries, i % 5 + 1), i % 5 + 1
        expected = local_scores[i][:, :k]
        found = np.array([[hit.score for hit in row] for row in hits])
        return found.shape == expected.shape and bool(np.allclose(found, expected, atol=1e-4))

    local_scores = {}
    for i in range(0, 96):
        queries = [
            f"Where does {passage.title} live?" for passage in (local.index.corpus[i], local.index.corpus[i + 1])
        ]
        local_scores[i] = np.array([[hit.score for hit in row] for row in local.search(queries, 5)])
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(96)))


def test_the_reference_endpoint(url: str, local: InProcessRetriever) -> None:
    question = "Where does Ada Adler live?"
    answer = requests.post(f"{url}/search", json={"questions": [question], "N": 2}, timeout=10).json()
    (hits,) = local.search([question], 2)
    assert answer == [{"question": question, "top_k_docs": [f"{h.passage.title}\n{h.passage.text}" for h in hits]}]


def test_health_and_info(url: str) -> None:
    health = requests.get(f"{url}/health", timeout=10)
    assert (health.status_code, health.json()) == (200, {"status": "ready"})
    assert requests.get(f"{url}/info", timeout=10).json() == {"num_passages": 128}


MALFORMED = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b"[]", "not an object"),
    (b"null", "not an object"),
    (b"{}", "'queries' is missing"),
    (b'{"queries": ["a"]}', "'k' is missing"),
    (b'{"queries": "a", "k": 1}', "not a list of strings"),
    (b'{"queries": ["a", 1], "k": 1}', r"queries\[1\] is not a string"),
    (b'{"queries": ["\\ud800"], "k": 1}', r"queries\[0\] is not valid Unicode"),
    (b'{"queries": ["a"], "k": 0}', "at least 1"),
    (b'{"queries": ["a"], "k": true}', "at least 1"),
    (b'{"queries": ["a"], "k": 1.5}', "at least 1"),
    (b'{"queries": ["a"], "k": "1"}', "at least 1"),
]


@pytest.mark.parametrize("body, message", MALFORMED, ids=[str(body[:30]) for body, _ in MALFORMED])
def test_malformed_bodies_are_refused(url: str, body: bytes, message: str) -> None:
    answer = requests.post(f"{url}/v1/search", data=body, timeout=10)
    assert answer.status_code == 400
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(answer.json()["error"])
    renamed = body.replace(b'"queries"', b'"questions"').replace(b'"k"', b'"N"')
    answer = requests.post(f"{url}/search", data=renamed, timeout=10)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}


def test_wrong_address_and_method_are_json_too(url: str) -> None:
    for answer in (requests.get(f"{url}/nothing", timeout=10), requests.get(f"{url}/v1/search", timeout=10)):
        assert answer.status_code in (404, 405)
        assert set(answer.json()) == {"error"}


def test_huge_k_is_the_whole_corpus(url: str) -> None:
    answer = requests.post(f"{url}/v1/search", json={"queries": ["a"], "k": 10**30}, timeout=10)
    assert len(answer.json()["results"][0]) == 128


def test_a_query_is_asked_once(url: str) -> None:
    counting = Counting()
    with listening(Batcher(counting)) as address:
        client = HttpRetriever(address, cache_size=3)
        first = client.search(["a", "b", "a"], 2)
        assert first[0] == first[2]
        assert counting.asked == ["a", "b"]
        assert client.search(["b", "c"], 2)[0] == first[1]
        assert counting.asked == ["a", "b", "c"]
        client.search(["a"], 3)  # another k is another question
        assert counting.asked[3:] == ["a"]
        client.search(["b", "c", "a"], 2)  # a with k=2 was the oldest of four and is forgotten
        assert counting.asked[4:] == ["a"]


def test_failures_of_the_server_and_of_the_caller_differ(url: str) -> None:
    with listening(Batcher(Counting())) as address:
        with pytest.raises(RuntimeError, match=r"500.*out of order"):
            HttpRetriever(address).search(["bad"], 1)
        with pytest.raises(ValueError, match=r"400.*at least 1"):
            HttpRetriever(address).search(["good"], 0)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_client_waits_for_a_server_that_comes_back() -> None:
    port = free_port()
    client = HttpRetriever(f"http://127.0.0.1:{port}", timeout_s=30)
    with ThreadPoolExecutor(1) as pool:
        with listening(Counting(), port):
            client.search(["before"], 1)
        waiting = pool.submit(client.search, ["after"], 1)
        with listening(Counting(), port):
            assert waiting.result(30)[0][0].passage.id == "after#0"


def test_client_gives_up_with_a_remedy() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RetrieverUnavailable, match=rf"{url} within 0.3 s.*is it running"):
        HttpRetriever(url, timeout_s=0.3).search(["x"], 1)


def test_client_gives_up_on_a_server_that_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RetrieverUnavailable, match=r"within 0\.3 s"):
            HttpRetriever(url, timeout_s=0.3).search(["x"], 1)
