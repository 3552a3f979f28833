"""The Flask application over a socket, and its client."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests

from jointrag.config import ServerConfig
from jointrag.retrieval import HttpRetriever, InProcessRetriever
from tests.serving import listening, service_over


@pytest.fixture(scope="module")
def local(index_dir: Path) -> InProcessRetriever:
    return InProcessRetriever.open(index_dir, "cpu")


@pytest.fixture(scope="module")
def url(local: InProcessRetriever) -> Iterator[str]:
    with listening(service_over(local, ServerConfig(max_batch=64))) as address:
        yield address


@pytest.mark.parametrize("count", [1, 4, 100])
def test_http_and_in_process_agree_to_the_last_bit(local: InProcessRetriever, count: int) -> None:
    queries = ["Where does Ada Adler live?", "Hugo Haas", "Ünknöwn 字 🙂 words", ""]
    queries = [*queries, *(f"{passage.title} number {i}" for i, passage in enumerate(local.index.corpus))][:count]
    queries.append(queries[0])  # asked twice
    with listening(service_over(local)) as url:  # nobody asked it before
        assert HttpRetriever(url).search(queries, 7) == local.search(queries, 7)
        assert HttpRetriever(url).search([], 5) == local.search([], 5) == []
        body = {"queries": queries, "k": 7}
        results = requests.post(f"{url}/v1/search", json=body, timeout=10).json()["results"]  # from its cache, now
    assert [[hit["score"] for hit in hits] for hits in results] == [
        [hit.score for hit in hits] for hits in local.search(queries, 7)
    ]


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
    info = requests.get(f"{url}/info", timeout=10).json()
    assert (info["num_passages"], info["generation"], info["reload"]) == (128, 1, {"status": "none"})
    assert info["uptime_s"] >= 0


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
