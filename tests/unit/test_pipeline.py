"""The chain step by step, with a language model that says what it is told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from jointrag.agents import build_chain
from jointrag.generation import GREEDY, Completion, Sampling
from jointrag.pipeline import answer, answering
from jointrag.types import Hit, Prompt
from tests.tiny import AGENTS, PASSAGES, QUESTIONS, FixedRetriever

SAID = {"rewriter": "Where is Anna ?\nWhere is Ben ?", "selector": "Document1", "generator": "Oslo"}


class Script:
    """Says the same for every prompt of an agent."""

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int, sampling: Sampling) -> list[Completion]:
        return [Completion(SAID[prompt.agent]) for prompt in prompts]


class CountingRetriever(FixedRetriever):
    def __init__(self) -> None:
        self.requests: list[list[str]] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.requests.append(list(queries))
        return super().search(queries, k)


def steps(*agents: str, retriever: FixedRetriever | None = None):
    chain = build_chain(AGENTS.model_copy(update={"chain": agents}))
    return answering(QUESTIONS[:2], chain, retriever or FixedRetriever(), Script(), GREEDY)


def test_the_episodes_after_each_agent() -> None:
    rewritten, selected, answered = steps("rewriter", "selector", "generator")
    for number, episodes in enumerate((rewritten, selected, answered), 1):
        assert [episode.question for episode in episodes] == QUESTIONS[:2]
        assert [len(episode.turns) for episode in episodes] == [number, number]
    assert rewritten[0].sub_questions == ("Where is Anna ?", "Where is Ben ?")
    # what the sub-questions found belongs to the rewriter's part
    assert rewritten[0].candidates == selected[0].candidates != ()
    assert (rewritten[0].selected, selected[0].selected) == (None, (1,))
    assert (selected[0].answer, answered[0].answer) == ("", "Oslo")


@pytest.mark.parametrize("agents", [("selector", "generator"), ("generator",)])
def test_without_a_rewriter_the_question_is_searched_for(agents: tuple[str, ...]) -> None:
    retriever = CountingRetriever()
    found = list(steps(*agents, retriever=retriever))
    assert len(found) == len(agents)
    assert retriever.requests == [[question.text for question in QUESTIONS[:2]]]
    assert PASSAGES[0] in found[0][0].candidates


def test_nothing_is_retrieved_before_it_is_asked_for() -> None:
    """The generator is lazy: a caller that stops early pays for no more."""
    retriever = CountingRetriever()
    going = steps("selector", "generator", retriever=retriever)
    assert retriever.requests == []
    next(going)
    assert len(retriever.requests) == 1


def test_answer_is_the_last_step() -> None:
    chain = build_chain(AGENTS)
    *_, last = steps("rewriter", "selector", "generator")
    assert answer(QUESTIONS[:2], chain, FixedRetriever(), Script(), GREEDY) == last
    assert answer([], chain, FixedRetriever(), Script(), GREEDY) == []
