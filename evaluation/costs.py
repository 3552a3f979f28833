"""What answering costs: calls, tokens and seconds per question and agent, counted on the way through.

    meter = Meter(llm, retriever)
    episodes = answer(questions, chain, meter.llm, meter.retriever, GREEDY)
    usages = meter.usages(episodes)

Seconds are those of the batch, shared out evenly over its questions; an agent's are its model's, the retriever's those
of its searches. A server that remembers what it was asked before is as quick as that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evaluation.scores import Cost
from jointrag.generation import Completion, LanguageModel, Sampling
from jointrag.retrieval import Retriever, TimedRetriever
from jointrag.types import Episode, Prompt

RETRIEVER = "retriever"


@dataclass(frozen=True, slots=True)
class AgentUsage:
    """One agent, or the retriever, on one question."""

    num_calls: int
    num_prompt_tokens: int
    num_response_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Usage:
    """A question. `confidence`: the probability that the selector gave its selection; None: not known."""

    id: str
    confidence: float | None
    agents: dict[str, AgentUsage]


class MeteredLM:
    """A language model that notes per agent the tokens of every prompt of the last batch, and its seconds."""

    def __init__(self, llm: LanguageModel) -> None:
        self._llm = llm
        self.tokens: dict[str, list[tuple[int, int]]] = {}
        self.seconds: dict[str, float] = {}

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int, sampling: Sampling) -> list[Completion]:
        started = time.monotonic()
        completions = self._llm.generate(prompts, max_new_tokens, sampling)
        agent = prompts[0].agent
        self.seconds[agent] = time.monotonic() - started
        self.tokens[agent] = [_num_tokens(completion) for completion in completions]
        return completions


@dataclass
class Meter:
    """For one batch of questions."""

    model: LanguageModel
    source: Retriever
    llm: MeteredLM = field(init=False)
    retriever: TimedRetriever = field(init=False)

    def __post_init__(self) -> None:
        self.llm, self.retriever = MeteredLM(self.model), TimedRetriever(self.source)

    def usages(self, episodes: Sequence[Episode]) -> list[Usage]:
        """Of the batch, in the order of its questions."""
        usages = []
        for i, episode in enumerate(episodes):
            agents = {
                agent: AgentUsage(1, *tokens[i], self.llm.seconds[agent] / len(episodes))
                for agent, tokens in self.llm.tokens.items()
            }
            if episode.candidates:
                seconds = self.retriever.seconds / len(episodes)
                agents[RETRIEVER] = AgentUsage(len(episode.sub_questions), 0, 0, seconds)
            usages.append(Usage(episode.question.id, confidence(episode), agents))
        return usages


def confidence(episode: Episode) -> float | None:
    """The probability of the selection as it was written, among all that could have been written."""
    turn = next((turn for turn in episode.turns if turn.choices is not None and turn.logprobs), None)
    return None if turn is None else math.exp(sum(turn.logprobs))


def mean_costs(usages: Sequence[Usage]) -> dict[str, Cost]:
    """Per agent, the mean over all questions."""
    agents = dict.fromkeys(agent for usage in usages for agent in usage.agents)
    nothing = AgentUsage(0, 0, 0, 0.0)
    costs = {}
    for agent in agents:
        rows = [usage.agents.get(agent, nothing) for usage in usages]
        costs[agent] = Cost(
            num_calls=float(np.mean([row.num_calls for row in rows])),
            num_prompt_tokens=float(np.mean([row.num_prompt_tokens for row in rows])),
            num_response_tokens=float(np.mean([row.num_response_tokens for row in rows])),
            seconds=float(np.mean([row.seconds for row in rows])),
        )
    return costs


def total_seconds(usages: Sequence[Usage]) -> float:
    return sum(agent.seconds for usage in usages for agent in usage.agents.values())


def _num_tokens(completion: Completion) -> tuple[int, int]:
    if completion.prompt_ids:
        return len(completion.prompt_ids), len(completion.response_ids)
    return completion.num_served_tokens
