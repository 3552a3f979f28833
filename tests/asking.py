"""Trained systems for tests without training: agents that say what they are told, and the answer server around them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from answer_server.app import create_app
from answer_server.service import Description, Service
from jointrag.agents import Chain, build_chain
from jointrag.asking import System
from jointrag.config import AgentsConfig, ServerConfig
from jointrag.generation import Completion, Sampling
from jointrag.retrieval import Retriever
from jointrag.types import Hit, Passage, Prompt
from retrieval_server.address import bind
from retrieval_server.listening import Listener
from tests.serving import running

PASSAGES = (
    Passage("films/1", "Solaris", "Solaris is a film of 1972, directed by Andrei Tarkovsky."),
    Passage(
        "films/2",
        "Stalker",
        "Stalker is a film of 1979. It was shot in Estonia. " + "Much was shot twice. " * 20 + "That is all.",
    ),
    Passage("people/7", "Andrei Tarkovsky", "Andrei Tarkovsky was born in Zavrazhye."),
    Passage("x?&<b>y", "", "A passage without a title, with <b>markup</b> and a very unusual id."),
)
SAID = {
    "rewriter": "Who directed Solaris?\nWhere was Andrei Tarkovsky born?",
    "selector": "Document0,Document2",
    "generator": "Zavrazhye",
}
QUESTION = "Where was the director of Solaris born?"


class Scripted:
    """A language model that answers by script. While an agent is in `held`, it does not speak; `error` is raised
    instead of the generator's words."""

    def __init__(self, said: Mapping[str, str] = SAID) -> None:
        self.said = dict(said)
        self.held: set[str] = set()
        self.error: Exception | None = None
        self.num_speaking = self.most_speaking = 0
        self.asked: list[str] = []
        self._changed = threading.Condition()

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int, sampling: Sampling) -> list[Completion]:
        with self._changed:
            self.num_speaking += 1
            self.most_speaking = max(self.most_speaking, self.num_speaking)
            agent = prompts[0].agent
            if agent == "rewriter":
                self.asked.append(prompts[0].content)
            assert self._changed.wait_for(lambda: agent not in self.held, timeout=30)
            self.num_speaking -= 1
        if self.error and agent == "generator":
            raise self.error
        return [Completion(self.said[agent], prompt_ids=(1, 2, 3), response_ids=(4, 5)) for _ in prompts]

    def release(self, agent: str) -> None:
        with self._changed:
            self.held.discard(agent)
            self._changed.notify_all()


class Finds:
    """Always the same passages."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[Hit(passage, 1.0) for passage in PASSAGES[:k]] for _ in queries]


def chain(*agents: str, num_candidates: int = 4) -> Chain:
    return build_chain(AgentsConfig.model_validate({"chain": agents or tuple(SAID), "num_candidates": num_candidates}))


def system(
    name: str = "mappo", llm: Scripted | None = None, *agents: str, retriever: Retriever | None = None
) -> System:
    return System(name, chain(*agents), retriever or Finds(), llm or Scripted())


@contextmanager
def serving(
    *systems: System, max_waiting: int = 4, config: ServerConfig | None = None, origins: Sequence[str] = ()
) -> Iterator[str]:
    """The address of an answer server in this process; it is stopped with the block."""
    config = config or ServerConfig(num_threads=16, max_query_characters=500, max_body_bytes=20_000)
    service = Service(systems, config, Description("demo-run", [QUESTION, "Who directed Stalker?"]), max_waiting)
    bound = bind("127.0.0.1", 0)
    listener = Listener(create_app(service, origins), bound, config)
    with running(listener, config, service.stop):
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
