"""What retrieval, rewriter and selector did to the passages, question by question.

    ranking_scores(episodes, (1, 5, 10))       # {"recall@5": [questions], …} of the candidates, NaN where unknown
    selection(episode)                         # precision, recall, F1 against the gold among the candidates

Rankings are scored by `evaluation.retrieval`, so recall, MRR, nDCG and MAP are those of the retrieval tables. The order
is the one in which the selector sees the candidates: those of the first sub-question first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.retrieval import measure as score_rankings
from jointrag.metrics import VERDICTS, accuracy, normalize
from jointrag.pipeline import retrieve
from jointrag.retrieval import Retriever
from jointrag.types import Episode, Question

RANKING = ("recall", "mrr", "ndcg", "map")
BATCH = 256


def cutoffs(num_candidates: int) -> tuple[int, ...]:
    """The k at which candidates are scored."""
    return tuple(sorted({k for k in (1, 5, num_candidates) if k <= num_candidates}))


def found_by_question(questions: Sequence[Question], retriever: Retriever, num_candidates: int) -> list[Episode]:
    """What the questions themselves find, without a rewriter."""
    bare = [Episode(question, sub_questions=(question.text,)) for question in questions]
    return [
        episode
        for start in range(0, len(bare), BATCH)
        for episode in retrieve(bare[start : start + BATCH], retriever, num_candidates)
    ]


def ranking_scores(episodes: Sequence[Episode], ks: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    """recall@k, mrr@k, ndcg@k, map@k and answer@k of every question's candidates [questions]. NaN where the question
    names no gold passages, or its answer (yes, no) is in no passage; empty where no question has candidates."""
    if not ks or not any(episode.candidates for episode in episodes):
        return {}
    names = [f"{metric}@{k}" for metric in RANKING for k in ks]
    scores = {name: np.full(len(episodes), np.nan) for name in names}
    known = [i for i, episode in enumerate(episodes) if episode.question.gold_passages]
    if known:
        rankings = [[passage.id for passage in episodes[i].candidates] for i in known]
        measured = score_rankings(rankings, [episodes[i].question.gold_passages for i in known], names)
        for name in names:
            scores[name][known] = measured.of[name]
    ranks = np.array([_rank_of_answer(episode) for episode in episodes])
    return scores | {f"answer@{k}": np.where(np.isnan(ranks), np.nan, ranks <= k) for k in ks}


def _rank_of_answer(episode: Episode) -> float:
    """The rank of the first candidate that contains an answer; NaN for yes and no."""
    answers = [answer for answer in episode.question.answers if normalize(answer) not in VERDICTS]
    if not answers:
        return np.nan
    ranks = (rank for rank, p in enumerate(episode.candidates, 1) if accuracy(p.contents, answers))
    return float(next(ranks, np.inf))


def selection(episode: Episode) -> tuple[float, float, float] | None:
    """Precision, recall and F1 of the selection; None without a selector or without gold among the candidates."""
    if episode.selected is None:
        return None
    gold, chosen = _gold_among_candidates(episode), {passage.id for passage in episode.chosen}
    if not gold:
        return None
    right = len(gold & chosen)
    return right / len(chosen) if chosen else 0.0, right / len(gold), 2 * right / (len(chosen) + len(gold))


def is_exact(episode: Episode) -> bool:
    """Whether the selection is the gold passages among the candidates, all of them and nothing else."""
    return {passage.id for passage in episode.chosen} == _gold_among_candidates(episode)


def new_and_lost_gold(episode: Episode, by_question: Mapping[str, Episode]) -> tuple[float, float] | None:
    """How many gold passages are among the candidates and were not found by the question itself, and the other way
    round; None without gold passages."""
    gold = set(episode.question.gold_passages)
    if not gold or not episode.candidates:
        return None
    before = gold & {passage.id for passage in by_question[episode.question.id].candidates}
    after = gold & {passage.id for passage in episode.candidates}
    return float(len(after - before)), float(len(before - after))


def _gold_among_candidates(episode: Episode) -> set[str]:
    return set(episode.question.gold_passages) & {passage.id for passage in episode.candidates}
