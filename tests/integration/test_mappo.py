"""The policy trained is the policy sampled: with every way of sampling, every kind of adapter, every kind of critic."""

import pytest
import torch

from jointrag.adapters import with_adapters
from jointrag.config import CriticConfig, Lora, MappoConfig, SamplingConfig
from jointrag.generation import LocalLM
from jointrag.pipeline import answer
from tests.tiny import AGENTS, QUESTIONS, FixedRetriever, chain, tiny_lm
from trainers.mappo import policy as policy_module
from trainers.mappo.loop import run
from trainers.mappo.policy import Policy
from trainers.mappo.rollouts import earlier_turns

CONFIG = MappoConfig(
    advantage="gae",
    rollouts_per_question=1,
    num_steps=4,
    questions_per_step=10,
    minibatch_episodes=5,
    learning_rate=1e-3,
    dev_every=0,
)


def with_settings(**settings) -> MappoConfig:
    return MappoConfig.model_validate(CONFIG.model_dump() | settings)


def sample(policy: Policy):
    return answer(
        QUESTIONS * 4, chain(), FixedRetriever(), policy.lm, policy.sampling(torch.Generator().manual_seed(0))
    )


def turns_of(episodes):
    return [turn for episode in episodes for turn in episode.turns]


def adapted(lora: Lora, names) -> LocalLM:
    """Adapters that already differ from each other and from nothing, as after some training."""
    lm = tiny_lm()
    model = with_adapters(lm.model, lora, names)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return LocalLM(model, lm.tokenizer, lm.max_length)


def logprobs_now(policy: Policy, turns):
    """Of every turn's tokens, in the order of the turns."""
    found = [torch.empty(0)] * len(turns)
    with torch.no_grad():
        for batch in policy.batches(turns):
            pieces = policy.evaluate([turns[i] for i in batch]).logprobs
            for i, piece in zip(batch, pieces.split([len(turns[i].response_ids) for i in batch]), strict=True):
                found[i] = piece
    return torch.cat(found)


SAMPLINGS = {
    "plain": {},
    "colder": {"sampling": SamplingConfig(temperature=0.7)},
    "top-p": {"sampling": SamplingConfig(top_p=0.8)},
    "top-k, hotter": {"sampling": SamplingConfig(top_k=5, temperature=1.5)},
    "each its own": {
        "sampling_of": {"selector": SamplingConfig(top_p=0.5), "generator": SamplingConfig(temperature=0.5, top_k=3)}
    },
}
MODELS = {
    "all weights": tiny_lm,
    "one adapter": lambda: adapted(Lora(r=4), ["default"]),
    "an adapter each": lambda: adapted(Lora(r=4), AGENTS.chain),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("how", SAMPLINGS)
def test_importance_ratio_is_one_on_fresh_episodes(model, how):
    policy = Policy(MODELS[model](), with_settings(**SAMPLINGS[how]))
    turns = turns_of(sample(policy))
    assert {turn.agent for turn in turns} == set(AGENTS.chain)
    sampled = torch.tensor([logprob for turn in turns for logprob in turn.logprobs])
    assert (logprobs_now(policy, turns) - sampled).abs().max() <= 1e-4


def test_the_reference_is_the_policy_until_that_is_trained():
    policy = Policy(tiny_lm(), CONFIG)
    turns = turns_of(sample(policy))
    assert torch.equal(torch.cat(policy.reference_logprobs(turns)), logprobs_now(policy, turns))


@pytest.mark.parametrize("model", MODELS)
def test_the_reference_does_not_move_with_the_policy(tmp_path, model):
    policy = Policy(MODELS[model](), CONFIG)
    turns = turns_of(sample(policy))
    reference, before = torch.cat(policy.reference_logprobs(turns)), logprobs_now(policy, turns)
    run(CONFIG, chain(), policy, QUESTIONS, [], FixedRetriever(), seed=0, out=tmp_path)
    torch.testing.assert_close(torch.cat(policy.reference_logprobs(turns)), reference)
    assert (logprobs_now(policy, turns) - before).abs().max() > 1e-3


def test_adapters_need_no_second_copy_of_the_weights():
    policy = Policy(MODELS["an adapter each"](), with_settings(critic=CriticConfig(model="separate")))
    assert policy._reference is policy.model
    assert policy.critic and policy.critic.own is None


def test_only_the_trained_agents_are_learned_from(tmp_path):
    """Of adapters that belong to one agent each, only the trained agents' move."""
    policy = Policy(MODELS["an adapter each"](), with_settings(trained=("rewriter", "generator")))
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters() if "lora_B" in name}
    run(policy.config, chain(), policy, QUESTIONS, [], FixedRetriever(), seed=0, out=tmp_path)
    moved = {
        name.split(".")[-2]
        for name, p in policy.model.named_parameters()
        if "lora_B" in name and not torch.equal(p, before[name])
    }
    assert moved == {"rewriter", "generator"}


