"""Any body at any endpoint of the answer server: JSON or a well-formed stream, never a 500, never silence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.asking import QUESTION, Scripted, serving, system

EXPECTED = {200, 400, 404, 405, 413, 422}
CHAT = "/v1/chat/completions"
VALID: dict[str, dict[str, Any]] = {
    "/ask": {"question": QUESTION, "checkpoint": "mappo", "stream": True},
    CHAT: {
        "model": "mappo",
        "messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "citations": True,
        "n": 1,
    },
}
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "assistant", "tool"]), "content": anything}
) | st.fixed_dictionaries({"role": anything, "content": st.lists(st.dictionaries(st.just("type"), anything))})
nasty = st.sampled_from(
    [10**400, -1, 0, 1.5, float("nan"), "\ud800", "\0", "a" * 3000, ["a"] * 70, [[]], {}, [None], "🙂", " ", "\u2028"]
)


@st.composite
def requests_made(draw: st.DrawFn) -> tuple[str, str, bytes]:
    path = draw(st.sampled_from([*VALID, *VALID, "/", "/info", "/v1/models", "/v1/models/x", "/passages/x", "/v1/x"]))
    body = dict(VALID.get(path, {}))
    kind = draw(st.sampled_from(["field", "fields", "messages", "cut", "random JSON", "random bytes"]))
    if kind in ("field", "fields") and body:
        for _ in range(1 if kind == "field" else 3):
            key = draw(st.sampled_from([*body, "other"]) if body else st.just("other"))
            if draw(st.integers(0, 5)) == 0:
                body.pop(key, None)
            else:
                body[key] = draw(nasty | anything)
    elif kind == "messages":
        body["messages"] = draw(st.lists(message | anything, max_size=4))
    raw = json.dumps(draw(anything) if kind == "random JSON" else body).encode()
    if kind == "cut":
        raw = raw[: draw(st.integers(0, len(raw)))]
    elif kind == "random bytes":
        raw = draw(st.binary(max_size=200))
    return draw(st.sampled_from(["POST", "POST", "POST", "GET", "PUT"])), path, raw


@pytest.fixture(scope="module")
def connection() -> Iterator[HTTPConnection]:
    with serving(system("mappo"), system("warm_start")) as url:
        connection = HTTPConnection(url.removeprefix("http://"), timeout=20)  # a hang ends the test
        yield connection
        connection.close()


@settings(
    max_examples=300,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(made=requests_made())
def test_no_body_breaks_it(connection: HTTPConnection, made: tuple[str, str, bytes]) -> None:
    method, path, raw = made
    connection.request(method, path, raw)
    response = connection.getresponse()
    said = response.read().decode()
    assert response.status in EXPECTED, (response.status, said)
    kind = response.headers["Content-Type"].partition(";")[0]
    if kind == "text/event-stream":
        *events, end, nothing = said.split("\n\n")
        assert (end, nothing) == ("data: [DONE]", "")
        assert all(json.loads(event.removeprefix("data: "))["object"] for event in events)
    elif kind == "application/x-ndjson":
        assert json.loads(said.splitlines()[-1])["done"] is True
    elif path != "/" or response.status != 200:
        value = json.loads(said, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert response.status == 200 or set(value) == {"error"}


def test_a_crowd_gets_answers_or_is_told_to_come_again() -> None:
    llm = Scripted()
    with serving(system("mappo", llm), max_waiting=3) as url, ThreadPoolExecutor(24) as pool:

        def ask(number: int) -> int:
            body = {"question": f"number {number}", "stream": bool(number % 2)}
            told = requests.post(f"{url}/ask", json=body, timeout=60)
            if told.status_code == 200:
                assert json.loads(told.text.splitlines()[-1])["question"] == f"number {number}"
            return told.status_code

        codes = Counter(pool.map(ask, range(120)))
        assert set(codes) <= {200, 503} and codes[200] >= 4, codes
        assert llm.most_speaking == 1 and llm.num_speaking == 0
        assert requests.post(f"{url}/ask", json={"question": "after all"}, timeout=10).ok
