"""How much better than expected: three estimators, and whitening.

GAE works token by token with a critic. The other two need none: they compare the rollouts of one question with each
other, and every token of a turn gets the same advantage.
"""

from __future__ import annotations

import torch


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and returns, both [turns, tokens].

    delta_t = r_t + gamma * V_{t+1} - V_t and A_t = delta_t + gamma * lam * A_{t+1}, with V = A = 0 after a turn's last
    token: a turn is its agent's whole trajectory. Returns are A_t + V_t. Padding (mask 0) is 0 in both.
    """
    rewards, values = rewards * mask, values * mask
    advantages = torch.zeros_like(rewards)
    ahead, value_ahead = torch.zeros(len(rewards)), torch.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * value_ahead - values[:, t]
        ahead = (delta + gamma * lam * ahead) * mask[:, t]
        value_ahead = values[:, t]
        advantages[:, t] = ahead
    return advantages, (advantages + values) * mask


def group(scores: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """(score - mean) / standard deviation within each group, both [turns] (GRPO: Shao et al., 2024).

    A group is one agent's turns in all rollouts of one question; where all score the same, the advantage is 0.
    """
    advantages = torch.zeros_like(scores)
    for members in _members(groups):
        values = scores[members]
        advantages[members] = (values - values.mean()) / (values.std() + 1e-6) if len(values) > 1 else 0.0
    return advantages


def rloo(scores: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Score minus the mean of the group's other members, both [turns] (REINFORCE leave-one-out: Kool et al., 2019)."""
    advantages = torch.zeros_like(scores)
    for members in _members(groups):
        values = scores[members]
        advantages[members] = (values - values.mean()) * len(values) / max(1, len(values) - 1)
    return advantages


def _members(groups: torch.Tensor) -> list[torch.Tensor]:
    return [(groups == group).nonzero()[:, 0] for group in groups.unique()]


CRITIC_FREE = {"group": group, "rloo": rloo}


def whiten(advantages: torch.Tensor, mask: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Mean 0 and standard deviation 1 over the tokens of each group; `groups` [turns] tells each turn's agent.

    Per agent, because agents differ in how much of the reward they can move. Fewer than two tokens are only centred.
    """
    whitened = torch.zeros_like(advantages)
    for group in groups.unique():
        where = (groups == group)[:, None] & (mask > 0)
        values = advantages[where]
        spread = values.std() if len(values) > 1 else torch.zeros(())
        whitened[where] = (values - values.mean()) / (spread + 1e-8)
    return whitened