CRITICS = [(model, view) for model in ("trunk", "separate") for view in ("local", "central")]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", CRITICS, ids=" ".join)
def test_a_critic_learns_without_moving_the_policy(tmp_path, model, kind):
    critic = CriticConfig(model=kind[0], view=kind[1], learning_rate=2e-2, warmup_steps=12)
    settings = with_settings(critic=critic, num_steps=12, ppo_epochs=2, reward="tests.toy_reward:always_one")
    policy = Policy(MODELS[model](), settings)
    assert policy.critic
    turns = turns_of(sample(policy))
    before = logprobs_now(policy, turns)
    run(policy.config, chain(), policy, QUESTIONS, [], FixedRetriever(), seed=0, out=tmp_path)
    assert torch.equal(logprobs_now(policy, turns), before)
    episodes = sample(policy)
    values = torch.cat(policy.values(turns_of(episodes), earlier_turns(episodes)))
    assert 0.4 < values.mean() < 1.4, values  # every answer earns 1


def test_a_critic_that_rides_along_says_the_same_while_sampling_and_after():
    policy = Policy(tiny_lm(), CONFIG)
    assert policy.critic and policy.critic.rides_along
    torch.nn.init.normal_(policy.critic.head.linear.weight)
    turns = turns_of(sample(policy))
    with torch.no_grad():
        now = policy.evaluate(turns).values
    assert now is not None
    assert (now - torch.tensor([value for turn in turns for value in turn.values])).abs().max() <= 1e-4


def test_a_central_view_holds_the_whole_episode():
    policy = Policy(tiny_lm(), with_settings(critic=CriticConfig(view="central")))
    episode = sample(policy)[0]
    first, second, third = episode.turns
    assert policy.critic
    view = policy.critic.views([third], [(first, second)])[0]
    assert view.ids == sum((turn.prompt_ids + turn.response_ids for turn in episode.turns), ())
    assert view.num_values == len(third.response_ids)


@pytest.mark.parametrize("settings", [{"gradient_checkpointing": True}, {"LOGITS_AT_ONCE": 100}], ids=str)
def test_memory_is_saved_without_changing_the_gradient(monkeypatch, settings):
    """Activations or logits that are computed again in the backward pass are the same."""

    def gradients(**given):
        policy = Policy(tiny_lm(), with_settings(**given, entropy_coefficient=0.1))
        now = policy.evaluate(turns)
        (now.logprobs.sum() + now.entropies.sum()).backward()
        return [p.grad for p in policy.parameters()]

    turns = turns_of(sample(Policy(tiny_lm(), CONFIG)))
    plain = gradients()
    monkeypatch.setattr(policy_module, "LOGITS_AT_ONCE", settings.pop("LOGITS_AT_ONCE", policy_module.LOGITS_AT_ONCE))
    for saved, whole in zip(gradients(**settings), plain, strict=True):
        torch.testing.assert_close(saved, whole)
