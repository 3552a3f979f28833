"""Potential-based shaping: what each turn changed about the likelihood of the gold answer.

The potential Phi of a state is the mean log-likelihood per token of the best gold answer, as the frozen warm start's
generator would write it from the passages of that state; before retrieval it has none, and after the answer Phi is 0.
A turn gets F = gamma * Phi(after) - Phi(before) (Ng, Harada & Russell, 1999): the rewriter for what its sub-questions
found, the selector for what it left of that.

With gamma = 1 the sum over an episode's turns is -Phi(question alone), whatever the agents do, so no team that is best
for the reward alone loses by shaping (for several agents: Devlin & Kudenko, 2011). The guarantee is about that sum. In
this loop every turn is a trajectory of its own, and an agent sees its F without the later ones that would cancel it.
That is what tells it its own part in the team's reward, but it also draws it, a little, to states from which the
reference would answer well where the policy would not; keep mappo.shaping_coefficient small beside the reward. The
generator's F does not depend on what it writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Protocol

import torch

from jointrag.agents import Agent
from jointrag.generation import LocalLM
from jointrag.likelihood import gold_answers
from jointrag.types import Episode, Turn


class Reference(Protocol):
    """The part of `trainers.mappo.policy.Policy` that is needed here."""

    lm: LocalLM

    def reference_logprobs(self, turns: Sequence[Turn]) -> list[torch.Tensor]: ...


def shaping(
    states: Sequence[Sequence[Episode]], policy: Reference, generator: Agent, gamma: float = 1.0
) -> list[float]:
    """Per turn, in the order [turn for episode in episodes for turn in episode.turns]: what it gets beside the reward.

    `states`: the episodes after each agent (jointrag.pipeline.answering); `generator`: the agent that answers. Raises
    ValueError for a question without gold answers.
    """
    before = [_unread(episode) for episode in states[0]]
    potentials = _potentials([*before, *(episode for state in states[:-1] for episode in state)], policy, generator)
    num_episodes = len(before)
    gains = []
    for i in range(num_episodes):
        path = [*potentials[i::num_episodes], 0.0]  # Phi before the first turn, …, after the last
        gains += [gamma * after - phi for phi, after in pairwise(path)]
    return gains


def _unread(episode: Episode) -> Episode:
    """The episode before anything was retrieved."""
    return replace(episode, candidates=(), selected=None, condensed=None)


def _potentials(episodes: Sequence[Episode], policy: Reference, generator: Agent) -> list[float]:
    """Phi of each state. States that the generator would read alike are scored once."""
    for episode in episodes:
        if not episode.question.answers:
            raise ValueError(
                f"question {episode.question.id!r} has no gold answer, so nothing can be said about its likelihood; "
                "set mappo.shaping_coefficient=0"
            )
    gold = gold_answers(episodes, generator, policy.lm.tokenizer, policy.lm.max_length)
    return gold.best(policy.reference_logprobs(gold.turns))
