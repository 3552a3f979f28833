"""What became of the passages: rankings, the rewriter's gains, the selector's choices, its calibration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.calibration import calibrate
from evaluation.measures import measure
from evaluation.passages import cutoffs, found_by_question, is_exact, new_and_lost_gold, ranking_scores, selection
from jointrag.types import Episode, Passage, Question
from tests.tiny import PASSAGES, QUESTIONS, FixedRetriever

PARIS = Question("q", "Where?", ("Paris",), gold_passages=("a", "b"))


def passages(names: str) -> tuple[Passage, ...]:
    return tuple(Passage(name, "", "It is in Paris." if name == "p" else name) for name in names)


def episode(candidates: str, selected: tuple[int, ...] | None = None, **changes: Any) -> Episode:
    return Episode(PARIS, ("Where?",), passages(candidates), selected, **changes)


def test_rankings_by_hand() -> None:
    found = ranking_scores([episode("xapb")], (1, 4))
    assert found["recall@1"].tolist() == [0.0]
    assert found["recall@4"].tolist() == [1.0]
    assert found["mrr@4"].tolist() == [0.5]
    assert found["map@4"].tolist() == [(1 / 2 + 2 / 4) / 2]
    best = 1 + 1 / math.log2(3)
    assert found["ndcg@4"][0] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / best)
    assert (found["answer@1"][0], found["answer@4"][0]) == (0, 1)


def test_what_is_not_known_is_not_counted() -> None:
    bare = Episode(Question("q", "?", ("Paris",)), ("?",), passages("p"))
    verdict = Episode(Question("q", "?", ("yes",), gold_passages=("p",)), ("?",), passages("p"))
    found = ranking_scores([bare, verdict], (1,))
    assert np.isnan(found["recall@1"]).tolist() == [True, False]
    assert np.isnan(found["answer@1"]).tolist() == [False, True], "yes is in no passage"
    assert ranking_scores([Episode(PARIS)], (1,)) == {}, "nothing was retrieved"
    both = measure([bare, verdict], ks=(1,))
    assert (both.retrieval["recall@1"], both.retrieval["answer@1"]) == (1.0, 1.0)
    assert measure([Episode(PARIS)]).retrieval_recall is None
    assert cutoffs(4) == (1, 4) and cutoffs(5) == (1, 5) and cutoffs(10) == (1, 5, 10) and cutoffs(1) == (1,)


def test_selections_by_hand() -> None:
    precision, recall, f1 = selection(episode("axb", (0, 1))) or (0, 0, 0)
    assert (precision, recall, f1) == (0.5, 0.5, 0.5)
    assert selection(episode("axy", (0,))) == (1.0, 1.0, 1.0), "of the gold passages that it could choose"
    assert selection(episode("axb", ())) == (0.0, 0.0, 0.0)
    assert selection(episode("xyz", (0,))) is None
    assert selection(episode("ab")) is None, "no selector"
    assert [is_exact(e) for e in (episode("axb", (2, 0)), episode("axb", (0,)), episode("xy", ()))] == [
        True,
        False,
        True,
    ]


def test_what_the_rewriter_brought() -> None:
    before = {"q": episode("ax")}
    assert new_and_lost_gold(episode("bx"), before) == (1.0, 1.0)
    assert new_and_lost_gold(episode("ab"), before) == (1.0, 0.0)
    found = measure([episode("bx"), episode("ab")], by_question=before)
    assert (found.new_gold, found.lost_gold) == (1.0, 0.5)
    assert measure([episode("bx")]).new_gold is None


def test_the_question_itself_is_searched_for() -> None:
    found = found_by_question(QUESTIONS, FixedRetriever(), 2)
    assert [e.candidates[0] for e in found] == PASSAGES
    assert {len(e.candidates) for e in found} == {2}


def test_calibration_by_hand() -> None:
    right, wrong = episode("ab", (0, 1), answer="Paris"), episode("ab", (0,), answer="Lyon")
    known = calibrate([right, wrong, right, right], [0.92, 0.98, 0.5, None])
    assert known is not None
    low, high = known.bins
    assert (low.num_questions, low.confidence, low.exact, low.f1) == (1, 0.5, 1.0, 1.0)
    assert (high.low, high.high, high.num_questions, high.exact, high.f1) == (0.9, 1.0, 2, 0.5, 0.5)
    assert high.confidence == pytest.approx(0.95)
    assert known.error == pytest.approx((1 * 0.5 + 2 * 0.45) / 3)
    assert calibrate([right], [None]) is None
    assert calibrate([right], [1.0]) is not None, "a probability of 1 is in the last bin"


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_rankings_are_those_of_trec_eval(data: st.DataObject) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    names = [f"d{i}" for i in range(12)]
    episodes = []
    for i in range(data.draw(st.integers(1, 5))):
        gold = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=5, unique=True))
        ranked = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=10, unique=True))
        question = Question(f"q{i}", "?", ("x",), gold_passages=tuple(gold))
        episodes.append(Episode(question, ("?",), tuple(Passage(name, "", "") for name in ranked)))
    theirs = pytrec_eval.RelevanceEvaluator(
        {e.question.id: dict.fromkeys(e.question.gold_passages, 1) for e in episodes},
        {"recall.1,5,10", "map_cut.1,5,10", "ndcg_cut.1,5,10", "recip_rank"},
    ).evaluate({e.question.id: {p.id: -float(i) for i, p in enumerate(e.candidates)} for e in episodes})
    ours = ranking_scores(episodes, (1, 5, 10))
    for i, e in enumerate(episodes):
        row = theirs[e.question.id]
        for k in (1, 5, 10):
            for name, their_name in (("recall", "recall"), ("map", "map_cut"), ("ndcg", "ndcg_cut")):
                assert ours[f"{name}@{k}"][i] == pytest.approx(row[f"{their_name}_{k}"])
        assert ours["mrr@10"][i] == pytest.approx(row["recip_rank"])
