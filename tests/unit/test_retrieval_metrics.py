"""Retrieval metrics, by hand and against trec_eval; two systems on the same questions."""

from __future__ import annotations

import math

import numpy as np
import pytest

import evaluation.retrieval
from evaluation.retrieval import DEFAULT_METRICS, Scores, compare, comparison_table, measure
from evaluation.tables import markdown

ALL = ("recall@2", "hit@2", "mrr@2", "map@2", "ndcg@2", "recall", "hit", "mrr", "map", "ndcg")


def of_one(ranking: list[str], gold: object, metric: str) -> float:
    return measure([ranking], [gold], [metric]).means()[metric]  # type: ignore[list-item]


@pytest.mark.parametrize(
    "metric, expected",
    [
        # ranking: miss, b, miss, a; relevant: a, b and c, which is not in the ranking
        ("recall@1", 0.0),
        ("recall@2", 1 / 3),
        ("recall@10", 2 / 3),
        ("recall", 2 / 3),
        ("hit@1", 0.0),
        ("hit@2", 1.0),
        ("mrr@1", 0.0),
        ("mrr@2", 1 / 2),
        ("mrr", 1 / 2),
        ("map@2", (1 / 2) / 3),
        ("map", (1 / 2 + 2 / 4) / 3),
        ("ndcg@2", (1 / math.log2(3)) / (1 + 1 / math.log2(3))),
        ("ndcg@4", (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3) + 1 / math.log2(4))),
    ],
)
def test_by_hand(metric: str, expected: float) -> None:
    assert of_one(["x", "b", "y", "a"], {"a", "b", "c"}, metric) == pytest.approx(expected)


def test_graded_gains_by_hand() -> None:
    gold = {"a": 3, "b": 1, "junk": 0, "spam": -2}
    ranking = ["spam", "b", "junk", "a"]
    best = 3 + 1 / math.log2(3)
    assert of_one(ranking, gold, "ndcg@10") == pytest.approx((1 / math.log2(3) + 3 / math.log2(5)) / best)
    assert of_one(ranking, gold, "ndcg@1") == 0
    assert of_one(["a"], gold, "ndcg@1") == 1
    assert of_one(["b"], gold, "ndcg@1") == pytest.approx(1 / 3)
    assert of_one(ranking, gold, "recall@10") == 1, "a gain of 0 or less is not relevant"
    assert of_one(ranking, gold, "map") == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_a_perfect_ranking_scores_one_and_an_empty_one_zero() -> None:
    assert set(measure([["a", "b", "x"]], [["a", "b"]], ALL).means().values()) == {1.0}
    assert set(measure([[]], [["a", "b"]], ALL).means().values()) == {0.0}


