from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluation.measures import compare, compare_all, groups, measure, measure_types
from evaluation.scores import Scores, SystemScores
from jointrag.types import Episode, Passage, Question, Turn

A, B, C, D = (Passage(name, "", f"text {name}") for name in "ABCD")


def episode(number: int, answer: str, **changes: object) -> Episode:
    question = Question(f"q{number}", "Where?", ("Paris",), "bridge" if number % 2 else "one-hop", ("A", "B"))
    fields: dict[str, object] = {"sub_questions": ("Where?",), "candidates": (A, B, C, D), "selected": (0, 2)}
    turns = (Turn("selector", "p", "r", penalty=-1.0 if number == 0 else 0.0), Turn("generator", "p", "r"))
    return Episode(question, answer=answer, turns=turns, **(fields | changes))  # type: ignore[arg-type]


def test_measure_by_hand() -> None:
    found = measure(
        [
            episode(0, "Paris"),
            episode(1, "in Paris", sub_questions=("Who?", "Where?"), candidates=(A, C), selected=()),
            episode(2, "Lyon", selected=None),  # no selector: all four are read
            episode(3, "", candidates=(B,), selected=(0,)),
        ]
    )
    assert found.num_questions == 4
    assert found.f1 == pytest.approx((1 + 2 / 3 + 0 + 0) / 4)
    assert (found.em, found.accuracy) == (0.25, 0.5)
    assert found.retrieval_recall == pytest.approx((1 + 0.5 + 1 + 0.5) / 4)
    assert found.read_recall == pytest.approx((0.5 + 0 + 1 + 0.5) / 4)
    assert found.read_precision == pytest.approx((0.5 + 0.5 + 1) / 3)  # question 1 read nothing: no precision
    assert found.num_sub_questions == 1.25
    assert found.num_candidates == 11 / 4
    assert found.num_read == (2 + 0 + 4 + 1) / 4
    assert found.num_answer_words == 1.0
    assert found.penalised == {"selector": 0.25, "generator": 0.0}


def test_without_gold_passages_recall_is_unknown_not_zero() -> None:
    bare = Episode(Question("q", "Where?", ("Paris",)), candidates=(A,), answer="Paris")
    found = measure([bare])
    assert (found.retrieval_recall, found.read_recall, found.read_precision) == (None, None, None)
    assert measure_types([bare]) == {}


def test_types_add_up() -> None:
    episodes = [episode(0, "Paris"), episode(1, "Lyon"), episode(2, "Lyon"), episode(3, "Lyon")]
    types = measure_types(episodes)
    assert {name: (m.num_questions, m.em) for name, m in types.items()} == {"bridge": (2, 0.0), "one-hop": (2, 0.5)}


def test_compare_is_paired_and_signed() -> None:
    before = [episode(i, "Lyon") for i in range(40)]
    after = [episode(i, "Paris" if i % 2 else "Lyon") for i in range(40)]  # wins on every bridge question
    episodes = {"warm_start": before, "mappo": after}
    found = {(c.type, c.metric): c for c in compare("mappo", "warm_start", episodes, num_resamples=1_000, seed=0)}
    assert set(found) == {(t, m) for t in (None, "bridge", "one-hop") for m in ("f1", "em", "accuracy")}
    assert found[None, "f1"].delta == 0.5
    assert 0.3 < found[None, "f1"].low < 0.5 < found[None, "f1"].high < 0.7
    assert (found["bridge", "em"].delta, found["bridge", "em"].low) == (1.0, 1.0)
    assert (found["one-hop", "em"].delta, found["one-hop", "em"].high) == (0.0, 0.0)
    assert found["bridge", "em"].num_questions == 20
    backwards = compare("warm_start", "mappo", episodes, num_resamples=1_000, seed=0)
    assert backwards[0].delta == -0.5


def test_groups_are_all_types_and_hop_counts() -> None:
    questions = [
        Question("a", "?", ("x",), "one", ("p",)),
        Question("b", "?", ("x",), "two", ("p", "q")),
        Question("c", "?", ("x",), "two", (), ("s", "t")),
        Question("d", "?", ("x",), "two"),
    ]
    assert [(g.type, g.hops, g.positions) for g in groups(questions)] == [
        (None, None, (0, 1, 2, 3)),
        ("one", None, (0,)),
        ("two", None, (1, 2, 3)),
        (None, 1, (0,)),
        (None, 2, (1, 2)),  # by gold passages, else by sub-questions; of the last one nothing is known
    ]
    assert [g.hops for g in groups(questions[1:3])] == [None, None], "all have as many: nothing to tell apart"
    scores = {name: {"f1": np.array(values)} for name, values in {"a": [0.0] * 4, "b": [1.0, 0, 0, 0]}.items()}
    found = {(c.type, c.hops): c for c in compare_all(scores, questions, num_resamples=99, seed=0)}
    assert found[None, 1].delta == 1.0 and found[None, 2].delta == 0.0
    assert found[None, 2].p_value == 1.0 and found[None, None].num_questions == 4


def test_scores_survive_the_disk_and_say_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    episodes = [episode(0, "Paris"), episode(1, "Lyon")]
    system = SystemScores(overall=measure(episodes), types=measure_types(episodes), seconds=1.5)
    scores = Scores(num_questions=2, types={"bridge": 1, "one-hop": 1}, systems={"mappo": system}, comparisons=())
    path = tmp_path / "scores.json"
    path.write_text(scores.model_dump_json())
    assert Scores.read(path) == scores
    path.write_text('{"num_questions": 2}')
    with pytest.raises(ValueError, match=r"scores\.json.*types.*evaluate again"):
        Scores.read(path)
    with pytest.raises(ValueError, match="no such file"):
        Scores.read(tmp_path / "nowhere.json")
