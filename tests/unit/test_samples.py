"""The table of sampled episodes: what its cells say, and which episodes it shows."""

from __future__ import annotations

from jointrag.types import Episode, Passage, Question, Turn
from trainers.mappo.samples import MAX_CHARACTERS, sample_rows

PASSAGES = (Passage("p1", "Oslo", "A city.\nIn Norway."), Passage("p2", "", "Long. " * 200), Passage("p3", "Rome", "x"))


def episode(number: int, selected: tuple[int, ...] | None = (2, 0)) -> Episode:
    turns = (
        Turn("rewriter", "p", "Which city ?\nWhere ?", penalty=-0.5),
        Turn("selector", "p", "Document2,Document0"),
        Turn("generator", "p", "Oslo " * 100),
    )
    question = Question(f"q{number}", f"Question {number}", ("Oslo", "Christiania"))
    return Episode(question, ("Which city ?", "Where ?"), PASSAGES, selected, answer="Oslo", turns=turns)


def test_a_row() -> None:
    (row,) = sample_rows([episode(0)], [0.66666], step=25, count=8)
    first, second, third = row.pop("passages").splitlines()
    assert first == "✓ [p1] Oslo: A city. In Norway."
    assert second.startswith("– [p2] Long. Long.") and second.endswith("…")
    assert len(second) <= MAX_CHARACTERS + len("– [p2] ")
    assert third == "✓ [p3] Rome: x"
    assert len(row["generator wrote"]) <= MAX_CHARACTERS and row.pop("generator wrote").endswith("…")
    assert row == {
        "step": 25,
        "question": "Question 0",
        "gold": "Oslo | Christiania",
        "answer": "Oslo",
        "reward": 0.6667,
        "sub-questions": "Which city ?\nWhere ?",
        "chosen": "p3, p1",  # in the order written
        "rewriter wrote": "Which city ? Where ?",
        "rewriter penalty": -0.5,
        "selector wrote": "Document2,Document0",
        "selector penalty": 0.0,
        "generator penalty": 0.0,
    }


def test_without_a_selector_everything_is_read() -> None:
    (row,) = sample_rows([episode(0, selected=None)], [1.0], step=1, count=1)
    assert row["chosen"] == "p1, p2, p3"
    assert "–" not in row["passages"]


def test_rows_are_of_different_questions() -> None:
    episodes = [episode(number) for number in range(6) for _ in range(4)]  # four rollouts of each
    rows = sample_rows(episodes, [float(i) for i in range(24)], step=1, count=6)
    assert [row["question"] for row in rows] == [f"Question {number}" for number in range(6)]
    assert [row["reward"] for row in rows] == [0.0, 4.0, 8.0, 12.0, 16.0, 20.0]
    assert len(sample_rows(episodes, [0.0] * 24, step=1, count=100)) == 24
    assert sample_rows([], [], step=1, count=8) == []
