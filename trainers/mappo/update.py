"""The update: PPO epochs over minibatches of a step's episodes, for the policy and its critic.

Losses are means over the minibatch's response tokens. Where several processes train together, all hold the same
rollout; each takes its share of every minibatch's turns, and the gradients are summed. An update whose gradient is not
finite is skipped and counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from jointrag.config import MappoConfig
from jointrag.generation import batches_by_length
from jointrag.likelihood import num_tokens
from trainers.mappo.critic import Critic, View
from trainers.mappo.losses import k3, policy_loss, value_loss
from trainers.mappo.policy import Policy
from trainers.mappo.rollouts import Rollout
from trainers.mappo.sharding import clip_gradients
from trainers.parallel import Team


@dataclass
class Outcome:
    """What an update did. `totals`: sums over this process's tokens; `finite`: whether each optimiser step was."""

    totals: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    finite: list[bool] = field(default_factory=list)
    tokens: int = 0  # prompt and response tokens that went through the policy here
    padded_tokens: int = 0  # the same with padding

    def metrics(self, team: Team) -> dict[str, float]:
        """Means over all updates, of all processes together."""
        whole: dict[str, float] = defaultdict(float)
        for part in team.gather([dict(self.totals)]):
            for name, total in part.items():
                whole[name] += total
        num_updates = max(1, self.finite.count(True))
        return {f"mappo/{name}": total / num_updates for name, total in whole.items()}

    def add(self, sums: dict[str, float], count: int) -> None:
        for name, total in sums.items():
            self.totals[name] += total / count


def update(
    config: MappoConfig,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    kl_coefficient: float,
    step: int,
    rng: np.random.Generator,
    team: Team,
) -> Outcome:
    """Improve policy and critic in place; in the critic's first warm-up steps, only the critic."""
    outcome = Outcome()
    critic_only = policy.critic is not None and step < config.critic.warmup_steps
    learned = torch.tensor([config.trained is None or turn.agent in config.trained for turn in rollout.turns])
    for _ in range(config.ppo_epochs):
        order = torch.from_numpy(rng.permutation(len(rollout.episodes)))
        for chosen in order.split(config.minibatch_episodes):
            rows = (torch.isin(rollout.episode_of, chosen) & learned).nonzero()[:, 0].tolist()
            count = sum(len(rollout.turns[i].response_ids) for i in rows)
            by_length = sorted(rows, key=lambda i: num_tokens(rollout.turns[i]))
            mine = by_length[team.rank :: team.size]  # the same work for every process
            optimizer.zero_grad()
            parts = [policy.critic.trained()] if policy.critic else []  # whose gradients are clipped together
            if not critic_only or (policy.critic and policy.critic.rides_along):
                _policy_gradients(config, policy, rollout, mine, count, kl_coefficient, critic_only, team, outcome)
                parts = [policy.parameters(), *parts]
            if policy.critic and not policy.critic.rides_along:
                _critic_gradients(config, policy.critic, rollout, mine, count, team, outcome)
            outcome.finite.append(_step(config, parts, optimizer, team, outcome))
    return outcome


def _policy_gradients(
    config: MappoConfig,
    policy: Policy,
    rollout: Rollout,
    rows: Sequence[int],
    count: int,
    kl_coefficient: float,
    critic_only: bool,
    team: Team,
    outcome: Outcome,
) -> None:
    """Clipped surrogate, KL and entropy terms, and the value loss of a critic that rides along."""
    clip_high = config.clip_range_high or config.clip_range
    batches = policy.batches([rollout.turns[i] for i in rows])
    for chosen, weight in team.in_step([[rows[i] for i in part] for part in batches]):
        turns = [rollout.turns[i] for i in chosen]
        old_logprobs, reference, old_values, advantages, returns = _tokens(rollout, chosen, policy.model.device)
        now = policy.evaluate(turns)
        loss, sums = policy_loss(now.logprobs, old_logprobs, advantages, config.clip_range, clip_high)
        sums |= {"policy_loss": loss.item(), "entropy": now.entropies.sum().item()}
        if config.kl_in == "loss":
            loss = loss + kl_coefficient * k3(now.logprobs - reference).sum()
        if config.entropy_coefficient > 0:
            loss = loss - config.entropy_coefficient * now.entropies.sum()
        if critic_only:
            loss = 0.0 * loss
        if now.values is not None:
            error = value_loss(now.values, old_values, returns, config.critic.clip_range)
            sums["value_loss"] = error.item()
            loss = loss + config.critic.coefficient * error
        (weight * loss / count).backward()
        if weight:
            outcome.add(sums, count)
            lengths = [num_tokens(turn) for turn in turns]
            outcome.tokens += sum(lengths)
            outcome.padded_tokens += max(lengths) * len(lengths)


def _critic_gradients(
    config: MappoConfig, critic: Critic, rollout: Rollout, rows: Sequence[int], count: int, team: Team, outcome: Outcome
) -> None:
    """The value loss of a critic that reads for itself."""

    def views(rows: Sequence[int]) -> list[View]:
        return critic.views([rollout.turns[i] for i in rows], [rollout.earlier[i] for i in rows])

    batches = batches_by_length([len(view.ids) for view in views(rows)], config.tokens_per_forward)
    for chosen, weight in team.in_step([[rows[i] for i in part] for part in batches]):
        _, _, old_values, _, returns = _tokens(rollout, chosen, rollout.values.device)
        values = critic(views(chosen))
        error = value_loss(values, old_values.to(values.device), returns.to(values.device), config.critic.clip_range)
        (weight * config.critic.coefficient * error / count).backward()
        if weight:
            outcome.add({"value_loss": error.item()}, count)


def _tokens(rollout: Rollout, rows: list[int], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Of these rows' response tokens: old log-probabilities, the reference's, old values, advantages, returns."""
    where = rollout.mask[rows] > 0
    columns = (rollout.logprobs, rollout.reference, rollout.values, rollout.advantages, rollout.returns)
    return tuple(column[rows][where].to(device) for column in columns)


def _step(
    config: MappoConfig,
    parts: list[list[torch.nn.Parameter]],
    optimizer: torch.optim.Optimizer,
    team: Team,
    outcome: Outcome,
) -> bool:
    """One step of the optimiser, unless a gradient is not finite. The parts, policy and critic, are clipped apart."""
    team.sum_gradients([p for part in parts for p in part])
    norms = [clip_gradients(part, config.max_grad_norm) for part in parts]
    finite = all(bool(torch.isfinite(norm)) for norm in norms)
    if finite:
        optimizer.step()
        outcome.totals["grad_norm"] += float(norms[0]) / team.size  # all have the same: their sum is what is logged
    return finite
