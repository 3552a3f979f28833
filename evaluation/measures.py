"""From episodes to numbers: `measure` one system, `compare` two question by question.

measure(episodes)                                           # evaluation.scores.Measures
compare("mappo", "warm_start", {"mappo": [...], "warm_start": [...]}, num_resamples=10_000, seed=0)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.scores import Comparison, Measures
from evaluation.significance import paired_bootstrap
from jointrag.metrics import METRICS, precision, recall
from jointrag.types import Episode


def question_scores(episodes: Sequence[Episode]) -> dict[str, NDArray[np.float64]]:
    """Per metric, each episode's score [questions]."""
    return {
        name: np.array([metric(episode.answer, episode.question.answers) for episode in episodes])
        for name, metric in METRICS.items()
    }


def measure(episodes: Sequence[Episode]) -> Measures:
    """Means over `episodes` (at least one)."""
    scores = {name: float(values.mean()) for name, values in question_scores(episodes).items()}
    return Measures(
        num_questions=len(episodes),
        f1=scores["f1"],
        em=scores["em"],
        accuracy=scores["accuracy"],
        precision=float(np.mean([precision(e.answer, e.question.answers) for e in episodes])),
        recall=float(np.mean([recall(e.answer, e.question.answers) for e in episodes])),
        retrieval_recall=_mean([_recall(episode, [p.id for p in episode.candidates]) for episode in episodes]),
        read_recall=_mean([_recall(episode, [p.id for p in episode.chosen]) for episode in episodes]),
        read_precision=_mean([_precision(episode) for episode in episodes]),
        num_sub_questions=float(np.mean([len(episode.sub_questions) for episode in episodes])),
        num_candidates=float(np.mean([len(episode.candidates) for episode in episodes])),
        num_read=float(np.mean([len(episode.chosen) for episode in episodes])),
        num_answer_words=float(np.mean([len(episode.answer.split()) for episode in episodes])),
        penalised=_penalised(episodes),
    )


def measure_types(episodes: Sequence[Episode]) -> dict[str, Measures]:
    """`measure` for each question type; empty where no question names one."""
    return {
        name: measure([episode for episode in episodes if episode.question.type == name])
        for name in types_of([episode.question.type for episode in episodes])
    }


def types_of(types: Sequence[str]) -> list[str]:
    """The distinct types, sorted; none if the data names none."""
    names = sorted(set(types))
    return [] if names == [""] else names


def compare(
    system: str, baseline: str, episodes: Mapping[str, Sequence[Episode]], *, num_resamples: int, seed: int
) -> list[Comparison]:
    """Every metric, over all questions and per type. Both systems answered the same questions in the same order."""
    ours, theirs = episodes[system], episodes[baseline]
    assert [e.question.id for e in ours] == [e.question.id for e in theirs], "systems answered different questions"
    types = np.array([episode.question.type for episode in ours])
    scores, baseline_scores = question_scores(ours), question_scores(theirs)
    comparisons = []
    for type_name in (None, *types_of(types.tolist())):
        mask = np.ones(len(types), dtype=bool) if type_name is None else types == type_name
        for metric in METRICS:
            rng = np.random.default_rng(seed)  # afresh each time: a number does not depend on what else is compared
            difference = paired_bootstrap((scores[metric] - baseline_scores[metric])[mask], rng, num_resamples)
            comparisons.append(
                Comparison(
                    system=system,
                    baseline=baseline,
                    metric=metric,
                    type=type_name,
                    delta=difference.delta,
                    low=difference.low,
                    high=difference.high,
                    share_not_better=difference.share_not_better,
                    num_questions=difference.num_questions,
                )
            )
    return comparisons


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _recall(episode: Episode, found: Sequence[str]) -> float | None:
    gold = set(episode.question.gold_passages)
    return len(gold & set(found)) / len(gold) if gold else None


def _precision(episode: Episode) -> float | None:
    read = [passage.id for passage in episode.chosen]
    if not read or not episode.question.gold_passages:
        return None
    return len(set(episode.question.gold_passages).intersection(read)) / len(read)


def _penalised(episodes: Sequence[Episode]) -> dict[str, float]:
    turns: dict[str, list[bool]] = {}
    for episode in episodes:
        for turn in episode.turns:
            turns.setdefault(turn.agent, []).append(turn.penalty < 0)
    return {agent: sum(flags) / len(flags) for agent, flags in turns.items()}
