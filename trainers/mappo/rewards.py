"""What an episode is worth, and to whom.

Every agent gets the same reward, the score of the final answer by `jointrag.metrics` (the code that evaluation reports
with) or by a function of the user's own, plus the penalty for the form of its own response. The KL to the warm start is
charged token by token.

A reward function takes a finished `Episode` and returns a number:

    def short_and_right(episode: Episode) -> float:
        return f1(episode.answer, episode.question.answers) - 0.01 * len(episode.passages)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real

import torch

from jointrag.agents import Chain
from jointrag.generation import GREEDY, Completion, Sampling
from jointrag.metrics import METRICS
from jointrag.own_code import described, load_function
from jointrag.pipeline import answer
from jointrag.types import Episode, Hit, Passage, Prompt, Question

Reward = Callable[[Episode], float]


def answer_rewards(episodes: Sequence[Episode], reward: str | Mapping[str, float]) -> list[float]:
    """The shared reward of each episode: f1, em or accuracy (0..1; the best gold answer counts), a function of the
    user's as `package.module:function`, or a weighted sum of several. Raises ValueError as `load_reward` does."""
    weights = {reward: 1.0} if isinstance(reward, str) else reward
    parts = [(weight, load_reward(name)) for name, weight in weights.items()]
    return [sum(weight * score(episode) for weight, score in parts) for episode in episodes]


def load_reward(name: str) -> Reward:
    """The reward of this name. Raises ValueError if it cannot be imported; the reward itself raises ValueError, naming
    the question, where the user's function fails or returns no finite number."""
    if name in METRICS:
        metric = METRICS[name]
        return lambda episode: metric(episode.answer, episode.question.answers)
    try:
        function = load_function(name)
    except ValueError as error:
        raise ValueError(f"mappo.reward={name}: {error}") from None

    def score(episode: Episode) -> float:
        question = f"mappo.reward={name}: on question {episode.question.id!r} it"
        try:
            value = function(episode)
        except Exception as error:
            raise ValueError(f"{question} failed with {described(error)}") from error
        if not isinstance(value, Real):
            raise ValueError(f"{question} returned {_shortened(value)}, a {type(value).__name__}; return a float")
        if not math.isfinite(value):
            raise ValueError(f"{question} returned {value}; return a finite number")
        return float(value)

    return score


def check_rewards(reward: str | Mapping[str, float], example: Episode) -> None:
    """Score one episode, so that a function that cannot work says so before anything is loaded. Raises ValueError."""
    answer_rewards([example], reward)


def example_episode(question: Question, chain: Chain) -> Episode:
    """A finished episode without a model or a server, of the kind that training will make: every agent has spoken, to
    little purpose, about made-up passages."""
    return answer([question], chain, _MadeUpPassages(), _Parrot(), GREEDY)[0]


class _Parrot:
    """Repeats the first line it is told, or takes the first choice."""

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int, sampling: Sampling) -> list[Completion]:
        return [
            Completion(prompt.choices[0] if prompt.choices else prompt.content.partition("\n")[0]) for prompt in prompts
        ]


class _MadeUpPassages:
    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        hits = [Hit(Passage(f"example-{i}", "An example", "This passage is made up."), -float(i)) for i in range(k)]
        return [hits for _ in queries]


def _shortened(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:79]}…"


def token_rewards(
    final: torch.Tensor, log_ratios: torch.Tensor, mask: torch.Tensor, kl_coefficient: float
) -> torch.Tensor:
    """Rewards [turns, tokens]: -kl_coefficient * log(policy / reference) at every token, plus `final` [turns] (answer
    reward and penalty) at the last one. `mask` [turns, tokens] is 1 on response tokens; they come first in each row."""
    rewards = -kl_coefficient * log_ratios * mask
    last = mask.sum(1).long() - 1
    rewards[torch.arange(len(final)), last] += final
    return rewards
