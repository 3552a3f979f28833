"""Which questions come next, and the episodes the current policy makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from jointrag.agents import Chain
from jointrag.config import MappoConfig
from jointrag.types import Episode, Question, Turn
from trainers.mappo.advantages import CRITIC_FREE, gae, whiten
from trainers.mappo.policy import Policy
from trainers.mappo.rewards import token_rewards
from trainers.mappo.shaping import shaping


def questions_of_step(questions: Sequence[Question], step: int, count: int, seed: int) -> list[Question]:
    """The `count` questions of a step. Every epoch is a new order of all of them; a batch may span epochs, so none is
    ever dropped. Depends on its arguments alone: a resumed run asks what an uninterrupted one would have."""
    chosen: list[Question] = []
    while len(chosen) < count:
        epoch, position = divmod(step * count + len(chosen), len(questions))
        order = np.random.default_rng([seed, epoch]).permutation(len(questions))
        chosen += [questions[i] for i in order[position : position + count - len(chosen)]]
    return chosen


@dataclass(frozen=True)
class Scored:
    """An episode with all that is known about it before advantages are estimated. Lists run over its turns."""

    episode: Episode
    reward: float  # the shared answer reward
    reference: list[torch.Tensor]  # [response tokens] each, log-probabilities under the warm start
    values: list[torch.Tensor]  # [response tokens] each, the critic's; empty without one
    shaping: list[float]  # what the turn changed about the gold answer's likelihood; 0 without shaping


@dataclass(frozen=True)
class Rollout:
    """One step's experience. Turn i of `turns` is row i of every tensor [turns, tokens]; padding is 0."""

    episodes: tuple[Episode, ...]
    rewards: tuple[float, ...]  # the shared answer reward per episode
    turns: tuple[Turn, ...]
    earlier: tuple[tuple[Turn, ...], ...]  # per turn: those before it in its episode
    episode_of: torch.Tensor  # [turns]
    mask: torch.Tensor
    logprobs: torch.Tensor
    reference: torch.Tensor  # log-probabilities under the warm start
    values: torch.Tensor  # 0 without a critic
    advantages: torch.Tensor
    returns: torch.Tensor

    @property
    def log_ratios(self) -> torch.Tensor:
        """log(policy / reference) of every sampled token."""
        return self.logprobs - self.reference


def score(
    config: MappoConfig, states: Sequence[Sequence[Episode]], rewards: Sequence[float], policy: Policy, chain: Chain
) -> list[Scored]:
    """The finished episodes, states[-1], under reference and critic. `states`: the episodes after each agent."""
    episodes = states[-1]
    turns = [turn for episode in episodes for turn in episode.turns]
    reference = iter(policy.reference_logprobs(turns))
    values = iter(policy.values(turns, earlier_turns(episodes)))
    gains = iter(
        shaping(states, policy, chain.agents[-1], config.gamma) if config.shaping_coefficient else [0.0] * len(turns)
    )
    return [
        Scored(
            episode,
            reward,
            reference=[next(reference) for _ in episode.turns],
            values=[next(values) for _ in episode.turns] if policy.critic else [],
            shaping=[next(gains) for _ in episode.turns],
        )
        for episode, reward in zip(episodes, rewards, strict=True)
    ]


def earlier_turns(episodes: Sequence[Episode]) -> list[tuple[Turn, ...]]:
    """Per turn of all episodes: those before it in its own."""
    return [episode.turns[:i] for episode in episodes for i in range(len(episode.turns))]


def experience(config: MappoConfig, scored: Sequence[Scored], kl_coefficient: float) -> Rollout:
    """Advantages and returns of every token."""
    episodes = [one.episode for one in scored]
    turns = [turn for episode in episodes for turn in episode.turns]
    episode_of = torch.tensor([i for i, episode in enumerate(episodes) for _ in episode.turns])
    mask = _rows([[1.0] * len(turn.response_ids) for turn in turns])
    logprobs = _rows([turn.logprobs for turn in turns])
    reference = _rows([row.tolist() for one in scored for row in one.reference])
    values = _rows([row.tolist() for one in scored for row in one.values]) if scored[0].values else mask * 0
    final = torch.tensor([one.reward for one in scored])[episode_of] + torch.tensor([turn.penalty for turn in turns])
    final += config.shaping_coefficient * torch.tensor([gain for one in scored for gain in one.shaping])
    charged = kl_coefficient if config.kl_in == "reward" else 0.0
    paid = token_rewards(final, (logprobs - reference) * mask, mask, charged)
    if config.advantage == "gae":
        advantages, returns = gae(paid, values, mask, config.gamma, config.gae_lambda)
    else:
        asked = [(turn.agent, episodes[int(i)].question.id) for turn, i in zip(turns, episode_of, strict=True)]
        per_turn = CRITIC_FREE[config.advantage](paid.sum(1), _numbered(asked))
        advantages, returns = per_turn[:, None] * mask, torch.zeros_like(mask)
    if config.whiten != "no":
        agents = _numbered([turn.agent for turn in turns])
        advantages = whiten(advantages, mask, agents if config.whiten == "agent" else torch.zeros_like(agents))
    return Rollout(
        episodes=tuple(episodes),
        rewards=tuple(one.reward for one in scored),
        turns=tuple(turns),
        earlier=tuple(earlier_turns(episodes)),
        episode_of=episode_of,
        mask=mask,
        logprobs=logprobs,
        reference=reference,
        values=values,
        advantages=advantages,
        returns=returns,
    )


def summary(rollout: Rollout) -> dict[str, float]:
    """Step metrics of a rollout: reward, KL per agent's response, lengths, and each agent's penalties."""
    kl = (rollout.log_ratios * rollout.mask).sum(1)  # [turns], nats per response
    metrics = {
        "mappo/reward": float(np.mean(rollout.rewards)),
        "mappo/kl": float(kl.mean()),
    }
    if rollout.returns.any():
        metrics["mappo/returns"] = float((rollout.returns * rollout.mask).sum() / rollout.mask.sum())
        metrics["mappo/explained_variance"] = _explained_variance(rollout)
    for agent in dict.fromkeys(turn.agent for turn in rollout.turns):
        rows = [i for i, turn in enumerate(rollout.turns) if turn.agent == agent]
        metrics[f"mappo/{agent}/kl"] = float(kl[rows].mean())
        metrics[f"mappo/{agent}/response_tokens"] = float(rollout.mask[rows].sum(1).mean())
        metrics[f"mappo/{agent}/penalised"] = float(np.mean([rollout.turns[i].penalty < 0 for i in rows]))
    metrics["mappo/sub_questions"] = float(np.mean([len(e.sub_questions) for e in rollout.episodes]))
    metrics["mappo/passages_read"] = float(np.mean([len(e.passages) for e in rollout.episodes]))
    return metrics


def _explained_variance(rollout: Rollout) -> float:
    """1 - Var(return - value) / Var(return): 1 for a perfect critic, 0 for one that knows nothing."""
    where = rollout.mask > 0
    returns, values = rollout.returns[where], rollout.values[where]
    variance = returns.var()
    return float(1 - (returns - values).var() / variance) if variance > 0 else 0.0


def _numbered(labels: Sequence[object]) -> torch.Tensor:
    """Equal labels, equal numbers."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return torch.tensor([numbers[label] for label in labels])


def _rows(rows: Sequence[Sequence[float]]) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows])
