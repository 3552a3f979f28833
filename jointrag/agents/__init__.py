"""The agents. Each file holds one: settings, prompt, parser, output constraint, penalty and warm-start label, side by
side.

Agents read and return Episodes; they never see a tensor. A new agent is one file and one line in `AGENTS`:
docs/agents.md shows one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from jointrag.agents.generator import Generator
from jointrag.agents.rewriter import Rewriter
from jointrag.agents.selector import Selector
from jointrag.section import Section
from jointrag.types import Episode, Prompt

if TYPE_CHECKING:
    from jointrag.config import AgentsConfig  # which asks AGENTS what can be set


class Agent(Protocol):
    """One role in the chain. It is made with its settings: `Rewriter(RewriterConfig())`."""

    @property
    def name(self) -> str: ...

    @property
    def section(self) -> type[Section]:
        """The class of its settings, which are `agents.<name>` in a preset. Each has a default."""
        ...

    @property
    def reads_passages(self) -> bool:
        """False: the agent speaks before retrieval."""
        ...

    @property
    def gives_answer(self) -> bool:
        """True: the agent can be the last of a chain."""
        ...

    @property
    def max_new_tokens(self) -> int: ...

    def prompt(self, episode: Episode) -> Prompt:
        """What the agent says to the language model, given the episode so far."""
        ...

    def read(self, episode: Episode, response: str) -> tuple[Episode, float]:
        """The episode with the response taken in, and the penalty (<= 0) for its form."""
        ...

    @property
    def label_sources(self) -> tuple[str, ...]:
        """What its labels can be made from, the most trusted first."""
        ...

    def label(self, episode: Episode, source: str) -> str | None:
        """What the agent should have said at this point of a labelled question's episode, as one of `label_sources`
        has it: a warm-start example. None: it has nothing to say here; the next source is asked, and after the last one
        the episode goes on without this agent."""
        ...


AGENTS = {
    "rewriter": Rewriter,
    "selector": Selector,
    "generator": Generator,
}


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
    return Chain(tuple(AGENTS[name](config.of(name)) for name in config.chain), config.num_candidates)
