"""The evaluation stage through the real chain; only the language model and the index behind it are made up."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evaluation.answers import evaluate, held_out_questions
from evaluation.costs import Usage
from evaluation.judge import Verdict
from evaluation.scores import Scores
from jointrag.config import AgentsConfig, EvaluationConfig, JudgeConfig, LanguageModelSection, ScratchLM
from jointrag.generation import Completion, Sampling, TokenCount
from jointrag.jsonl import read_jsonl, write_jsonl
from jointrag.types import Episode, Hit, Passage, Prompt, Question
from tests.answering import Asked, Said, answering

QUESTIONS = [
    Question("one", "Where is Ada?", ("Paris",), "one-hop", ("P1",)),
    Question("two", "Where is Bo?", ("New Rome",), "bridge", ("P2",)),
    Question("three", "Where is Cy?", ("Oslo",), "bridge", ("P3",)),
]
CORPUS = {q.text: Passage(f"P{i}", "", f"fact {i}") for i, q in enumerate(QUESTIONS, 1)}
NOISE = Passage("noise", "", "noise")


class FakeRetriever:
    """Finds a question's own passage, then noise."""

    def __init__(self, url: str) -> None:
        assert url == "http://retriever"

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[Hit(CORPUS[query], 1.0)] * (query in CORPUS) + [Hit(NOISE, 0.5)] for query in queries]


class FakeLM:
    """Answers "Paris" to everything, or what the passage it is given says."""

    batches: list[int] = []  # noqa: RUF012 - shared on purpose: evaluate loads the instances itself

    def __init__(self, reads: bool) -> None:
        self.reads = reads
        self.count = TokenCount()

    @classmethod
    def load(cls, path: Path, model: LanguageModelSection, device: str) -> FakeLM:
        return cls(reads=path.parent.name == "mappo")

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int, sampling: Sampling) -> list[Completion]:
        assert sampling.temperature == 0, "evaluation is greedy"
        self.batches.append(len(prompts))
        return [Completion(self.say(p), (1, 2, 3), (4, 5), (-0.1, -0.2)) for p in prompts]

    def say(self, prompt: Prompt) -> str:
        if prompt.agent == "rewriter":
            return prompt.content.splitlines()[-1]
        if prompt.agent == "selector":
            return "Document0" if self.reads else "Document7"  # there is no Document7
        if not self.reads:
            return "Paris"
        found = [q.answers[0] for i, q in enumerate(QUESTIONS, 1) if f"fact {i}" in prompt.content]
        return found[0] if found else "nothing"


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "prepared/questions/test.jsonl", QUESTIONS)
    return tmp_path / "prepared"


@pytest.fixture
def systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setattr("jointrag.generation.LocalLM", FakeLM)
    monkeypatch.setattr("jointrag.retrieval.HttpRetriever", FakeRetriever)
    monkeypatch.setattr(FakeLM, "batches", [])
    names = ("mappo", "warm_start", "control")
    for name in names:
        (tmp_path / name / "model").mkdir(parents=True)
        for file in ("config.json", "tokenizer.json"):
            (tmp_path / name / "model" / file).write_text("{}")
    return {name: tmp_path / name for name in names}


def run(prepared: Path, systems: dict[str, Path], out: Path, **settings: Any) -> dict[str, float]:
    out.mkdir(exist_ok=True)
    settings = {"num_bootstrap": 500, "baselines": (), "attribution": False} | settings
    return evaluate(
        EvaluationConfig(**settings),
        AgentsConfig(num_candidates=2),
        ScratchLM(),
        prepared=prepared,
        systems=systems,
        retrieval_url="http://retriever",
        seed=0,
        out=out,
    )


def scores_but_seconds(out: Path) -> dict[str, Any]:
    scores = json.loads((out / "scores.json").read_text())
    for system in scores["systems"].values():
        for cost in (system, *system["cost"].values()):
            del cost["seconds"]
    return scores