def test_positions_as_ids_and_arrays_as_rankings() -> None:
    scores = measure(np.array([[3, 1], [0, 2]]), [{1}, {5}], ["recall@2"])  # type: ignore[arg-type]
    assert scores.of["recall@2"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("graded", [False, True])
def test_equal_to_trec_eval(graded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    monkeypatch.setattr(evaluation.retrieval, "_QUESTIONS_AT_ONCE", 37)  # the blocks show
    rng = np.random.default_rng(0)
    rankings, gold = [], []
    for _ in range(200):
        documents = rng.permutation(60)
        judged = rng.choice(80, size=rng.integers(1, 25), replace=False)  # some are in no ranking
        gains = rng.integers(-1, 4, size=len(judged)) if graded else rng.integers(0, 2, size=len(judged))
        gains[0] = 1  # one at least is relevant
        rankings.append([f"d{i}" for i in documents[: rng.integers(1, 61)]])
        gold.append({f"d{i}": int(gain) for i, gain in zip(judged, gains, strict=True)})
    names = {
        f"{name}@{k}": f"{theirs}_{k}"
        for name, theirs in {"recall": "recall", "hit": "success", "map": "map_cut", "ndcg": "ndcg_cut"}.items()
        for k in (1, 3, 10, 100)
    } | {"map": "map", "ndcg": "ndcg", "mrr": "recip_rank"}
    measures = {f"{name}.1,3,10,100" for name in ("recall", "success", "map_cut", "ndcg_cut")}
    theirs = pytrec_eval.RelevanceEvaluator(
        {f"q{i}": row for i, row in enumerate(gold)}, measures | {"map", "ndcg", "recip_rank"}
    ).evaluate(
        {f"q{i}": {document: -float(rank) for rank, document in enumerate(row)} for i, row in enumerate(rankings)}
    )
    ours = measure(rankings, gold, list(names))
    for metric, their_name in names.items():
        expected = [theirs[f"q{i}"][their_name] for i in range(len(gold))]
        np.testing.assert_allclose(ours.of[metric], expected, atol=1e-12, err_msg=metric)


@pytest.mark.parametrize(
    "rankings, gold, metrics, message",
    [
        ([["a"]], [["a"], ["b"]], ["map"], "not aligned"),
        ([["a"]], [[]], ["map"], "question 0: no document is relevant"),
        ([["a"]], [{"a": 0}], ["map"], "no document is relevant"),
        ([["a"], ["b", "c", "b"]], [["a"], ["a"]], ["map"], "question 1: document 'b' stands twice"),
        ([["a"]], [{"a": math.nan}], ["ndcg"], "not a finite number"),
        ([["a"]], [["a"]], ["recall@0"], "no metric 'recall@0'"),
        ([["a"]], [["a"]], ["precision@5"], "write one of recall, hit, mrr, map, ndcg"),
        ([["a"]], [["a"]], ["map@"], "no metric 'map@'"),
        ([], [], ["map"], "nothing to measure"),
    ],
)
def test_mistakes_are_named(rankings: list, gold: list, metrics: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(rankings, gold, metrics)


def test_a_mistake_names_the_question_by_its_id() -> None:
    with pytest.raises(ValueError, match="question 'q7': document 'a' stands twice"):
        measure([["a", "a"]], [["a"]], ids=["q7"])


# ---- two systems -----------------------------------------------------------------------------------------------------


def systems(num_questions: int = 200) -> tuple[Scores, Scores]:
    """The first finds the document of 3 questions in 10 first, the other of 6 in 10, these among them."""
    rng = np.random.default_rng(0)
    draw = rng.random(num_questions)
    rankings = [[["a", "b"] if value < share else ["b", "a"] for value in draw] for share in (0.3, 0.6)]
    before, after = (measure(rows, [["a"]] * num_questions, ["recall@1", "mrr"]) for rows in rankings)
    return before, after


def test_differences_are_paired() -> None:
    before, after = systems()
    found = compare(after, before)["recall@1"]
    assert found.delta == pytest.approx(after.means()["recall@1"] - before.means()["recall@1"])
    assert 0 < found.low < found.delta < found.high
    assert found.num_questions == 200
    # of unpaired samples the interval would be wider than of the differences, which are 0 or 1 here
    assert found.high - found.low < 2 * 1.96 * math.sqrt(2 * 0.25 / 200)
    same = compare(after, after)["mrr"]
    assert (same.delta, same.low, same.high) == (0, 0, 0)


def test_systems_of_different_questions_are_not_compared() -> None:
    before, after = systems()
    with pytest.raises(ValueError, match="same questions"):
        compare(after, Scores({"mrr": before.of["mrr"][1:]}))
    with pytest.raises(ValueError, match="same questions"):
        compare(Scores(after.of, ("q1",) * 200), Scores(before.of, ("q2",) * 200))


def test_table() -> None:
    before, after = systems()
    extra = Scores({"mrr": after.of["mrr"]})  # a system with one metric less
    lines = markdown(comparison_table({"before": before, "after": after, "other": extra})).splitlines()
    assert lines[2] == "| system | recall@1 | mrr |"
    mean, delta = after.means()["recall@1"], after.means()["recall@1"] - before.means()["recall@1"]
    assert lines[4] == f"| before | {100 * before.means()['recall@1']:.1f} | {100 * before.means()['mrr']:.1f} |"
    assert lines[5].startswith(f"| after | {100 * mean:.1f} (+{100 * delta:.1f}: +")
    assert lines[6].startswith("| other | – | ")
    assert "difference to before" in lines[-1]
    with pytest.raises(ValueError, match="no system 'after' to compare with; there are before"):
        comparison_table({"before": before}, baseline="after")
    assert "(" not in markdown(comparison_table({"before": before})).splitlines()[4]


def test_default_metrics_of_many_questions() -> None:
    scores = measure([["a"]] * 25_000, [["a"]] * 25_000)
    assert set(scores.of) == set(DEFAULT_METRICS)
    assert scores.num_questions == 25_000
    assert set(scores.means().values()) == {1.0}
