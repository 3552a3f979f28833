"""Where points are lost, with agents whose every mistake is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from evaluation.answering import answer_all
from evaluation.attribution import attribute, gold_passages, with_gold_candidates
from evaluation.scores import Attribution
from evaluation.systems import Speaker, System
from jointrag.config import AgentsConfig
from jointrag.generation import Completion, Sampling
from jointrag.jsonl import write_jsonl
from jointrag.types import Episode, Hit, Passage, Prompt, Question

NOISE = [Passage(f"n{i}", "", f"noise {i}") for i in range(4)]
FACTS = [Passage(f"f{i}", "", f"fact {i}") for i in range(5)]
CORPUS = [*FACTS, *NOISE]
TWO = AgentsConfig(num_candidates=2)
CHAIN = ("rewriter", "selector", "generator")
# what goes wrong with each question: nothing, the rewriter, the retriever, the selector, the generator
QUESTIONS = [Question(f"q{i}", f"question {i}", (f"answer {i}",), "", (f"f{i}",), (f"find {i}",)) for i in range(5)]


class Search:
    """Finds fact i for "find i", but not fact 2."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        found = []
        for query in queries:
            facts = [fact for i, fact in enumerate(FACTS) if query == f"find {i}" and i != 2]
            found.append([Hit(passage, 1.0) for passage in [*facts, *NOISE][:k]])
        return found


class Clumsy:
    """Plays every agent, and makes the mistakes of QUESTIONS; keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int, sampling: Sampling) -> list[Completion]:
        assert sampling.temperature == 0
        self.asked += [(prompt.agent, prompt.content) for prompt in prompts]
        return [Completion(self.say(prompt), (1,), (2,), (-0.5,)) for prompt in prompts]

    def say(self, prompt: Prompt) -> str:
        number = int(prompt.content.splitlines()[0].split()[-1])
        if prompt.agent == "rewriter":
            return "nonsense" if number == 1 else f"find {number}"
        position = next((i for i, line in enumerate(prompt.content.splitlines()[1:]) if f"fact {number}" in line), None)
        if prompt.agent == "selector":
            return f"Document{1 if number == 3 else position or 0}"  # fact 3 is Document0
        return f"answer {number}" if position is not None and number != 4 else "I do not know"


def losses(
    llm: Clumsy, tmp_path: Path, agents: AgentsConfig = TWO, questions: Sequence[Question] = QUESTIONS
) -> Attribution:
    system = System("mappo", "trained", "mappo", tuple(agents.chain))
    speaker = Speaker(lambda: llm)
    journal = tmp_path / "mappo.jsonl"
    answered = answer_all(system, speaker, agents, questions, Search(), batch_size=2, journal=journal)
    write_jsonl(tmp_path / "corpus.jsonl", CORPUS)
    episodes = [one.episode for one in answered]
    found = attribute(
        system,
        speaker,
        agents,
        episodes,
        gold_passages(episodes, tmp_path / "corpus.jsonl"),
        Search(),
        batch_size=2,
        journals=tmp_path,
        num_resamples=200,
        seed=0,
    )
    assert found is not None
    return found


def test_a_fifth_is_lost_at_each_agent(tmp_path: Path) -> None:
    llm = Clumsy()
    found = losses(llm, tmp_path)
    assert found.num_questions == 5
    assert [(s.agent, s.replaced) for s in found.steps] == [
        ("", ()),
        ("rewriter", ("rewriter",)),
        ("retriever", ("rewriter", "retriever")),
        ("selector", ("rewriter", "retriever", "selector")),
        ("generator", ("rewriter", "retriever", "selector", "generator")),
    ]
    assert [s.em for s in found.steps] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [s.delta for s in found.steps] == pytest.approx(
        [0.0] + [found.steps[i + 1].f1 - found.steps[i].f1 for i in range(4)]
    )
    assert sum(s.delta for s in found.steps[1:]) == pytest.approx(1 - found.steps[0].f1)
    assert all(s.low <= s.delta <= s.high for s in found.steps)
    # gold candidates alone mend both what the rewriter and what the retriever lost
    assert [s.alone and s.alone > 0 for s in found.steps] == [None, True, True, True, None]
    by_itself = {s.agent: s.alone or 0 for s in found.steps}
    assert by_itself["retriever"] == pytest.approx(by_itself["rewriter"] * 2)


def test_nobody_is_asked_the_same_twice(tmp_path: Path) -> None:
    llm = Clumsy()
    losses(llm, tmp_path)
    assert len(llm.asked) == len(set(llm.asked))
    assert sum(agent == "rewriter" for agent, _ in llm.asked) == 5, "its output is kept or replaced, never made again"
    num_asked = len(llm.asked)
    losses(llm, tmp_path)
    assert len(llm.asked) == num_asked, "what is in the journals is not asked again"


def test_only_what_there_is_gold_for(tmp_path: Path) -> None:
    bare = [Question(q.id, q.text, q.answers, "", q.gold_passages) for q in QUESTIONS]
    without_sub_questions = losses(Clumsy(), tmp_path / "a", questions=bare)
    assert [s.agent for s in without_sub_questions.steps] == ["", "retriever", "selector", "generator"]
    no_selector = losses(Clumsy(), tmp_path / "b", AgentsConfig(num_candidates=2, chain=("rewriter", "generator")))
    assert [s.agent for s in no_selector.steps] == ["", "rewriter", "retriever", "generator"]
    mixed = [*QUESTIONS[:2], Question("q9", "question 9", ("x",))]
    assert losses(Clumsy(), tmp_path / "c", questions=mixed).num_questions == 2


def test_all_is_lost_at_a_retriever_that_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Search, "search", lambda self, queries, k: [[] for _ in queries])
    alone = losses(Clumsy(), tmp_path, AgentsConfig(num_candidates=2, chain=("generator",)))
    assert [(s.agent, round(s.delta, 3)) for s in alone.steps] == [("", 0), ("retriever", 0.8), ("generator", 0.2)]


def test_gold_among_the_candidates() -> None:
    gold = Question("q", "?", ("x",), gold_passages=("f0", "f1"))
    known = {passage.id: passage for passage in CORPUS}

    def ids(candidates: list[Passage], room: int) -> list[str]:
        episode = Episode(gold, candidates=tuple(candidates))
        return [passage.id for passage in with_gold_candidates(episode, known, room).candidates]

    assert ids([NOISE[0], NOISE[1], NOISE[2]], 3) == ["n0", "f1", "f0"]
    assert ids([NOISE[0], FACTS[1], NOISE[2]], 3) == ["n0", "f1", "f0"]
    assert ids([NOISE[0]], 3) == ["n0", "f0", "f1"]
    assert ids([NOISE[0]], 1) == ["f0"], "no room for both"


def test_gold_that_is_nowhere_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", CORPUS)
    lost = Episode(Question("q", "?", ("x",), gold_passages=("gone", "f1")))
    assert gold_passages([lost], tmp_path / "corpus.jsonl") == {"f1": FACTS[1]}
    assert "1 gold passages are not in the corpus, gone for one" in caplog.text
