"""The chain and its agents."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from jointrag.config.base import AgentName, Section


class RewriterConfig(Section):
    max_sub_questions: PositiveInt = 4
    max_characters: PositiveInt = 300
    penalty: Annotated[float, Field(le=0)] = -0.5
    """For too many sub-questions, too many characters, or none at all."""
    max_new_tokens: PositiveInt = 96


class SelectorConfig(Section):
    penalty: Annotated[float, Field(le=0)] = -1.0
    """For a malformed list, an unknown document or one named twice."""
    max_new_tokens: PositiveInt = 32


class GeneratorConfig(Section):
    max_words: PositiveInt = 30
    penalty: Annotated[float, Field(le=0)] = -0.5
    """For an answer of more than max_words words, or an empty one."""
    max_new_tokens: PositiveInt = 48


class AgentsConfig(Section):
    """The chain: which agents, what each may do, and how many passages they share."""

    chain: tuple[AgentName, ...] = ("rewriter", "selector", "generator")
    num_candidates: PositiveInt = 10
    """Passages retrieved per question, shared out over its sub-questions."""
    rewriter: RewriterConfig = RewriterConfig()
    selector: SelectorConfig = SelectorConfig()
    generator: GeneratorConfig = GeneratorConfig()

    @model_validator(mode="after")
    def _chain_is_possible(self) -> AgentsConfig:
        order = ["rewriter", "selector", "generator"]
        unknown = [name for name in self.chain if name not in order]
        if unknown:
            raise ValueError(f"unknown agent {unknown[0]!r} in chain; known agents: {', '.join(order)}")
        if list(self.chain) != [name for name in order if name in self.chain] or "generator" not in self.chain:
            raise ValueError(
                "the chain runs rewriter, selector, generator; leave out the first or second, keep the last"
            )
        return self
