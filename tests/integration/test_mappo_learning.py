"""Every advantage estimator solves a toy environment whose optimum is known; the settings that steer learning do so.

The reward hangs on two agents together: the rewriter's first word and the generator's. A random model earns 0.03.
"""

import json

import pytest
import torch

from jointrag.agents import build_chain
from jointrag.config import MappoConfig, SamplingConfig
from tests.tiny import AGENTS, QUESTIONS, FixedRetriever, chain, tiny_lm
from trainers.mappo.loop import run
from trainers.mappo.policy import Policy

TOY = MappoConfig(
    advantage="gae",
    rollouts_per_question=1,
    num_steps=110,
    questions_per_step=80,
    minibatch_episodes=40,
    learning_rate=3e-3,
    kl_coefficient=0.0,
    kl_floor=0.0,
    kl_target=None,
    dev_every=0,
    reward="tests.toy_reward:two_words",
)
GROUPS = {"questions_per_step": 10, "rollouts_per_question": 8}
ESTIMATORS = {
    "gae": {"critic": {"learning_rate": 1e-2}},
    "gae, central critic of its own": {
        "critic": {"model": "separate", "view": "central", "learning_rate": 3e-3},
        "whiten": "all",
    },
    "group": {"advantage": "group", "kl_in": "loss", **GROUPS},
    "rloo": {"advantage": "rloo", "whiten": "all", **GROUPS},
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_optimum_is_found(tmp_path, estimator):
    two_agents = build_chain(AGENTS.model_copy(update={"chain": ("rewriter", "generator")}))
    config = MappoConfig.model_validate(TOY.model_dump() | ESTIMATORS[estimator])
    run(config, two_agents, Policy(tiny_lm(), config), QUESTIONS, [], FixedRetriever(), seed=0, out=tmp_path)
    rewards = [line["mappo/reward"] for line in history(tmp_path)]
    assert sum(rewards[:3]) / 3 < 0.1
    assert sum(rewards[-5:]) / 5 >= 0.95, rewards


SHORT = MappoConfig(
    advantage="gae",
    rollouts_per_question=1,
    num_steps=6,
    questions_per_step=10,
    minibatch_episodes=5,
    learning_rate=1e-3,
    dev_every=0,
)


def last_metrics(out, **settings):
    config = SHORT.model_copy(update=settings)
    run(config, chain(), Policy(tiny_lm(), config), QUESTIONS, [], FixedRetriever(), seed=0, out=out)
    return history(out)[-1]


def test_kl_in_the_loss_holds_the_policy_back(tmp_path):
    """The same run with a strong and without a KL term: the strong one stays nearer to the warm start."""
    free, held = (
        last_metrics(tmp_path / str(weight), kl_in="loss", kl_coefficient=weight, kl_target=None)
        for weight in (0.0, 5.0)
    )
    assert held["mappo/kl"] < 0.5 * free["mappo/kl"]


def test_an_entropy_bonus_opens_responses(tmp_path):
    """Where every answer earns the same, the bonus is nearly all there is to learn from."""
    even = {"reward": "tests.toy_reward:always_one", "whiten": "no", "num_steps": 15, "learning_rate": 3e-3}
    even["sampling"] = SamplingConfig(temperature=0.2)  # a random model leaves little to open otherwise
    plain, open_ = (last_metrics(tmp_path / str(w), entropy_coefficient=w, **even) for w in (0.0, 1.0))
    assert open_["mappo/entropy"] > plain["mappo/entropy"] + 0.05


def test_the_critic_warms_up_alone(tmp_path):
    config = SHORT.model_copy(update={"critic": SHORT.critic.model_copy(update={"warmup_steps": 2}), "num_steps": 2})
    policy = Policy(tiny_lm(), config)
    before = [p.detach().clone() for p in policy.parameters()]
    run(config, chain(), policy, QUESTIONS, [], FixedRetriever(), seed=0, out=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    assert policy.critic and policy.critic.head.linear.weight.abs().sum() > 0


def test_shaping_reaches_the_advantages(tmp_path):
    """What an agent's turn changed about the gold answer's likelihood is part of what it is paid."""
    plain, shaped = (last_metrics(tmp_path / str(w), shaping_coefficient=w, num_steps=1) for w in (0.0, 1.0))
    assert plain["mappo/reward"] == shaped["mappo/reward"]  # the same episodes, the same answers
    assert abs(plain["mappo/returns"] - shaped["mappo/returns"]) > 1e-3


def history(out):
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
