"""Log-probabilities of given responses against one forward pass per response; the best gold answer by hand."""

from __future__ import annotations

import pytest
import torch

from jointrag import likelihood
from jointrag.generation import GREEDY, LocalLM, TokenCount
from jointrag.likelihood import gold_answers, num_tokens, response_logprobs
from jointrag.types import Episode, Question, Turn
from tests.tiny import PASSAGES, QUESTIONS, chain, tiny_lm

GENERATOR = chain().agents[-1]


@pytest.fixture(scope="module")
def lm() -> LocalLM:
    return tiny_lm()


def turns_of(lm: LocalLM) -> list[Turn]:
    """Prompts of many lengths, with answers of one token and more."""
    questions = [Question(q.id, q.text, (*q.answers, f"in {q.answers[0]} , or so")) for q in QUESTIONS]
    episodes = [Episode(q, candidates=tuple(PASSAGES[:n])) for q in questions for n in (0, 1, 5, 2)]
    return gold_answers(episodes, GENERATOR, lm.tokenizer).turns


@torch.no_grad()
def one_by_one(lm: LocalLM, turn: Turn) -> torch.Tensor:
    logprobs = lm.model(input_ids=torch.tensor([[*turn.prompt_ids, *turn.response_ids]])).logits[0].log_softmax(-1)
    first = len(turn.prompt_ids)
    return torch.stack([logprobs[first + j - 1, token] for j, token in enumerate(turn.response_ids)])


@pytest.mark.parametrize("budget", [None, 1, 100])
def test_batches_change_nothing(lm: LocalLM, budget: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", 200)
    turns = turns_of(lm)
    found = response_logprobs(lm, turns, budget)
    for logprobs, turn in zip(found, turns, strict=True):
        torch.testing.assert_close(logprobs, one_by_one(lm, turn), atol=1e-5, rtol=0)
    assert response_logprobs(lm, []) == []


def test_it_is_what_the_model_says_when_it_speaks(lm: LocalLM) -> None:
    prompts = [GENERATOR.prompt(Episode(question, candidates=(PASSAGES[0],))) for question in QUESTIONS]
    said = lm.generate(prompts, 4, GREEDY)
    turns = [Turn("generator", "", c.text, prompt_ids=c.prompt_ids, response_ids=c.response_ids) for c in said]
    for logprobs, completion in zip(response_logprobs(lm, turns), said, strict=True):
        torch.testing.assert_close(logprobs, torch.tensor(completion.logprobs), atol=1e-5, rtol=0)


def test_each_prompt_is_read_once(lm: LocalLM) -> None:
    turns = turns_of(lm)
    lm.count = TokenCount()
    response_logprobs(lm, turns)
    prompts = {turn.prompt_ids for turn in turns}
    assert len(turns) == 2 * len(prompts)
    assert lm.count.real == sum(map(len, prompts)) + sum(len(turn.response_ids) for turn in turns)
    assert lm.count.real <= lm.count.padded <= 1.5 * lm.count.real
    lm.count = TokenCount()
    response_logprobs(lm, turns, 1)
    assert lm.count.real == lm.count.padded == sum(map(num_tokens, turns))  # one turn a pass


def test_the_best_gold_answer_by_hand(lm: LocalLM) -> None:
    one = Question("a", "Where is Anna ?", ("Oslo", "Turku", "Oslo"))
    gold = gold_answers([Episode(one), Episode(one, candidates=(PASSAGES[0],)), Episode(one)], GENERATOR, lm.tokenizer)
    assert [turn.response for turn in gold.turns] == ["Oslo", "Turku"] * 2  # each (prompt, answer) once
    best = gold.best([torch.tensor(x) for x in ([-4.0, -2.0], [-1.0, -1.5, -0.5], [-0.2, -0.4], [-9.0])])
    assert best == pytest.approx([-1.0, -0.3, -1.0])