def test_scores_predictions_and_metrics(prepared: Path, systems: dict[str, Path], tmp_path: Path) -> None:
    metrics = run(prepared, systems, tmp_path / "out", batch_size=2)
    assert metrics["eval/mappo/f1"] == metrics["eval/mappo/em"] == 1.0
    assert metrics["eval/warm_start/f1"] == pytest.approx(1 / 3)
    assert metrics["eval/delta_f1"] == pytest.approx(2 / 3)
    assert metrics["eval/delta_f1_low"] <= 2 / 3 <= metrics["eval/delta_f1_high"]
    assert metrics["eval/warm_start/retrieval_recall"] == 1.0
    assert metrics["eval/warm_start/penalised/selector"] == 1.0
    assert metrics["eval/mappo/penalised/selector"] == 0.0

    scores = Scores.read(tmp_path / "out/scores.json")
    assert list(scores.systems) == ["warm_start", "control", "mappo"]
    assert scores.types == {"bridge": 2, "one-hop": 1}
    pairs = [(c.system, c.baseline) for c in scores.comparisons if c.metric == "f1" and c.type is None]
    assert pairs == [("control", "warm_start"), ("mappo", "warm_start"), ("mappo", "control")]
    assert scores.systems["mappo"].overall.read_precision == 1.0
    assert scores.systems["warm_start"].overall.num_read == 0.0

    episodes = list(read_jsonl(tmp_path / "out/predictions/mappo.jsonl", Episode))
    assert [e.question for e in episodes] == QUESTIONS
    assert [e.answer for e in episodes] == ["Paris", "New Rome", "Oslo"]
    assert [[t.agent for t in e.turns] for e in episodes] == [["rewriter", "selector", "generator"]] * 3
    assert all(t.response and not t.prompt_ids + t.response_ids + t.logprobs for e in episodes for t in e.turns)


