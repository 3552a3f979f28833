"""Any body at any endpoint: an answer in JSON, never a 500, never silence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jointrag import Reranker
from jointrag.config import ServerConfig
from jointrag.retrieval import InProcessRetriever, Retriever
from retrieval_server.service import Service
from tests.serving import listening
from tests.tiny_cross_encoder import tiny_cross_encoder

EXPECTED = {200, 202, 400, 404, 405, 409, 413, 415, 422}
VALID: dict[str, dict[str, Any]] = {
    "/v1/search": {"queries": ["Ada", "Bela"], "k": 2, "min_score": 0.1, "max_results": 1, "texts": True},
    "/search": {"questions": ["Ada", "Bela"], "N": 2},
    "/retrieve": {"queries": ["Ada", "Bela"], "topk": 2, "return_scores": True},
    "/rerank": {"query": "Ada", "texts": ["Bela", "Cora"], "raw_scores": False, "return_text": True},
    "/v1/reload": {"index": "nowhere", "wait": True},
}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
nasty = st.sampled_from(
    [
        10**400,
        -1,
        0,
        1.5,
        float("nan"),
        float("inf"),
        "\ud800",
        "\0",
        "a" * 3000,
        ["a"] * 70,
        [[]],
        {},
        [None],
        "🙂" * 9,
    ]
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """Method, path and body: random, or a valid one in which something was changed."""
    path = draw(st.sampled_from([*VALID, "/health", "/info", "/metrics"]))
    kind = draw(st.sampled_from(["field", "field", "more fields", "bytes", "cut", "random JSON", "random bytes"]))
    body = dict(VALID.get(path, {}))
    if kind in ("field", "more fields"):
        for _ in range(1 if kind == "field" else 3):
            key = draw(st.sampled_from([*body, "other"]) if body else st.just("other"))
            if draw(st.integers(0, 5)) == 0:
                body.pop(key, None)
            else:
                body[key] = draw(nasty | anything)
    raw = json.dumps(draw(anything) if kind == "random JSON" else body).encode()
    if kind == "random bytes":
        raw = draw(st.binary(max_size=200))
    elif kind == "cut":
        raw = raw[: draw(st.integers(0, len(raw)))]
    elif kind == "bytes":
        changed = bytearray(raw)
        for place, value in draw(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4)):
            if place < len(changed):
                changed[place] = value
        raw = bytes(changed)
    method = "POST" if path in VALID and draw(st.integers(0, 9)) else draw(st.sampled_from(["GET", "PUT", "POST"]))
    return method, path, raw


@pytest.fixture(scope="module")
def connection(index_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HTTPConnection]:
    model = str(tiny_cross_encoder(tmp_path_factory.mktemp("model")))

    def open_index(path: Path) -> tuple[Retriever, dict[str, object]]:
        return InProcessRetriever.open(path, "cpu"), {"num_passages": 128}

    config = ServerConfig(max_queries_per_request=64, max_query_characters=2000, max_k=50)
    service = Service(config, open_index, lambda: Reranker(model, device="cpu", verbose=0))
    service.load(index_dir)
    with listening(service, token="secret") as url:
        connection = HTTPConnection(url.removeprefix("http://"), timeout=20)  # a hang ends the test
        yield connection
        connection.close()


def check(connection: HTTPConnection, method: str, path: str, raw: bytes) -> None:
    headers = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
    connection.request(method, path, raw, headers)
    response = connection.getresponse()
    said = response.read()
    assert response.status in EXPECTED, (response.status, said)
    if path != "/metrics" or response.status != 200:
        value = json.loads(said, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert (response.status < 300 or path == "/v1/reload") or set(value) == {"error"}


FEW = settings(
    max_examples=400,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@FEW
@given(request_=requests())
def test_no_body_breaks_it(connection: HTTPConnection, request_: tuple[str, str, bytes]) -> None:
    check(connection, *request_)


@pytest.mark.slow
@settings(FEW, max_examples=10_000)
@given(request_=requests())
def test_ten_thousand_bodies_do_not_break_it(connection: HTTPConnection, request_: tuple[str, str, bytes]) -> None:
    check(connection, *request_)
