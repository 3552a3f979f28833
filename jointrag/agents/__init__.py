"""The agents. Each file holds one: its prompt, its parser, its output constraint and its penalty, side by side.

Agents read and return Episodes; they never see a tensor. A new agent is one file and one line in `AGENTS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from jointrag.agents.generator import Generator
from jointrag.agents.rewriter import Rewriter
from jointrag.agents.selector import Selector
from jointrag.config import AgentsConfig
from jointrag.types import Episode, Prompt

AGENTS = {"rewriter": Rewriter, "selector": Selector, "generator": Generator}


class Agent(Protocol):
    """One role in the chain."""

    @property
    def name(self) -> str: ...

    @property
    def reads_passages(self) -> bool:
        """False: the agent speaks before retrieval."""
        ...

    @property
    def max_new_tokens(self) -> int: ...

    def prompt(self, episode: Episode) -> Prompt:
        """What the agent says to the language model, given the episode so far."""
        ...

    def read(self, episode: Episode, response: str) -> tuple[Episode, float]:
        """The episode with the response taken in, and the penalty (<= 0) for its form."""
        ...


@dataclass(frozen=True)
class Chain:
    """The agents in the order in which they speak; retrieval comes before the first one that reads passages."""

    agents: tuple[Agent, ...]
    num_candidates: int

    @property
    def before_retrieval(self) -> tuple[Agent, ...]:
        return tuple(agent for agent in self.agents if not agent.reads_passages)

    @property
    def after_retrieval(self) -> tuple[Agent, ...]:
        return tuple(agent for agent in self.agents if agent.reads_passages)


def build_chain(config: AgentsConfig) -> Chain:
    """The chain a preset describes."""
    return Chain(tuple(AGENTS[name](getattr(config, name)) for name in config.chain), config.num_candidates)