def test_again_gives_the_same_scores(prepared: Path, systems: dict[str, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(prepared, systems, tmp_path / name)
    assert scores_but_seconds(tmp_path / "a") == scores_but_seconds(tmp_path / "b")
    assert max(FakeLM.batches) == 3


def test_baselines_and_subsets_answer_the_same_questions(
    prepared: Path, systems: dict[str, Path], tmp_path: Path
) -> None:
    settings = {"baselines": ("no_retrieval", "plain_rag"), "baseline_model": "mappo", "attribution": True}
    run(prepared, systems, tmp_path / "out", subsets=(("selector", "generator"),), **settings)
    scores = Scores.read(tmp_path / "out/scores.json")
    assert list(scores.systems) == [
        "no_retrieval", "plain_rag", "warm_start", "control", "mappo-selector-generator", "mappo"
    ]  # fmt: skip
    assert len({(c.system, c.baseline) for c in scores.comparisons}) == 15
    predictions = {
        name: list(read_jsonl(tmp_path / f"out/predictions/{name}.jsonl", Episode)) for name in scores.systems
    }
    assert all([e.question for e in episodes] == QUESTIONS for episodes in predictions.values())
    closed_book, plain, subset = (predictions[n] for n in ("no_retrieval", "plain_rag", "mappo-selector-generator"))
    assert [e.candidates for e in closed_book] == [()] * 3
    assert [e.answer for e in closed_book] == ["nothing"] * 3, "with the weights of mappo, without passages"
    assert [[t.agent for t in e.turns] for e in plain] == [["generator"]] * 3
    assert [len(e.chosen) for e in plain] == [2] * 3, "all that the question itself finds is read"
    assert [[t.agent for t in e.turns] for e in subset] == [["selector", "generator"]] * 3

    found = scores.systems["no_retrieval"]
    assert (found.kind, found.model, found.agents) == ("no_retrieval", "mappo", ("generator",))
    assert (found.overall.retrieval_recall, found.overall.retrieval) == (None, {})
    assert "retriever" not in found.cost
    assert scores.question_retrieval["recall@2"] == 1.0
    assert scores.systems["mappo"].overall.retrieval["mrr@2"] == 1.0
    assert scores.systems["warm_start"].attribution is not None
    assert scores.systems["control"].attribution is None
    assert scores.comparison("mappo", "no_retrieval").p_value < 1  # type: ignore[union-attr, operator]


def test_costs_and_confidence(prepared: Path, systems: dict[str, Path], tmp_path: Path) -> None:
    metrics = run(prepared, systems, tmp_path / "out", batch_size=2)
    usages = list(read_jsonl(tmp_path / "out/usage/mappo.jsonl", Usage))
    assert [usage.id for usage in usages] == ["one", "two", "three"]
    assert list(usages[0].agents) == ["rewriter", "selector", "generator", "retriever"]
    selector = usages[0].agents["selector"]
    assert (selector.num_calls, selector.num_prompt_tokens, selector.num_response_tokens) == (1, 3, 2)
    assert usages[0].agents["retriever"].num_calls == 1
    assert usages[0].confidence == pytest.approx(math.exp(-0.3))
    scores = Scores.read(tmp_path / "out/scores.json")
    system = scores.systems["mappo"]
    assert system.cost["generator"].num_prompt_tokens == 3
    assert system.seconds == pytest.approx(sum(3 * cost.seconds for cost in system.cost.values()))
    assert metrics["eval/mappo/tokens"] == 15
    assert system.calibration is not None
    [only] = system.calibration.bins
    assert (only.low, only.exact, only.num_questions) == (0.7, 1.0, 3)
    assert system.calibration.error == pytest.approx(1 - math.exp(-0.3))


def test_a_judge_is_one_more_metric(prepared: Path, systems: dict[str, Path], tmp_path: Path) -> None:
    def grade(asked: Asked) -> Said:
        answer = asked.body["messages"][-1]["content"].rpartition(": ")[2]
        return Said({"choices": [{"message": {"content": "yes" if answer == "Oslo" else "no"}}]})

    with answering(grade) as url:
        judge = JudgeConfig(base_url=f"{url}/v1", name="grader")
        metrics = run(prepared, systems, tmp_path / "out", judge=judge)
    scores = Scores.read(tmp_path / "out/scores.json")
    assert scores.judge == "grader"
    assert metrics["eval/mappo/judged"] == scores.systems["mappo"].overall.judged == pytest.approx(1 / 3)
    assert scores.systems["mappo"].types["bridge"].judged == 0.5
    assert scores.comparison("mappo", "warm_start", "judged").delta == pytest.approx(1 / 3)  # type: ignore[union-attr]
    verdicts = list(read_jsonl(tmp_path / "out/judged/mappo.jsonl", Verdict))
    assert [(v.id, v.right) for v in verdicts] == [("one", False), ("two", False), ("three", True)]


def test_some_of_the_questions(prepared: Path) -> None:
    path = prepared / "questions/test.jsonl"
    chosen = held_out_questions(path, 2, seed=1)
    assert len(chosen) == 2
    assert chosen == held_out_questions(path, 2, seed=1)
    assert chosen == [question for question in QUESTIONS if question in chosen]  # in the file's order
    assert held_out_questions(path, 9, seed=1) == QUESTIONS


def test_clear_errors(prepared: Path, systems: dict[str, Path], tmp_path: Path) -> None:
    test = prepared / "questions/test.jsonl"
    model = systems["control"] / "model"
    (model / "tokenizer.json").unlink()
    with pytest.raises(
        ValueError, match=r"'control': .*model has no tokenizer .* save it .*, or train that stage again"
    ):
        run(prepared, systems, tmp_path / "out")
    (model / "config.json").unlink()
    model.rmdir()
    with pytest.raises(ValueError, match=r"'control'.*model is missing"):
        run(prepared, systems, tmp_path / "out")
    assert not FakeLM.batches, "nothing was answered before"
    write_jsonl(test, [QUESTIONS[0], Question("two", "Where?", ())])
    with pytest.raises(ValueError, match=r"test\.jsonl, line 2: question 'two' has no answers"):
        held_out_questions(test, None, 0)
    write_jsonl(test, [QUESTIONS[0], QUESTIONS[0]])
    with pytest.raises(ValueError, match=r"test\.jsonl, line 2: question id 'one' occurs twice, first in line 1"):
        held_out_questions(test, None, 0)
    write_jsonl(test, [])
    with pytest.raises(ValueError, match=r"test\.jsonl: no questions to evaluate on"):
        held_out_questions(test, None, 0)
