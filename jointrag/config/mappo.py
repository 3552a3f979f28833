"""Stage 7: joint training."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from jointrag.config.base import AgentName, Section, Share

NonNegative = Annotated[float, Field(ge=0)]
RewardName = str  # f1, em, accuracy, or package.module:function


class SamplingConfig(Section):
    """How an agent's tokens are drawn in training; evaluation is greedy."""

    temperature: PositiveFloat = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the most likely tokens that together reach this probability; 1: all."""
    top_k: PositiveInt | None = None
    """Only this many most likely tokens; null: all."""


class CriticConfig(Section):
    """What tells advantage: gae what to expect."""

    model: Literal["trunk", "separate"] = "trunk"
    """trunk: a linear head on the policy's hidden states, which it does not move. separate: a copy of the warm start of
    its own, trained whole."""
    view: Literal["local", "central"] = "local"
    """local: the prompt and response of the agent's own turn. central: the whole episode so far, question first."""
    learning_rate: PositiveFloat = 1e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """First steps that train the critic alone."""
    clip_range: PositiveFloat | None = 0.2
    coefficient: PositiveFloat = 0.5
    """Weight of the value loss."""


class WatchdogConfig(Section):
    """What may not happen for long. Every limit looks at the mean over `window` steps; null switches one off."""

    action: Literal["warn", "stop", "roll_back"] = "warn"
    """After a warning that stays true for another window: nothing more, end the training with the best checkpoint as
    its result, or go back to the best checkpoint and on from there with half the learning rate."""
    window: PositiveInt = 10
    max_kl: PositiveFloat | None = 20.0
    """KL to the warm start, in nats per response."""
    min_entropy: PositiveFloat | None = 0.005
    """Entropy of the policy, in nats per token."""
    max_penalised: Share | None = 0.5
    """Share of malformed responses, of any one agent."""
    max_reward_drop: NonNegative | None = 0.05
    """How far the reward may fall below the first window's."""
    max_roll_backs: PositiveInt = 3
    """Then the training ends."""


class MappoConfig(Section):
    """Stage 7: joint training of the agents by PPO with a shared reward."""

    num_steps: PositiveInt = 200
    """Iterations of rollout and update."""
    questions_per_step: PositiveInt = 16
    rollouts_per_question: PositiveInt = 4
    """Episodes sampled of each question; rloo and group compare them with each other and need at least 2."""
    advantage: Literal["rloo", "group", "gae"] = "rloo"
    """rloo, group: the other rollouts of the question say what to expect, without a critic. gae: a critic does, and one
    rollout of four times as many questions is the better use of the same episodes."""
    whiten: Literal["agent", "all", "no"] = "agent"
    """Advantages to mean 0 and deviation 1: over each agent's tokens, over all tokens, or not at all."""
    trained: tuple[AgentName, ...] | None = None
    """The agents whose turns are learned from; the others only act. null: all of the chain."""
    minibatch_episodes: PositiveInt = 32
    ppo_epochs: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-5
    final_learning_rate_ratio: Share = 0.1
    """The rate decays linearly to this share of itself."""
    clip_range: PositiveFloat = 0.2
    clip_range_high: PositiveFloat | None = None
    """The upper side of the clip range, where it is to be another one."""
    gamma: Share = 1.0
    gae_lambda: Share = 0.95
    critic: CriticConfig = CriticConfig()
    kl_coefficient: NonNegative = 0.05
    """Weight of the KL to the warm start in the reward: where the adaptive coefficient starts."""
    kl_in: Literal["reward", "loss"] = "reward"
    """reward: charged token by token before advantages are estimated. loss: the k3 estimator beside the policy loss."""
    kl_target: PositiveFloat | None = 1.0
    """KL per response, in nats, that the coefficient is steered towards; null: it stays as it is."""
    kl_floor: NonNegative = 0.01
    """The adaptive coefficient never falls below this."""
    reward: RewardName | dict[RewardName, float] = "f1"
    """f1, em, accuracy, a function of your own as package.module:function (an Episode in, a number out), or several
    with their weights: {f1: 0.5, em: 0.5}."""
    shaping_coefficient: NonNegative = 0.0
    """Weight of potential-based shaping: an agent also gets what its turn changed about the gold answer's
    likelihood."""
    entropy_coefficient: NonNegative = 0.0
    sampling: SamplingConfig = SamplingConfig()
    sampling_of: dict[AgentName, SamplingConfig] = Field(default_factory=dict)
    """For agents that are to be sampled in another way."""
    max_grad_norm: PositiveFloat = 1.0
    checkpoint_every: PositiveInt = 20
    dev_every: Annotated[int, Field(ge=0)] = 50
    """Greedy score on the dev questions every so many steps, and at the end; 0: never."""
    num_dev_questions: PositiveInt = 200
    keep: Literal["best", "last"] = "best"
    """Which weights later stages get: the best on dev (the latest within a standard error of the best score), or the
    last. Without dev scores: the last."""
    samples_every: Annotated[int, Field(ge=0)] = 25
    """A table of sampled episodes for people to read, every so many steps; 0: never."""
    watchdog: WatchdogConfig = WatchdogConfig()
    tokens_per_forward: PositiveInt = 4096
    """Most tokens (padding included) in one forward pass."""
    gradient_checkpointing: bool = False
    """Less memory in the update for a third more time."""

    @field_validator("reward")
    @classmethod
    def _rewards_are_known(cls, reward: str | dict[str, float]) -> str | dict[str, float]:
        for name in [reward] if isinstance(reward, str) else reward:
            if name not in ("f1", "em", "accuracy") and not re.fullmatch(r"[\w.]+:\w+", name):
                raise ValueError(f"unknown reward {name!r}: f1, em, accuracy, or a function as package.module:function")
        if not reward:
            raise ValueError("reward names nothing to reward: f1, em, accuracy, or package.module:function")
        return reward

    @model_validator(mode="after")
    def _batches_fit(self) -> MappoConfig:
        num_episodes = self.questions_per_step * self.rollouts_per_question
        if self.minibatch_episodes > num_episodes:
            raise ValueError(f"minibatch_episodes={self.minibatch_episodes} is more than the {num_episodes} of a step")
        if self.advantage != "gae" and self.rollouts_per_question < 2:
            raise ValueError(f"advantage={self.advantage} compares rollouts: set rollouts_per_question to 2 or more")
        if self.watchdog.action == "roll_back" and self.dev_every == 0:
            raise ValueError("watchdog.action=roll_back goes back to the best step on dev: set dev_every above 0")
        if self.kl_target is not None and self.kl_coefficient < self.kl_floor:
            raise ValueError(f"kl_coefficient={self.kl_coefficient} starts below kl_floor={self.kl_floor}")
        return self
