"""The loop that ours is measured against: it computes the same things, and does the same amount of work."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch

from benchmarks.loops import Loop, OurLoop, in_turn
from benchmarks.reference_loop import ReferenceLoop, Turns
from benchmarks.workload import WordMatchRetriever, make_world
from jointrag.config import MappoConfig
from jointrag.generation import Sampling
from jointrag.pipeline import answer
from jointrag.types import Turn
from tests.tiny import QUESTIONS, FixedRetriever, chain, tiny_lm

CONFIG = MappoConfig(
    advantage="gae",
    rollouts_per_question=1,
    questions_per_step=5,
    minibatch_episodes=4,
    learning_rate=1e-3,
    dev_every=0,
)


def reference_loop(config: MappoConfig = CONFIG) -> ReferenceLoop:
    lm = tiny_lm()
    return ReferenceLoop(config, chain(), lm.model, lm.tokenizer, QUESTIONS, FixedRetriever(), seed=0)


def padded(turns: Sequence[Turn], pad: int) -> Turns:
    """As generate would have left them."""
    prompt, response = max(len(t.prompt_ids) for t in turns), max(len(t.response_ids) for t in turns)
    ids, attention, mask = [], [], []
    for turn in turns:
        left, right = prompt - len(turn.prompt_ids), response - len(turn.response_ids)
        ids.append([pad] * left + [*turn.prompt_ids, *turn.response_ids] + [pad] * right)
        attention.append([0] * left + [1] * (len(ids[-1]) - left - right) + [0] * right)
        mask.append([1.0] * len(turn.response_ids) + [0.0] * right)
    return Turns(torch.tensor(ids), torch.tensor(attention), torch.tensor(mask), torch.zeros(len(turns)))


def test_log_probabilities_of_unrestricted_turns_are_those_that_ours_sampled_with():
    """Left padding and logits at every position change nothing; policy and reference begin alike."""
    lm = tiny_lm()
    loop = ReferenceLoop(CONFIG, chain(), lm.model, lm.tokenizer, QUESTIONS, FixedRetriever(), seed=0)
    episodes = answer(QUESTIONS, chain(), FixedRetriever(), lm, Sampling(1.0, torch.Generator().manual_seed(0)))
    for agent in ("rewriter", "generator"):
        turns = [turn for episode in episodes for turn in episode.turns if turn.agent == agent]
        assert len({len(turn.prompt_ids) + len(turn.response_ids) for turn in turns}) > 1, "nothing to pad"
        for model in (loop.model, loop.reference):
            with torch.no_grad():
                logprobs, _, entropies = loop.forward(model, batch := padded(turns, lm.end))
            sampled = torch.tensor([logprob for turn in turns for logprob in turn.logprobs])
            torch.testing.assert_close(logprobs[batch.mask > 0], sampled, atol=1e-4, rtol=0)
            assert (entropies[batch.mask > 0] > 0).all()


def test_the_selector_keeps_to_the_list_and_responses_end_where_their_mask_does():
    loop = reference_loop()
    torch.manual_seed(0)
    for _ in range(5):
        episodes, (_, selector, generator) = loop.rollout(QUESTIONS[:4])
        assert (selector.penalties == 0).all()
        assert all(len(set(e.selected or ())) == len(e.selected or ()) for e in episodes)
        for turns in (selector, generator):
            spoken = turns.ids[:, -turns.mask.shape[1] :]
            end = loop.tokenizer.eos_token_id
            for row, mask in zip(spoken.tolist(), turns.mask.tolist(), strict=True):
                length = row.index(end) + 1 if end in row else len(row)
                assert mask == [1.0] * length + [0.0] * (len(row) - length)


def test_it_moves_the_policy_and_not_the_reference():
    loop = reference_loop()
    before = copy.deepcopy(loop.model.state_dict())
    loop.step()
    assert any(not torch.equal(before[name], weight) for name, weight in loop.model.state_dict().items())
    assert all(torch.equal(before[name], weight) for name, weight in loop.reference.state_dict().items())


def test_gae_by_hand():
    """gamma 1, lambda 0.95, one row of two tokens and one of one; the second row's padding is 0."""
    advantages, returns = reference_loop()._gae(
        torch.tensor([[0.0, 1.0], [0.5, 0.0]]), torch.tensor([[0.2, 0.4], [0.1, 0.0]]), torch.tensor([[1.0, 1], [1, 0]])
    )
    raw = torch.tensor([0.2 + 0.95 * 0.6, 0.6, 0.4])  # deltas: 0.4 - 0.2, 1 - 0.4, 0.5 - 0.1
    torch.testing.assert_close(returns, torch.tensor([[0.97, 1.0], [0.5, 0.0]]))
    white = (raw - raw.mean()) / raw.std(correction=0)
    torch.testing.assert_close(advantages, torch.tensor([[white[0], white[1]], [white[2], 0.0]]))


def test_both_sides_do_the_same_work():
    """As many episodes and turns, prompts of the same questions; a minibatch that is not full is no reason to drop."""
    lm = tiny_lm()
    model = copy.deepcopy(lm.model)
    ours = OurLoop(CONFIG, chain(), lm.model, lm.tokenizer, QUESTIONS, FixedRetriever(), seed=0, max_length=256)
    theirs = ReferenceLoop(CONFIG, chain(), model, lm.tokenizer, QUESTIONS, FixedRetriever(), seed=0)
    sides: list[Loop] = [ours, theirs]
    for timing in in_turn([lambda: [ours.step()], lambda: [theirs.step()]], rounds=2):
        assert len(timing.steps) == 2
        for step in timing.steps:
            assert step.num_episodes == 5 and len(step.lengths) == 15
            assert step.seconds >= 0.99 * (step.rollout_s + step.reference_s + step.update_s) > 0
            assert all(prompt > 1 and 1 <= response <= 8 for prompt, response in step.lengths)
    rewriter_prompts = [sorted(step.lengths)[:5] for loop in sides for step in [loop.step()]]
    assert [p for p, _ in rewriter_prompts[0]] == [p for p, _ in rewriter_prompts[1]]


@pytest.mark.parametrize("passage_words", [0, 60])
def test_the_retriever_finds_what_a_question_names(passage_words):
    world = make_world(num_questions=40, passage_words=passage_words)
    assert len(world.questions) == 40 == len({question.id for question in world.questions})
    assert all(len(passage.text.split()) >= passage_words for passage in world.passages)
    hits = WordMatchRetriever(world.passages).search([q.text for q in world.questions], k=5)
    assert all(len(found) == 5 and found[0].score >= found[-1].score for found in hits)
    asked = zip(world.questions, hits, strict=True)
    answered = sum(any(question.answers[0] in hit.passage.text for hit in found) for question, found in asked)
    assert answered > 20
