"""The chain and its agents. Each agent's own settings are in its file, below `jointrag/agents`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from pydantic import (
    ConfigDict,
    PositiveInt,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo

from jointrag.agents import AGENTS
from jointrag.config.base import AgentName
from jointrag.section import Section


class AgentsConfig(Section):
    """The chain, and a section by the name of every registered agent: what that agent may do."""

    model_config = ConfigDict(extra="allow")  # the agents' sections, which `_agents_have_sections` checks

    chain: tuple[AgentName, ...] = ("rewriter", "selector", "generator")
    """The agents, in the order in which they speak."""
    num_candidates: PositiveInt = 10
    """Passages retrieved per question, shared out over its sub-questions."""

    def of(self, agent: AgentName) -> Any:
        """The agent's own section: a RewriterConfig for "rewriter"."""
        return getattr(self, agent)

    def subset(self, agents: Sequence[AgentName]) -> AgentsConfig:
        """The same settings with these agents of the chain alone, in the chain's order. Raises ValueError."""
        if unknown := [name for name in agents if name not in self.chain]:
            raise ValueError(f"{unknown[0]!r} is not in agents.chain, which has {', '.join(self.chain)}")
        chain = tuple(name for name in self.chain if name in agents)
        return type(self).model_validate(self.model_dump() | {"chain": chain})

    @classmethod
    def settings(cls) -> dict[str, FieldInfo]:
        return cls.model_fields | _sections().model_fields

    @model_validator(mode="before")
    @classmethod
    def _agents_have_sections(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        own = {name: value for name, value in given.items() if name in cls.model_fields}
        sections = {name: value for name, value in given.items() if name not in cls.model_fields}
        return own | dict(_sections().model_validate(sections))

    @model_validator(mode="after")
    def _chain_is_possible(self) -> AgentsConfig:
        if unknown := [name for name in self.chain if name not in AGENTS]:
            raise ValueError(f"unknown agent {unknown[0]!r} in chain; known agents: {', '.join(AGENTS)}")
        if repeated := [name for name in self.chain if self.chain.count(name) > 1]:
            raise ValueError(f"the chain names {repeated[0]!r} twice; every agent speaks once")
        if not self.chain or not AGENTS[self.chain[-1]].gives_answer:
            answering = " or ".join(name for name, agent in AGENTS.items() if agent.gives_answer)
            raise ValueError(f"the chain has to end with an agent that gives the answer: {answering}")
        for first, second in pairwise(self.chain):
            if AGENTS[first].reads_passages and not AGENTS[second].reads_passages:
                raise ValueError(
                    f"{first!r} reads passages, {second!r} speaks before they are retrieved: "
                    f"put {second!r} before {first!r} in the chain"
                )
        return self

    @model_serializer(mode="wrap")
    def _without_agents_outside_the_chain(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """They make no difference, so to register or to set one makes no stage run again."""
        return {k: v for k, v in dump(self).items() if k in type(self).model_fields or k in self.chain}


def _sections() -> type[Section]:
    """A section with the section of every registered agent. Made afresh: agents may be registered at any time."""
    sections: dict[str, Any] = {name: (agent.section, agent.section()) for name, agent in AGENTS.items()}
    return create_model("AgentSections", __base__=Section, **sections)
