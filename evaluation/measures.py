"""From episodes to numbers: `measure` one system, `compare` two question by question.

measure(episodes)                                           # evaluation.scores.Measures
measure_groups(episodes, measure)                           # the same per question type and per hop count
compare("mappo", "warm_start", {"mappo": [...], "warm_start": [...]}, num_resamples=10_000, seed=0)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.passages import is_exact, new_and_lost_gold, ranking_scores, selection
from evaluation.scores import Comparison, Measures
from evaluation.significance import paired_bootstraps, randomisation_p_values
from jointrag.metrics import METRICS, precision, recall
from jointrag.types import Episode, Question

Floats = NDArray[np.float64]


def question_scores(episodes: Sequence[Episode]) -> dict[str, Floats]:
    """Per metric, each episode's score [questions]."""
    return {
        name: np.array([metric(episode.answer, episode.question.answers) for episode in episodes])
        for name, metric in METRICS.items()
    }


def measure(
    episodes: Sequence[Episode],
    *,
    by_question: Mapping[str, Episode] | None = None,
    ks: Sequence[int] = (),
    judged: Mapping[str, bool] | None = None,
) -> Measures:
    """Means over `episodes` (at least one).

    `by_question`: by question id, what the question itself finds. `ks`: where candidates are cut to be scored.
    `judged`: by question id, whether the judge holds the answer to be right.
    """
    scores = {name: float(values.mean()) for name, values in question_scores(episodes).items()}
    selections = [selection(episode) for episode in episodes]
    gained = [new_and_lost_gold(episode, by_question) if by_question else None for episode in episodes]
    retrieves = any(episode.candidates for episode in episodes)
    return Measures(
        num_questions=len(episodes),
        f1=scores["f1"],
        em=scores["em"],
        accuracy=scores["accuracy"],
        precision=float(np.mean([precision(e.answer, e.question.answers) for e in episodes])),
        recall=float(np.mean([recall(e.answer, e.question.answers) for e in episodes])),
        judged=None if judged is None else float(np.mean([judged[e.question.id] for e in episodes])),
        retrieval=known_means(ranking_scores(episodes, ks)),
        retrieval_recall=_mean([_recall(e, [p.id for p in e.candidates]) for e in episodes]) if retrieves else None,
        read_recall=_mean([_recall(e, [p.id for p in e.chosen]) for e in episodes]) if retrieves else None,
        read_precision=_mean([_precision(episode) for episode in episodes]),
        selector_precision=_mean([found and found[0] for found in selections]),
        selector_recall=_mean([found and found[1] for found in selections]),
        selector_f1=_mean([found and found[2] for found in selections]),
        selector_exact=_mean([found and is_exact(e) for found, e in zip(selections, episodes, strict=True)]),
        new_gold=_mean([found and found[0] for found in gained]),
        lost_gold=_mean([found and found[1] for found in gained]),
        num_sub_questions=float(np.mean([len(episode.sub_questions) for episode in episodes])),
        num_candidates=float(np.mean([len(episode.candidates) for episode in episodes])),
        num_read=float(np.mean([len(episode.chosen) for episode in episodes])),
        num_answer_words=float(np.mean([len(episode.answer.split()) for episode in episodes])),
        penalised=_penalised(episodes),
    )


def known_means(scores: Mapping[str, Floats]) -> dict[str, float]:
    """Per metric the mean over the questions where it is known; without metrics that are known for none."""
    return {name: float(np.nanmean(values)) for name, values in scores.items() if not np.isnan(values).all()}


# ---- groups of questions ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Group:
    """Some questions: all, those of a type, or those with so many hops."""

    type: str | None
    hops: int | None
    positions: tuple[int, ...]


def types_of(types: Sequence[str]) -> list[str]:
    """The distinct types, sorted; none if the data names none."""
    names = sorted(set(types))
    return [] if names == [""] else names


def num_hops(question: Question) -> int:
    """How many passages it takes to answer: the gold ones, or where none are named one per sub-question; 0: unknown."""
    return len(question.gold_passages) or len(question.sub_questions)


def groups(questions: Sequence[Question]) -> list[Group]:
    """All questions; then per type and per hop count, where there are several or the data names them."""
    every = range(len(questions))
    hops = sorted({num_hops(question) for question in questions})
    return [
        Group(None, None, tuple(every)),
        *(
            Group(name, None, tuple(i for i in every if questions[i].type == name))
            for name in types_of([question.type for question in questions])
        ),
        *(
            Group(None, count, tuple(i for i in every if num_hops(questions[i]) == count))
            for count in (hops if len(hops) > 1 else ())
            if count
        ),
    ]


def measure_types(episodes: Sequence[Episode]) -> dict[str, Measures]:
    """`measure` for each question type; empty where no question names one."""
    kinds = groups([episode.question for episode in episodes])
    return {g.type: measure([episodes[i] for i in g.positions]) for g in kinds if g.type is not None}


# ---- comparisons -----------------------------------------------------------------------------------------------------


def compare(
    system: str, baseline: str, episodes: Mapping[str, Sequence[Episode]], *, num_resamples: int, seed: int
) -> list[Comparison]:
    """Every metric, over all questions and per group. Both systems answered the same questions in the same order."""
    questions = [episode.question for episode in episodes[baseline]]
    assert questions == [e.question for e in episodes[system]], "systems answered different questions"
    scores = {name: question_scores(episodes[name]) for name in (baseline, system)}
    return compare_all(scores, questions, num_resamples=num_resamples, seed=seed)


def compare_all(
    scores: Mapping[str, Mapping[str, Floats]], questions: Sequence[Question], *, num_resamples: int, seed: int
) -> list[Comparison]:
    """Every system with all before it. `scores`: per system and metric, each question's score [questions]."""
    names = list(scores)
    rows = [
        (system, baseline, metric)
        for i, system in enumerate(names)
        for baseline in names[:i]
        for metric in scores[system]
    ]
    if not rows:
        return []
    differences = np.stack([scores[system][metric] - scores[baseline][metric] for system, baseline, metric in rows], 1)
    found = []
    for group in groups(questions):
        # a generator of its own each time: a number does not depend on what else is compared
        inside = differences[list(group.positions)]
        intervals = paired_bootstraps(inside, np.random.default_rng(seed), num_resamples)
        p_values = randomisation_p_values(inside, np.random.default_rng(seed), num_resamples)
        found += [
            Comparison(
                system=system,
                baseline=baseline,
                metric=metric,
                type=group.type,
                hops=group.hops,
                delta=interval.delta,
                low=interval.low,
                high=interval.high,
                share_not_better=interval.share_not_better,
                p_value=float(p_value),
                num_questions=interval.num_questions,
            )
            for (system, baseline, metric), interval, p_value in zip(rows, intervals, p_values, strict=True)
        ]
    order = {(system, baseline): i for i, (system, baseline, _) in enumerate(rows)}
    return sorted(found, key=lambda c: order[c.system, c.baseline])


# ---- parts -----------------------------------------------------------------------------------------------------------


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
