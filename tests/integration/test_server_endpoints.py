"""What each endpoint answers and refuses, over a socket."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from jointrag import Reranker
from jointrag.config import ServerConfig
from jointrag.retrieval import HttpRetriever
from jointrag.types import Hit, Passage
from tests.serving import Counting, listening, service_over, wait_until
from tests.tiny_cross_encoder import plain_scores, tiny_cross_encoder

SMALL = ServerConfig(
    max_queries_per_request=3, max_query_characters=10, max_k=5, max_body_bytes=1000, max_queued_queries=3
)


def post(url: str, **body: Any) -> requests.Response:
    return requests.post(url, json=body, timeout=20)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening(service_over(Counting(), SMALL)) as address:
        yield address


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_retrieve_answers_as_search_r1s_server(url: str) -> None:
    answer = post(f"{url}/retrieve", queries=["a", "b"], topk=2, return_scores=True).json()
    assert answer == {
        "result": [
            [{"document": {"id": f"{query}#{i}", "contents": f'"T"\n{query}'}, "score": 1 / (i + 1)} for i in range(2)]
            for query in "ab"
        ]
    }
    documents = [{"id": f"a#{i}", "contents": '"T"\na'} for i in range(3)]
    for body in ({}, {"topk": None, "return_scores": False}, {"topk": 3}):
        assert post(f"{url}/retrieve", queries=["a"], **body).json() == {"result": [documents]}


def test_search_r1s_clients_can_read_it(url: str) -> None:
    """Title: the first line; the rest is the text. Also of a passage that has no title."""

    class NoTitle:
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            return [[Hit(Passage("1", "", "first\nsecond"), 0.5)] for _ in queries]

    with listening(service_over(NoTitle())) as address:
        ((hit,),) = post(f"{address}/retrieve", queries=["a"], return_scores=True).json()["result"]
    assert hit["document"]["contents"].split("\n") == ['""', "first", "second"]


def test_results_can_be_filtered(url: str) -> None:
    def found(**filters: Any) -> list[dict[str, Any]]:
        (hits,) = post(f"{url}/v1/search", queries=["a"], k=5, **filters).json()["results"]
        return hits

    assert [hit["score"] for hit in found()] == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]
    assert set(found()[0]) == {"id", "title", "text", "score"}
    assert [hit["score"] for hit in found(min_score=0.3)] == [1, 1 / 2, 1 / 3]
    assert [hit["score"] for hit in found(min_score=0.3, max_results=2)] == [1, 1 / 2]
    assert found(min_score=2) == []
    assert found(texts=False)[0] == {"id": "a#0", "title": "T", "score": 1}


def test_rerank_answers_as_text_embeddings_inference(tmp_path: Path) -> None:
    folder = tiny_cross_encoder(tmp_path / "model")
    query, texts = "bara deso", ["kite lovi", "bara deso muzu", "", "navi deso"]
    service = service_over(Counting(), reranker=lambda: Reranker(str(folder), device="cpu", verbose=0))
    with listening(service) as address:
        raw = post(f"{address}/rerank", query=query, texts=texts, raw_scores=True, return_text=True).json()
        answer = post(f"{address}/rerank", query=query, texts=texts).json()
        assert post(f"{address}/rerank", query=query, texts=[]).json() == []
    expected = dict(zip((0, 1, 3), plain_scores(folder, [(query, texts[i]) for i in (0, 1, 3)]), strict=True))
    best_first = sorted(expected, key=lambda i: -expected[i])
    assert [one["index"] for one in answer] == [one["index"] for one in raw] == [*best_first, 2]
    assert [one["score"] for one in raw[:3]] == pytest.approx([expected[i] for i in best_first], abs=1e-4)
    assert all(one["text"] == texts[one["index"]] for one in raw)
    assert all(0 <= one["score"] <= 1 and set(one) == {"index", "score"} for one in answer)
    assert raw[-1]["score"] < -1e38 and answer[-1]["score"] == 0


def test_without_a_reranker_nothing_is_reranked(url: str) -> None:
    answer = post(f"{url}/rerank", query="a", texts=["b"])
    assert answer.status_code == 424 and "--reranker" in answer.json()["error"]


# ---- limits ----------------------------------------------------------------------------------------------------------

OVER = [
    ("/v1/search", {"queries": ["a"] * 4, "k": 1}, 413, "max_queries_per_request"),
    ("/search", {"questions": ["a"] * 4, "N": 1}, 413, "max_queries_per_request"),
    ("/retrieve", {"queries": ["a"] * 4}, 413, "max_queries_per_request"),
    ("/rerank", {"query": "a", "texts": ["a"] * 4}, 413, "max_queries_per_request"),
    ("/v1/search", {"queries": ["a", "a" * 11], "k": 1}, 413, "queries[1] has 11 characters"),
    ("/retrieve", {"queries": ["a" * 11]}, 413, "max_query_characters"),
    ("/rerank", {"query": "a" * 11, "texts": []}, 413, "max_query_characters"),
    ("/v1/search", {"queries": ["a"], "k": 6}, 400, "server.max_k"),
    ("/search", {"questions": ["a"], "N": 10**30}, 400, "server.max_k"),
    ("/retrieve", {"queries": ["a"], "topk": 6}, 400, "server.max_k"),
    ("/v1/search", {"queries": ["a"], "k": 1, "more": "a" * 1000}, 413, "server.max_body_bytes"),
    ("/v1/search", {"queries": ["a"], "k": 1, "more": "a" * 100_000}, 413, "max_body"),
    ("/v1/search", {"queries": ["a"], "k": 1, "min_score": "high"}, 400, "'min_score' is not a number"),
    ("/v1/search", {"queries": ["a"], "k": 1, "min_score": 10**400}, 400, "finite"),
    ("/v1/search", {"queries": ["a"], "k": 1, "max_results": 0}, 400, "'max_results'"),
    ("/v1/search", {"queries": ["a"], "k": 1, "texts": 1}, 400, "'texts' is neither true nor false"),
    ("/retrieve", {"queries": ["a"], "return_scores": "yes"}, 400, "'return_scores'"),
    ("/rerank", {"texts": ["a"]}, 400, "'query' is missing"),
    ("/rerank", {"query": "a", "texts": [1]}, 400, "texts[0] is not a string"),
    ("/rerank", {"query": ["a"], "texts": []}, 400, "'query' is not a string"),
    ("/v1/reload", {}, 403, "SIGHUP"),
]


@pytest.mark.parametrize("path, body, status, message", OVER)
def test_limits_are_named(url: str, path: str, body: dict[str, Any], status: int, message: str) -> None:
    answer = requests.post(f"{url}{path}", data=json.dumps(body), timeout=20)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert message in answer.json()["error"]


def test_what_is_no_http_is_answered_in_json(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    for raw in (
        b"NONSENSE\r\n\r\n",
        b"POST /search HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /search HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(raw)
            said = b"".join(iter(lambda: connection.recv(4096), b""))
        head, _, body = said.partition(b"\r\n\r\n")
        assert head.split()[1] == b"400" and set(json.loads(body)) == {"error"}


def test_a_full_queue_is_503_and_monitors_are_answered() -> None:
    counting = Counting()
    counting.gate.clear()
    with listening(service_over(counting, SMALL)) as address, ThreadPoolExecutor(4) as pool:
        ask = lambda query: post(f"{address}/v1/search", queries=[query], k=1)  # noqa: E731
        first = pool.submit(ask, "first")
        assert counting.started.wait(10)
        waiting = [pool.submit(ask, f"{i}") for i in range(2)]
        wait_until(lambda: "retrieval_queued_queries 3.0" in requests.get(f"{address}/metrics", timeout=10).text)
        full = ask("toomany")
        assert (full.status_code, full.headers["Retry-After"]) == (503, "1")
        assert "server.max_queued_queries" in full.json()["error"]
        counting.gate.set()
        assert all(one.result(10).ok for one in (first, *waiting))
        assert ask("again").ok
    assert "toomany" not in counting.asked


def test_with_all_threads_busy_it_still_says_that_it_lives_and_when_it_is_full() -> None:
    counting = Counting()
    counting.gate.clear()
    config = SMALL.model_copy(update={"num_threads": 1})
    with listening(service_over(counting, config)) as address, ThreadPoolExecutor(9) as pool:
        ask = lambda query: post(f"{address}/v1/search", queries=[query], k=1).status_code  # noqa: E731
        first = pool.submit(ask, "first")
        assert counting.started.wait(10)
        others = [pool.submit(ask, f"{i}") for i in range(8)]  # three wait for the thread, the rest has no room
        wait_until(lambda: sum(one.done() for one in others) == 5)
        assert requests.get(f"{address}/health", timeout=10).json() == {"status": "ready"}
        assert requests.get(f"{address}/info", timeout=10).ok
        counting.gate.set()
        assert first.result(10) == 200
        assert sorted(one.result(10) for one in others) == 3 * [200] + 5 * [503]
        client = HttpRetriever(address, cache_size=0)
        assert all(pool.map(lambda i: client.search([f"q{i}"], 1), range(50)))  # told to come again, it does


# ---- cache, metrics, token, stop -------------------------------------------------------------------------------------


def test_a_query_asked_before_is_answered_from_memory() -> None:
    counting = Counting()
    with listening(service_over(counting, ServerConfig(cache_size=6))) as address:
        first = post(f"{address}/v1/search", queries=["a", "b", "a"], k=2).json()
        assert post(f"{address}/v1/search", queries=["a", "b", "a"], k=2).json() == first
        post(f"{address}/retrieve", queries=["a"], topk=2)  # whichever way it is asked
        assert counting.asked == ["a", "b"]
        post(f"{address}/search", questions=["a"], N=1)
        post(f"{address}/search", questions=["c"], N=2)  # 7 passages: b with k=2 is the oldest
        assert counting.asked == ["a", "b", "a", "c"]
        post(f"{address}/v1/search", queries=["a"], k=2)
        assert counting.asked == ["a", "b", "a", "c"]
        post(f"{address}/v1/search", queries=["b"], k=2)
        assert counting.asked == ["a", "b", "a", "c", "b"]


def test_the_same_request_again_is_answered_with_the_same_bytes_whoever_may_ask() -> None:
    counting = Counting()
    with listening(service_over(counting, ServerConfig(cache_size=0)), token="secret") as address:
        body, headers = {"queries": ["a", "b"], "k": 2}, {"Authorization": "Bearer secret"}
        first = requests.post(f"{address}/v1/search", json=body, headers=headers, timeout=10)
        again = requests.post(f"{address}/v1/search", json=body, headers=headers, timeout=10)
        assert (first.content, first.headers["Content-Type"]) == (again.content, again.headers["Content-Type"])
        assert counting.asked == ["a", "b"]
        assert post(f"{address}/v1/search", **body).status_code == 401
        assert requests.post(f"{address}/search", json=body, headers=headers, timeout=10).status_code == 400
        shown = requests.get(f"{address}/metrics", headers=headers, timeout=10).text
        assert "retrieval_cache_hits_total 2.0" in shown
        assert 'retrieval_requests_total{endpoint="/v1/search",status="200"} 2.0' in shown


def test_what_failed_is_not_remembered() -> None:
    class FailsOnce(Counting):
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            found = super().search(queries, k)
            if len(self.asked) == 1:
                raise RuntimeError("once")
            return found

    with listening(service_over(FailsOnce())) as address:
        assert [post(f"{address}/search", questions=["a"], N=1).status_code for _ in range(3)] == [500, 200, 200]


def test_metrics_count_what_happened() -> None:
    with listening(service_over(Counting(), SMALL)) as address:
        for queries in (["a", "b"], ["a", "c"], ["b"]):
            post(f"{address}/v1/search", queries=queries, k=1)
        post(f"{address}/v1/search", queries="a", k=1)
        post(f"{address}/retrieve", queries=["a"], topk=1)
        requests.get(f"{address}/some/where", timeout=10)
        shown = requests.get(f"{address}/metrics", timeout=10)
    assert shown.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(shown.text)
        for sample in family.samples
    }
    assert samples["retrieval_requests_total", "/v1/search", "200"] == 3
    assert samples["retrieval_requests_total", "/v1/search", "400"] == 1
    assert samples["retrieval_requests_total", "/retrieve", "200"] == 1
    assert samples["retrieval_requests_total", "404", "other"] == 1
    assert samples["retrieval_request_seconds_count", "/v1/search"] == 4
    assert samples["retrieval_request_seconds_bucket", "+Inf", "/v1/search"] == 4
    assert (samples["retrieval_cache_hits_total",], samples["retrieval_cache_misses_total",]) == (3, 3)
    assert (samples["retrieval_batch_queries_count",], samples["retrieval_batch_queries_sum",]) == (2, 3)
    assert (samples["retrieval_queued_queries",], samples["retrieval_index_generation",]) == (0, 1)


def test_with_a_token_only_health_is_open() -> None:
    with listening(service_over(Counting()), token="secret") as address:
        assert requests.get(f"{address}/health", timeout=10).ok
        for header in (None, "Bearer wrong", "secret", "Basic secret", "Bearer s\xe9cret"):
            headers = {"Authorization": header.encode("latin-1")} if header else {}
            for path in ("/info", "/metrics", "/nothing"):
                answer = requests.get(f"{address}{path}", headers=headers, timeout=10)
                assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        for header in ("Bearer secret", "bearer secret"):
            assert requests.get(f"{address}/info", headers={"Authorization": header}, timeout=10).ok
        assert requests.post(f"{address}/v1/search", json={"queries": ["a"], "k": 1}, timeout=10).status_code == 401


def test_stopping_finishes_what_is_under_way_and_refuses_what_comes() -> None:
    counting = Counting()
    counting.gate.clear()
    service = service_over(counting)
    with ThreadPoolExecutor(1) as pool:
        with listening(service) as address:
            under_way = pool.submit(post, f"{address}/v1/search", queries=["a"], k=1)
            assert counting.started.wait(10)
            service.stop()
            health = requests.get(f"{address}/health", timeout=10)
            assert (health.status_code, health.json()) == (503, {"status": "stopping"})
            late = post(f"{address}/v1/search", queries=["b"], k=1)
            assert (late.status_code, late.headers["Retry-After"]) == (503, "2")
            counting.gate.set()
        assert under_way.result(10).json()["results"][0][0]["id"] == "a#0"
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{address}/health", timeout=5)


def test_a_stop_does_not_wait_for_ever() -> None:
    counting = Counting()
    counting.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        with listening(service_over(counting, ServerConfig(stop_timeout_s=0.3))) as address:
            dropped = pool.submit(post, f"{address}/v1/search", queries=["a"], k=1)
            assert counting.started.wait(10)
        with pytest.raises(requests.ConnectionError):
            dropped.result(10)
        counting.gate.set()
