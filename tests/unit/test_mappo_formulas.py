"""Every formula of MAPPO against values worked out by hand or by another route."""

import math

import pytest
import torch

from jointrag.types import Episode, Question
from trainers.mappo.advantages import gae, group, rloo, whiten
from trainers.mappo.losses import adapt_kl_coefficient, k1, k3, policy_loss, value_loss
from trainers.mappo.rewards import answer_rewards, token_rewards
from trainers.mappo.rollouts import questions_of_step


def test_gae_by_hand():
    # one turn of two tokens: d1 = 1 - .25 = .75; d0 = 0 + .9 * .25 - .5 = -.275; A0 = -.275 + .9 * .8 * .75 = .265
    rewards, values = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.25]])
    advantages, returns = gae(rewards, values, torch.ones(1, 2), gamma=0.9, lam=0.8)
    assert advantages[0].tolist() == pytest.approx([0.265, 0.75])
    assert returns[0].tolist() == pytest.approx([0.765, 1.0])


def test_gae_ignores_padding():
    rewards, values = torch.tensor([[1.0, 99.0]]), torch.tensor([[0.0, 99.0]])
    advantages, returns = gae(rewards, values, torch.tensor([[1.0, 0.0]]), gamma=1.0, lam=1.0)
    assert advantages.tolist() == [[1.0, 0.0]]
    assert returns.tolist() == [[1.0, 0.0]]


def test_gae_with_lambda_one_is_reward_to_go_minus_value():
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(5, 7, generator=generator), torch.randn(5, 7, generator=generator)
    advantages, _ = gae(rewards, values, torch.ones(5, 7), gamma=1.0, lam=1.0)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(advantages, to_go - values)


def test_group_advantages_by_hand():
    scores, groups = torch.tensor([1.0, 5.0, 3.0, 5.0, 7.0]), torch.tensor([0, 1, 0, 1, 2])
    half = 1 / math.sqrt(2)
    assert group(scores, groups).tolist() == pytest.approx([-half, 0.0, half, 0.0, 0.0], abs=1e-5)


def test_rloo_is_the_score_minus_the_mean_of_the_others():
    scores, groups = torch.tensor([1.0, 4.0, 7.0, 9.0]), torch.tensor([0, 0, 0, 1])
    assert rloo(scores, groups).tolist() == pytest.approx([1 - 5.5, 4 - 4.0, 7 - 2.5, 0.0])


def test_whiten_is_per_group_and_leaves_padding_alone():
    advantages = torch.tensor([[1.0, 3.0], [10.0, 7.0], [30.0, 7.0]])
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    whitened = whiten(advantages, mask, torch.tensor([0, 1, 1]))
    half = 1 / math.sqrt(2)  # both groups: two values, one below and one above the mean
    assert whitened[0].tolist() == pytest.approx([-half, half])
    assert whitened[1:, 0].tolist() == pytest.approx([-half, half])
    assert whitened[1:, 1].tolist() == [0.0, 0.0]


def test_whiten_of_a_single_token_is_zero():
    assert whiten(torch.tensor([[5.0]]), torch.ones(1, 1), torch.tensor([0])).tolist() == [[0.0]]


def test_token_rewards_charge_kl_and_pay_at_the_last_token():
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    log_ratios = torch.tensor([[0.1, 0.2, 9.0], [0.0, 0.0, -0.5]])
    rewards = token_rewards(torch.tensor([1.0, -0.5]), log_ratios, mask, kl_coefficient=0.1)
    assert rewards[0].tolist() == pytest.approx([-0.01, 0.98, 0.0])
    assert rewards[1].tolist() == pytest.approx([0.0, 0.0, -0.45])


def test_policy_loss_by_hand():
    ratios = torch.tensor([1.5, 0.5, 1.1])
    loss, metrics = policy_loss(ratios.log(), torch.zeros(3), torch.tensor([1.0, -1.0, 2.0]), 0.2, 0.2)
    # min(1.5, 1.2) = 1.2; min(-.5, -.8) = -.8; 2 * 1.1 = 2.2
    assert loss.item() == pytest.approx(-(1.2 - 0.8 + 2.2))
    assert metrics["clipped_share"] == 2


def test_the_upper_side_of_the_clip_range_is_its_own():
    loss, metrics = policy_loss(torch.tensor([1.5]).log(), torch.zeros(1), torch.ones(1), clip_low=0.2, clip_high=0.4)
    assert loss.item() == pytest.approx(-1.4)
    assert metrics["clipped_share"] == 1


def test_policy_gradient_stops_where_clipping_binds():
    logprobs = torch.tensor([0.5, 0.0], requires_grad=True)
    policy_loss(logprobs, torch.zeros(2), torch.tensor([1.0, 1.0]), 0.2, 0.2)[0].backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.0, -1.0])


def test_value_loss_takes_the_worse_of_free_and_clipped():
    values, old, returns = torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([1.0])
    assert value_loss(values, old, returns, clip_range=None).item() == 0.0
    assert value_loss(values, old, returns, clip_range=0.2).item() == pytest.approx(0.5 * 0.8**2)


def test_kl_estimators_agree_with_the_exact_kl():
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.3, 0.2])
    log_ratios = (p / q).log()
    exact = (p * log_ratios).sum()
    torch.testing.assert_close((p * k1(log_ratios)).sum(), exact)
    torch.testing.assert_close((p * k3(log_ratios)).sum(), exact)
    assert (k3(log_ratios) >= 0).all()


@pytest.mark.parametrize(("kl", "expected"), [(0.1, 0.1), (0.11, 0.1 * 1.001), (9.0, 0.1 * 1.002), (0.0, 0.1 * 0.998)])
def test_kl_coefficient_follows_the_target(kl, expected):
    assert adapt_kl_coefficient(0.1, kl, target=0.1, floor=0.0, num_samples=100) == pytest.approx(expected)


def test_kl_coefficient_has_a_floor():
    assert adapt_kl_coefficient(0.05, 0.0, target=1.0, floor=0.05, num_samples=5_000) == 0.05


def test_the_best_of_several_gold_answers_counts():
    episode = Episode(Question("q", "?", ("New York City", "NYC")), answer="nyc")
    assert answer_rewards([episode], "f1") == [1.0]


def test_rewards_can_be_weighted_sums():
    episode = Episode(Question("q", "?", ("Anna Berg",)), answer="Anna")
    f1 = 2 / 3  # one of two words, precision 1
    assert answer_rewards([episode], {"f1": 0.5, "em": 0.5}) == pytest.approx([0.5 * f1])


def test_every_question_is_asked_once_per_epoch():
    questions = [Question(str(i), "?", ("a",)) for i in range(10)]
    asked = [q.id for step in range(10) for q in questions_of_step(questions, step, 4, seed=1)]
    for epoch in range(4):  # 40 questions asked: the last, incomplete batch of an epoch is filled from the next
        assert sorted(asked[10 * epoch : 10 * epoch + 10]) == sorted(q.id for q in questions)
    assert asked[:10] != asked[10:20]
    assert [q.id for q in questions_of_step(questions, 7, 4, seed=1)] == asked[28:32]
