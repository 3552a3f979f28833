"""Shaping against numbers worked out by hand: what each turn gets, that it adds up, and what is computed for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from jointrag.generation import LocalLM, Sampling
from jointrag.pipeline import answering
from jointrag.prompts import encode_prompt, encode_response
from jointrag.types import Episode, Passage, Question, Turn
from tests.tiny import PASSAGES, QUESTIONS, FixedRetriever, chain, teach_to_read, tiny_lm
from trainers.mappo.shaping import shaping

GENERATOR = chain().agents[-1]
OSLO, TURKU = PASSAGES[0], PASSAGES[1]


class Table:
    """A policy whose reference knows the log-probabilities of (prompt, answer) from a table; counts what is asked."""

    def __init__(self, lm: LocalLM, logprobs: dict[tuple[str, str], list[float]]) -> None:
        self.lm = lm
        self.logprobs = logprobs
        self.asked: list[tuple[str, str]] = []

    def reference_logprobs(self, turns: Sequence[Turn]) -> list[torch.Tensor]:
        self.asked += [(turn.prompt, turn.response) for turn in turns]
        return [torch.tensor(self.logprobs[turn.prompt, turn.response]) for turn in turns]


class Reference:
    """The real reference log-probabilities of a model, one turn after the other."""

    def __init__(self, lm: LocalLM) -> None:
        self.lm = lm

    @torch.no_grad()
    def reference_logprobs(self, turns: Sequence[Turn]) -> list[torch.Tensor]:
        found = []
        for turn in turns:
            ids = torch.tensor([[*turn.prompt_ids, *turn.response_ids]])
            logprobs = self.lm.model(input_ids=ids).logits[0].log_softmax(-1)
            first = len(turn.prompt_ids)
            found.append(torch.stack([logprobs[first + j - 1, token] for j, token in enumerate(turn.response_ids)]))
        return found


@pytest.fixture(scope="module")
def lm() -> LocalLM:
    return tiny_lm()


def states_of(question: Question, candidates: tuple[Passage, ...], selected: tuple[int, ...]) -> list[Episode]:
    """An episode after the rewriter (with what it found), the selector and the generator."""
    turns = [Turn(name, "p", "r") for name in ("rewriter", "selector", "generator")]
    found = Episode(question, (question.text,), candidates, turns=tuple(turns[:1]))
    chosen = replace(found, selected=selected, turns=tuple(turns[:2]))
    return [found, chosen, replace(chosen, answer="Oslo", turns=tuple(turns))]


def prompt(question: Question, *passages: Passage) -> str:
    return "\n".join([question.text, *(f"Passage: {passage.contents}" for passage in passages)])


def test_by_hand(lm: LocalLM) -> None:
    first = Question("a", "Where is Anna ?", ("Oslo", "Norway"))
    second = Question("b", "Where is Ben ?", ("Turku",))
    table = Table(
        lm,
        {
            (prompt(first), "Oslo"): [-4.0, -2.0],
            (prompt(first), "Norway"): [-1.0, -3.0],  # the best gold answer: -2
            (prompt(first, TURKU, OSLO), "Oslo"): [-2.0, 0.0],  # -1
            (prompt(first, TURKU, OSLO), "Norway"): [-5.0, -5.0, -5.0],
            (prompt(first, OSLO), "Oslo"): [-0.5, -0.5],  # -0.5
            (prompt(first, OSLO), "Norway"): [-0.6, -0.6],
            (prompt(second), "Turku"): [-3.0, -3.0],
            (prompt(second, TURKU), "Turku"): [-1.0, -1.0],
        },
    )
    episodes = [states_of(first, (TURKU, OSLO), (1,)), states_of(second, (TURKU,), ())]
    states = [[episode[k] for episode in episodes] for k in range(3)]
    # rewriter: phi(found) - phi(alone); selector: phi(chosen) - phi(found); generator: 0 - phi(chosen)
    assert shaping(states, table, GENERATOR) == pytest.approx([1.0, 0.5, 0.5, 2.0, -2.0, 3.0])
    discounted = shaping(states, table, GENERATOR, gamma=0.9)
    assert discounted == pytest.approx([2 - 0.9, 1 - 0.45, 0.5, 3 - 0.9, 1 - 2.7, 3.0])


def test_states_that_read_alike_are_scored_once(lm: LocalLM) -> None:
    question = Question("a", "Where is Anna ?", ("Oslo",))
    table = Table(lm, {(prompt(question), "Oslo"): [-2.0], (prompt(question, OSLO), "Oslo"): [-1.0]})
    rollouts = [states_of(question, (OSLO,), (0,)), states_of(question, (OSLO,), ()), states_of(question, (), ())]
    gains = shaping([[rollout[k] for rollout in rollouts] for k in range(3)], table, GENERATOR)
    assert gains == pytest.approx([1.0, 0.0, 1.0, 1.0, -1.0, 2.0, 0.0, 0.0, 2.0])
    assert sorted(table.asked) == sorted(table.logprobs)  # two in all


def test_the_prompt_and_the_answer_are_the_generators_own(lm: LocalLM) -> None:
    seen: list[Turn] = []

    class Looking(Table):
        def reference_logprobs(self, turns: Sequence[Turn]) -> list[torch.Tensor]:
            seen.extend(turns)
            return [torch.zeros(1) for _ in turns]

    shaping([[episode] for episode in states_of(QUESTIONS[0], (OSLO,), (0,))], Looking(lm, {}), GENERATOR)
    alone, read = seen
    for turn, passages in ((alone, ()), (read, (OSLO,))):
        made = GENERATOR.prompt(Episode(QUESTIONS[0], candidates=passages))
        assert turn.agent == "generator" and turn.choices is None
        assert list(turn.prompt_ids) == encode_prompt(lm.tokenizer, made)
        assert list(turn.response_ids) == encode_response(lm.tokenizer, "Oslo", None)


@pytest.mark.parametrize("agents", [("rewriter", "selector", "generator"), ("selector", "generator"), ("generator",)])
def test_it_telescopes(lm: LocalLM, agents: tuple[str, ...]) -> None:
    """The sum over an episode's turns is minus the potential of the question alone: no agent can change it."""
    whole = chain()
    part = replace(whole, agents=tuple(agent for agent in whole.agents if agent.name in agents))
    sampling = Sampling(1.0, torch.Generator().manual_seed(0))
    states = list(answering(QUESTIONS * 2, part, FixedRetriever(), lm, sampling))
    policy = Reference(lm)
    gains = torch.tensor(shaping(states, policy, part.agents[-1])).view(len(states[-1]), len(agents))
    alone = [
        Turn(
            "generator",
            question.text,
            question.answers[0],
            prompt_ids=tuple(encode_prompt(lm.tokenizer, GENERATOR.prompt(Episode(question)))),
            response_ids=tuple(encode_response(lm.tokenizer, question.answers[0], None)),
        )
        for question in QUESTIONS * 2
    ]
    at_start = torch.stack([logprobs.mean() for logprobs in policy.reference_logprobs(alone)])
    torch.testing.assert_close(gains.sum(1), -at_start, atol=1e-5, rtol=0)
    if len(agents) > 1:
        assert gains.std(0).min() > 0  # the parts do differ


def test_passages_with_the_answer_are_worth_more_to_a_model_that_can_read() -> None:
    lm = tiny_lm()
    teach_to_read(lm)
    right = states_of(QUESTIONS[0], (TURKU, OSLO), (1,))
    wrong = states_of(QUESTIONS[0], (TURKU, OSLO), (0,))
    gains = shaping([[right[k], wrong[k]] for k in range(3)], Reference(lm), GENERATOR)
    _, kept_it, _, _, dropped_it, _ = gains
    assert kept_it > dropped_it + 1.0


def test_a_question_without_gold_answers(lm: LocalLM) -> None:
    states = [[episode] for episode in states_of(Question("q9", "Where ?", ()), (OSLO,), (0,))]
    with pytest.raises(ValueError, match=r"question .q9. has no gold answer.*shaping_coefficient=0"):
        shaping(states, Table(lm, {}), GENERATOR)
