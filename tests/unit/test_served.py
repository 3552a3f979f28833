"""The client of OpenAI-compatible servers, against a small server that does as it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from jointrag import served
from jointrag.config import ServedConfig
from jointrag.generation import GREEDY, Sampling
from jointrag.served import ServedLM, ServerUnavailable
from jointrag.types import Prompt
from tests.answering import Asked, Said, answering

PROMPTS = [Prompt("generator", "Answer.", f"question {i}") for i in range(9)]


def says(text: str | None) -> Said:
    return Said({"choices": [{"message": {"role": "assistant", "content": text}}]})


@dataclass
class Server:
    """Gives the `script`'s answers one after the other, then repeats what it is asked."""

    url: str = ""
    script: list[Said] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    gate: threading.Barrier | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def lm(self, **settings: Any) -> ServedLM:
        return ServedLM(ServedConfig(base_url=f"{self.url}/v1/", name="tiny", **settings))

    def answer(self, asked: Asked) -> Said:
        assert asked.path == "/v1/chat/completions"
        with self.lock:
            self.bodies.append(asked.body)
            self.headers.append(asked.headers)
            scripted = self.script.pop(0) if self.script else None
        if self.gate:
            self.gate.wait(timeout=20)
        return scripted or says(f" about {asked.body['messages'][-1]['content']}\n")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(served, "FIRST_PAUSE_S", 0.001)
    told = Server()
    with answering(told.answer) as told.url:
        yield told


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
    "trouble", [Said({"error": {"message": "slow down"}}, 429), Said("overloaded", 503), Said("", 0)]
)
def test_passing_trouble_is_waited_out(server: Server, trouble: Said) -> None:
    server.script = [trouble, trouble, says("at last")]
    assert server.lm().generate(PROMPTS[:1], 4, GREEDY)[0].text == "at last"
    assert len(server.bodies) == 3


def test_the_server_says_how_long_to_wait(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(served.time, "sleep", waited.append)
    server.script = [Said("", 429, {"Retry-After": "3"}), Said("", 429, {"Retry-After": "tomorrow"}), says("at last")]
    server.lm().generate(PROMPTS[:1], 4, GREEDY)
    assert waited == [3.0, 0.002]


def test_lasting_trouble_is_an_error(server: Server) -> None:
    server.script = [Said({"detail": "no memory left"}, 500)] * 99
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
    server.script = [Said(said, 404)]
    with pytest.raises(ValueError, match=r"http://127.*refused a request for model 'tiny': 404: no such model"):
        server.lm(num_parallel=1).generate(PROMPTS[:1], 4, GREEDY)
    assert len(server.bodies) == 1


@pytest.mark.parametrize("said", ["<html>", {"hello": "world"}, [], {"choices": []}])
def test_something_else_on_that_port(server: Server, said: Any) -> None:
    server.script = [Said(said)]
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


def test_the_tokens_that_the_server_counted(server: Server) -> None:
    usage = {"usage": {"prompt_tokens": 12, "completion_tokens": 3}}
    server.script = [Said({**says("a").body, **usage}), Said({**says("b").body, "usage": None}), says("c")]
    found = server.lm(num_parallel=1).generate(PROMPTS[:3], 8, GREEDY)
    assert [(c.text, c.num_served_tokens) for c in found] == [("a", (12, 3)), ("b", (0, 0)), ("c", (0, 0))]
