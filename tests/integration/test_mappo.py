"""The MAPPO loop on a tiny random model: the policy trained is the policy sampled, it learns, it resumes exactly."""

import json
import shutil

import pytest
import torch

from jointrag.agents import build_chain
from jointrag.config import MappoConfig, SamplingConfig
from jointrag.generation import LocalLM, Sampling
from jointrag.pipeline import answer
from tests.tiny import AGENTS, QUESTIONS, FixedRetriever, chain, tiny_lm
from trainers.mappo.loop import run
from trainers.mappo.policy import Policy

CONFIG = MappoConfig(
    num_steps=6, questions_per_step=10, minibatch_episodes=5, learning_rate=1e-3, checkpoint_every=2, dev_every=0
)


def sample(policy: Policy, temperature: float = 1.0):
    return answer(
        QUESTIONS * 4, chain(), FixedRetriever(), policy.lm, Sampling(temperature, torch.Generator().manual_seed(0))
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_importance_ratio_is_one_on_fresh_episodes(temperature):
    """The selector's restriction and the temperature are in the log-probabilities of both sides."""
    policy = Policy(tiny_lm(), CONFIG.model_copy(update={"sampling": SamplingConfig(temperature=temperature)}))
    assert policy.critic
    torch.nn.init.normal_(policy.critic.head.linear.weight)
    turns = [turn for episode in sample(policy, temperature) for turn in episode.turns]
    assert {turn.agent for turn in turns} == {"rewriter", "selector", "generator"}
    with torch.no_grad():
        now = policy.evaluate(turns)
    sampled = torch.tensor([logprob for turn in turns for logprob in turn.logprobs])
    values = torch.tensor([value for turn in turns for value in turn.values])
    assert (now.logprobs - sampled).abs().max() <= 1e-4
    assert (now.values - values).abs().max() <= 1e-4
    reference = torch.cat(policy.reference_logprobs(turns))
    assert (reference - sampled).abs().max() <= 1e-4  # nothing is trained yet: the reference is the policy


def test_the_reference_does_not_move_with_the_policy(tmp_path):
    policy = Policy(tiny_lm(), CONFIG)
    turns = [turn for episode in sample(policy) for turn in episode.turns]
    before = torch.cat(policy.reference_logprobs(turns))
    run(CONFIG, chain(), policy, QUESTIONS, [], FixedRetriever(), seed=0, out=tmp_path)
    torch.testing.assert_close(torch.cat(policy.reference_logprobs(turns)), before)
    with torch.no_grad():
        assert (policy.evaluate(turns).logprobs - before).abs().max() > 1e-3


ESTIMATORS = {
    "gae": {},
    "group": {"advantage": "group", "rollouts_per_question": 4, "questions_per_step": 10, "kl_in": "loss"},
    "rloo": {"advantage": "rloo", "rollouts_per_question": 4, "questions_per_step": 10, "whiten": "all"},
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_training_raises_the_reward(tmp_path, estimator):
    """Answers are single words: a random model has to find out which; no constant answer gives more than 0.2."""
    generator_only = build_chain(AGENTS.model_copy(update={"chain": ("generator",)}))
    config = CONFIG.model_copy(
        update={
            "num_steps": 80,
            "questions_per_step": 40,
            "minibatch_episodes": 20,
            "learning_rate": 3e-3,
            "kl_coefficient": 0.0,
            "kl_target": None,
            **ESTIMATORS[estimator],
        }
    )
    policy = Policy(tiny_lm(), config)
    run(config, generator_only, policy, QUESTIONS, [], FixedRetriever(), seed=0, out=tmp_path)
    rewards = [json.loads(line)["mappo/reward"] for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert sum(rewards[:5]) / 5 < 0.15
    assert sum(rewards[-5:]) / 5 > 0.22, rewards


def test_kl_in_the_loss_holds_the_policy_back(tmp_path):
    """The same run with a strong and without a KL term: the strong one stays nearer to the warm start."""

    def final_kl(kl_coefficient: float) -> float:
        config = CONFIG.model_copy(update={"kl_in": "loss", "kl_coefficient": kl_coefficient, "kl_target": None})
        out = tmp_path / str(kl_coefficient)
        run(config, chain(), Policy(tiny_lm(), config), QUESTIONS, [], FixedRetriever(), seed=0, out=out)
        return json.loads((out / "history.jsonl").read_text().splitlines()[-1])["mappo/kl"]

    assert final_kl(5.0) < 0.5 * final_kl(0.0)


def test_only_the_trained_agents_are_learned_from(tmp_path, monkeypatch):
    policy = Policy(tiny_lm(), CONFIG)
    learned = []
    evaluate = policy.evaluate
    monkeypatch.setattr(policy, "evaluate", lambda turns: learned.extend(t.agent for t in turns) or evaluate(turns))
    config = CONFIG.model_copy(update={"num_steps": 1, "trained": ("rewriter", "generator")})
    run(config, chain(), policy, QUESTIONS, [], FixedRetriever(), seed=0, out=tmp_path)
    assert set(learned) == {"rewriter", "generator"}


def test_an_entropy_bonus_keeps_responses_open(tmp_path):
    def final_entropy(coefficient: float) -> float:
        config = CONFIG.model_copy(update={"entropy_coefficient": coefficient, "num_steps": 10})
        out = tmp_path / str(coefficient)
        policy = Policy(tiny_lm(), config)
        run(config, chain(), policy, QUESTIONS, [], FixedRetriever(), seed=0, out=out)
        return json.loads((out / "history.jsonl").read_text().splitlines()[-1])["mappo/entropy"]

    assert final_entropy(0.5) > final_entropy(0.0)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    def trained(out, num_steps):
        policy = Policy(tiny_lm(), CONFIG)
        run(
            CONFIG.model_copy(update={"num_steps": num_steps}),
            chain(),
            policy,
            QUESTIONS,
            [],
            FixedRetriever(),
            seed=0,
            out=out,
        )
        return policy

    whole = trained(tmp_path / "whole", 6)
    interrupted = tmp_path / "interrupted"
    shutil.copytree(tmp_path / "whole", interrupted)
    (interrupted / "checkpoints" / "step-000006.pt").unlink()  # as if killed in step 5 or 6: the newest is step 4
    again = trained(interrupted, 6)
    for ours, theirs in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    rows = [
        [
            {k: v for k, v in json.loads(line).items() if not k.startswith("time/")}
            for line in (out / "history.jsonl").open()
        ]
        for out in (interrupted, tmp_path / "whole")
    ]
    assert rows[0] == rows[1]


def test_adapters_are_the_policy_and_the_base_is_the_reference(tmp_path):
    from peft import LoraConfig, get_peft_model

    lm = tiny_lm()
    adapted = get_peft_model(lm.model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))  # type: ignore[arg-type]
    policy = Policy(LocalLM(adapted, lm.tokenizer, lm.max_length), CONFIG)  # type: ignore[arg-type]
    turns = [turn for episode in sample(policy) for turn in episode.turns]
    before = torch.cat(policy.reference_logprobs(turns))
    run(CONFIG, chain(), policy, QUESTIONS, [], FixedRetriever(), seed=0, out=tmp_path)
    torch.testing.assert_close(torch.cat(policy.reference_logprobs(turns)), before)
    with torch.no_grad():
        assert (policy.evaluate(turns).logprobs - before).abs().max() > 1e-4
