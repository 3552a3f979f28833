"""The client of OpenAI-compatible servers, against a small server that does as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from jointrag import served
from jointrag.config import ServedConfig
from jointrag.generation import GREEDY, Sampling
from jointrag.served import ServedLM, ServerUnavailable
from jointrag.types import Prompt

PROMPTS = [Prompt("generator", "Answer.", f"question {i}") for i in range(9)]
Answer = tuple[int, Any, dict[str, str]]  # status, JSON or text, headers


def says(text: str | None) -> Answer:
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}}]}, {}


@dataclass
class Server:
    """Gives the `script`'s answers one after the other, then repeats what it is asked."""

    url: str = ""
    script: list[Answer] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    gate: threading.Barrier | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def lm(self, **settings: Any) -> ServedLM:
        return ServedLM(ServedConfig(base_url=f"{self.url}/v1/", name="tiny", **settings))

    def answer(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Answer:
        assert path == "/v1/chat/completions"
        with self.lock:
            self.bodies.append(body)
            self.headers.append(headers)
            scripted = self.script.pop(0) if self.script else None
        if self.gate:
            self.gate.wait(timeout=20)
        return scripted or says(f" about {body['messages'][-1]['content']}\n")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(served, "FIRST_PAUSE_S", 0.001)
    told = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, said, headers = told.answer(self.path, dict(self.headers), body)
            if status == 0:  # hang up without a word
                return
            content = (said if isinstance(said, str) else json.dumps(said)).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
    thread.start()
    told.url = f"http://127.0.0.1:{listening.server_port}"
    yield told
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_answers_come_in_the_order_of_the_prompts(server: Server) -> None:
    completions = server.lm(num_parallel=4).generate(PROMPTS, 7, GREEDY)
    assert [c.text for c in completions] == [f"about question {i}" for i in range(9)]
    assert not any(c.response_ids or c.logprobs or c.support for c in completions)
    body = next(body for body in server.bodies if body["messages"][-1]["content"] == "question 0")
    assert body == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "Answer."}, {"role": "user", "content": "question 0"}],
        "max_tokens": 7,
        "temperature": 0.0,
    }


def test_sampling_is_passed_on(server: Server) -> None:
    def asked(seed: int) -> list[dict[str, Any]]:
        server.bodies.clear()
        sampling = Sampling(0.7, torch.Generator().manual_seed(seed), top_p=0.9, top_k=5)
        server.lm(num_parallel=1).generate(PROMPTS[:3], 7, sampling)
        return list(server.bodies)

    first = asked(0)
    assert all((b["temperature"], b["top_p"], b["top_k"]) == (0.7, 0.9, 5) for b in first)
    assert len({b["seed"] for b in first}) == 3
    assert first == asked(0) != asked(1)
    server.lm().generate(PROMPTS[:1], 7, Sampling(1.0))
    assert not {"top_p", "top_k", "seed"} & set(server.bodies[-1])


def test_requests_are_under_way_together(server: Server) -> None:
    server.gate = threading.Barrier(3)  # nobody gets an answer before three have asked
    assert len(server.lm(num_parallel=3).generate(PROMPTS, 4, GREEDY)) == 9


@pytest.mark.parametrize(
    "trouble", [(429, {"error": {"message": "slow down"}}, {}), (503, "overloaded", {}), (0, "", {})]
)
def test_passing_trouble_is_waited_out(server: Server, trouble: Answer) -> None:
    server.script = [trouble, trouble, says("at last")]
    assert server.lm().generate(PROMPTS[:1], 4, GREEDY)[0].text == "at last"
    assert len(server.bodies) == 3


def test_the_server_says_how_long_to_wait(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(served.time, "sleep", waited.append)
    server.script = [(429, "", {"Retry-After": "3"}), (429, "", {"Retry-After": "tomorrow"}), says("at last")]
    server.lm().generate(PROMPTS[:1], 4, GREEDY)
    assert waited == [3.0, 0.002]


def test_lasting_trouble_is_an_error(server: Server) -> None:
    server.script = [(500, {"detail": "no memory left"}, {})] * 99
    with pytest.raises(ServerUnavailable, match=r"chat/completions, model 'tiny', asked 6 times: 500: no memory left"):
        server.lm(num_parallel=1).generate(PROMPTS, 4, GREEDY)
    assert len(server.bodies) <= 2 * served.TRIES  # the other prompts were not asked


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "FIRST_PAUSE_S", 0.001)
    with pytest.raises(ServerUnavailable, match="no answer"):
        ServedLM(ServedConfig(base_url="http://127.0.0.1:9/v1", name="tiny")).generate(PROMPTS[:1], 4, GREEDY)


@pytest.mark.parametrize(
    "said", [{"error": {"message": "no such model"}}, {"detail": "no such model"}, "no such model"]
)
def test_a_refusal_says_who_refused_what_and_why(server: Server, said: Any) -> None:
    server.script = [(404, said, {})]
    with pytest.raises(ValueError, match=r"http://127.*refused a request for model 'tiny': 404: no such model"):
        server.lm(num_parallel=1).generate(PROMPTS[:1], 4, GREEDY)
    assert len(server.bodies) == 1


@pytest.mark.parametrize("said", ["<html>", {"hello": "world"}, [], {"choices": []}])
def test_something_else_on_that_port(server: Server, said: Any) -> None:
    server.script = [(200, said, {})]
    with pytest.raises(ValueError, match="did not answer as an OpenAI-compatible server"):
        server.lm().generate(PROMPTS[:1], 4, GREEDY)


def test_an_empty_answer(server: Server) -> None:
    server.script = [says(None)]
    assert server.lm().generate(PROMPTS[:1], 4, GREEDY)[0].text == ""


def test_the_key_comes_from_the_variable_that_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.lm().generate(PROMPTS[:1], 4, GREEDY)
    assert "Authorization" not in server.headers[-1]
    with pytest.raises(ValueError, match="variable MY_KEY, which is not set"):
        server.lm(api_key_variable="MY_KEY")
    monkeypatch.setenv("MY_KEY", "s3cret")
    server.lm(api_key_variable="MY_KEY").generate(PROMPTS[:1], 4, GREEDY)
    assert server.headers[-1]["Authorization"] == "Bearer s3cret"


def test_an_address_without_http_is_refused() -> None:
    with pytest.raises(ValidationError, match="is no address"):
        ServedConfig(base_url="localhost:8000/v1", name="tiny")
