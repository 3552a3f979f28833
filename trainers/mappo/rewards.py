"""What an episode is worth, and to whom.

Every agent gets the same reward, the score of the final answer by `jointrag.metrics` (the code that evaluation reports
with), plus the penalty for the form of its own response. The KL to the warm start is charged token by token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from jointrag.metrics import METRICS
from jointrag.types import Episode


def answer_rewards(episodes: Sequence[Episode], metric: str | Mapping[Any, float]) -> list[float]:
    """The shared reward of each episode: a metric, 0..1, or a weighted sum of several. The best gold answer counts."""
    weights = {metric: 1.0} if isinstance(metric, str) else metric
    return [
        sum(weight * METRICS[name](episode.answer, episode.question.answers) for name, weight in weights.items())
        for episode in episodes
    ]


def token_rewards(
    final: torch.Tensor, log_ratios: torch.Tensor, mask: torch.Tensor, kl_coefficient: float
) -> torch.Tensor:
    """Rewards [turns, tokens]: -kl_coefficient * log(policy / reference) at every token, plus `final` [turns] (answer
    reward and penalty) at the last one. `mask` [turns, tokens] is 1 on response tokens; they come first in each row."""
    rewards = -kl_coefficient * log_ratios * mask
    last = mask.sum(1).long() - 1
    rewards[torch.arange(len(final)), last] += final
    return rewards
