"""The client of the retrieval server: what it asks once, when it asks again, how long it waits."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from jointrag import retrieval_client
from jointrag.config import ServerConfig
from jointrag.retrieval import HttpRetriever, RetrieverUnavailable
from jointrag.types import Hit
from tests.answering import Asked, Said, answering
from tests.serving import Counting, listening, service_over

Answer = tuple[int, dict[str, str], object]


@contextmanager
def scripted(answer: Callable[[str, str | None], Answer]) -> Iterator[str]:
    """A server that says what `answer` makes of the path and the Authorization header; its address."""

    def said(asked: Asked) -> Said:
        status, headers, value = answer(asked.path, asked.headers.get("Authorization"))
        return Said(value, status, headers)

    with answering(said) as address:
        yield address


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_query_is_asked_once() -> None:
    counting = Counting()
    with listening(service_over(counting)) as address:
        client = HttpRetriever(address, cache_size=3)
        first = client.search(["a", "b", "a"], 2)
        assert first[0] == first[2]
        assert counting.asked == ["a", "b"]
        assert client.search(["b", "c"], 2)[0] == first[1]
        assert counting.asked == ["a", "b", "c"]
        client.search(["a"], 3)  # another k is another question
        assert counting.asked[3:] == ["a"]


def test_the_oldest_answers_are_forgotten() -> None:
    counting = Counting()
    with listening(service_over(counting, ServerConfig(cache_size=0))) as address:
        client = HttpRetriever(address, cache_size=3)
        client.search(["a", "b", "c"], 2)
        client.search(["a"], 3)
        client.search(["b", "c", "a"], 2)  # a with k=2 was the oldest of four
        assert counting.asked == ["a", "b", "c", "a", "a"]


def test_many_queries_are_several_requests() -> None:
    counting = Counting()
    with listening(service_over(counting, ServerConfig(max_queries_per_request=3))) as address:
        queries = [f"q{i}" for i in range(8)]
        found = HttpRetriever(address, max_queries=3).search(queries, 1)
        assert [hits[0].passage.text for hits in found] == queries
        with pytest.raises(ValueError, match=r"413.*max_queries_per_request"):
            HttpRetriever(address).search(queries, 1)


def test_failures_of_the_server_and_of_the_caller_differ_and_are_not_tried_again() -> None:
    counting = Counting()
    with listening(service_over(counting)) as address:
        with pytest.raises(RuntimeError, match=r"500.*out of order"):
            HttpRetriever(address).search(["bad"], 1)
        with pytest.raises(ValueError, match=r"400.*at least 1"):
            HttpRetriever(address).search(["good"], 0)
    assert counting.asked == ["bad"]


def test_client_waits_for_a_server_that_comes_back() -> None:
    port = free_port()
    client = HttpRetriever(f"http://127.0.0.1:{port}", timeout_s=30)
    with ThreadPoolExecutor(1) as pool:
        with listening(service_over(Counting()), port):
            client.search(["before"], 1)
        waiting = pool.submit(client.search, ["after"], 1)
        with listening(service_over(Counting()), port):
            assert waiting.result(30)[0][0].passage.id == "after#0"


def test_client_gives_up_with_a_remedy() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RetrieverUnavailable, match=rf"{url} gave no sign of life for 0\.3 s.*is it running"):
        HttpRetriever(url, timeout_s=0.3).search(["x"], 1)


def test_client_gives_up_on_a_server_that_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RetrieverUnavailable, match=r"no sign of life for 0\.3 s"):
            HttpRetriever(url, timeout_s=0.3).search(["x"], 1)


def test_a_slow_server_that_lives_is_waited_for_and_asked_once() -> None:
    counting = Counting()
    counting.gate.clear()
    with listening(service_over(counting)) as address, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(HttpRetriever(address, timeout_s=0.2).search, ["slow"], 1)
        with pytest.raises(TimeoutError):
            asked.result(timeout=1.5)  # many times timeout_s
        counting.gate.set()
        assert asked.result(10)[0][0].passage.id == "slow#0"
    assert counting.asked == ["slow"]


def test_even_a_server_that_lives_has_its_time() -> None:
    counting = Counting()
    counting.gate.clear()
    with listening(service_over(counting)) as address:
        with pytest.raises(RetrieverUnavailable, match=r"is alive and took 0\.5 s \(answer_timeout_s\)"):
            HttpRetriever(address, timeout_s=0.2, answer_timeout_s=0.5).search(["slow"], 1)
        counting.gate.set()


def test_a_server_that_dies_while_it_is_slow_is_given_up() -> None:
    dead = threading.Event()

    def answer(path: str, token: str | None) -> Answer:
        if path != "/health" or dead.is_set():
            time.sleep(3)
        return 200, {}, {"status": "ready"}

    with scripted(answer) as url, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(HttpRetriever(url, timeout_s=0.3).search, ["x"], 1)
        with pytest.raises(TimeoutError):
            asked.result(timeout=1)
        dead.set()
        with pytest.raises(RetrieverUnavailable, match="no answer, and none from /health"):
            asked.result(timeout=2)


def test_503_is_tried_again_when_the_server_says(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(retrieval_client.time, "sleep", pauses.append)
    answers: list[Answer] = [
        (503, {"Retry-After": "7"}, {"error": "full"}),
        (503, {}, {"error": "full"}),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, {}),
        (503, {"Retry-After": "100000"}, {}),
        (200, {}, {"results": [[{"id": "1", "title": "", "text": "t", "score": 0.5}]]}),
    ]
    with scripted(lambda path, token: answers.pop(0)) as url:
        (found,) = HttpRetriever(url).search(["x"], 1)
    assert isinstance(found[0], Hit) and found[0].score == 0.5
    assert pauses == [7, 0.1, 0.2, 30]


@pytest.mark.parametrize("status", [400, 401, 404, 413, 429, 500, 502, 504])
def test_other_errors_are_not_tried_again(status: int) -> None:
    paths: list[str] = []

    def answer(path: str, token: str | None) -> Answer:
        paths.append(path)
        return status, {}, {"error": "no"}

    with scripted(answer) as url, pytest.raises(ValueError if status < 500 else RuntimeError, match=str(status)):
        HttpRetriever(url).search(["x"], 1)
    assert paths == ["/v1/search"]


def test_a_server_that_is_always_full_is_given_up() -> None:
    with (
        scripted(lambda path, token: (503, {}, {"error": "full"})) as url,
        pytest.raises(RetrieverUnavailable, match=r"says 503: .*full.* for 0\.3 s"),
    ):
        HttpRetriever(url, answer_timeout_s=0.3).search(["x"], 1)


@pytest.mark.parametrize("said", [b"<html>", {"other": 1}, {"results": [[{"id": "1"}]]}, [1]])
def test_another_server_is_told_from_ours(said: object) -> None:
    with (
        scripted(lambda path, token: (200, {}, said)) as url,
        pytest.raises(RuntimeError, match="not answered by a retrieval server"),
    ):
        HttpRetriever(url).search(["x"], 1)


def test_the_token_is_given_or_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    service = service_over(Counting())
    with listening(service, token="secret") as url:
        assert HttpRetriever(url, token="secret").search(["x"], 1)
        with pytest.raises(ValueError, match=r"401.*wants a token"):
            HttpRetriever(url).search(["x"], 1)
        monkeypatch.setenv(retrieval_client.TOKEN_VARIABLE, "secret")
        assert HttpRetriever(url).search(["x"], 1)


def test_an_address_that_is_none_is_refused() -> None:
    for url in ("ftp://x", "http://", ""):
        with pytest.raises(ValueError, match="no address"):
            HttpRetriever(url)


def test_threads_share_a_client() -> None:
    with listening(service_over(Counting())) as address, ThreadPoolExecutor(16) as pool:
        client = HttpRetriever(address, cache_size=0)
        found = list(pool.map(lambda i: client.search([f"{i % 50}"], 1)[0][0].passage.text, range(400)))
    assert found == [f"{i % 50}" for i in range(400)]
