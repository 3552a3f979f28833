"""From everything that was answered to scores.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.answering import Answered
from evaluation.calibration import calibrate
from evaluation.costs import mean_costs, total_seconds
from evaluation.judge import Verdict
from evaluation.measures import Group, compare_all, groups, known_means, measure, question_scores
from evaluation.passages import cutoffs, ranking_scores
from evaluation.scores import Attribution, Measures, Scores, SystemScores
from evaluation.systems import System
from jointrag.config import AgentsConfig
from jointrag.types import Episode

UNTOLD = {"penalised", "num_questions", "retrieval"}  # of Measures, in the tracker: no numbers, or too many


@dataclass(frozen=True, slots=True)
class Outcome:
    """What all systems answered to the same questions in the same order; the dictionaries are by system name."""

    systems: Sequence[System]
    answered: Mapping[str, Sequence[Answered]]
    by_question: Mapping[str, Episode]
    """By question id: what the question itself finds."""
    attribution: Mapping[str, Attribution | None]
    verdicts: Mapping[str, Sequence[Verdict]]
    """Empty without a judge."""
    judge: str | None

    def episodes(self, name: str) -> list[Episode]:
        return [one.episode for one in self.answered[name]]


def summarise(outcome: Outcome, agents: AgentsConfig, *, num_resamples: int, seed: int) -> Scores:
    """The content of scores.json."""
    questions = [episode.question for episode in outcome.episodes(outcome.systems[0].name)]
    kinds = groups(questions)
    scores = {system.name: question_scores(outcome.episodes(system.name)) for system in outcome.systems}
    for name, verdicts in outcome.verdicts.items():
        scores[name]["judged"] = np.array([verdict.right for verdict in verdicts], dtype=np.float64)
    before = [outcome.by_question[question.id] for question in questions]
    return Scores(
        num_questions=len(questions),
        types={group.type: len(group.positions) for group in kinds if group.type is not None},
        hops={group.hops: len(group.positions) for group in kinds if group.hops is not None},
        question_retrieval=known_means(ranking_scores(before, cutoffs(agents.num_candidates))),
        judge=outcome.judge,
        systems={system.name: _system(system, outcome, agents, kinds) for system in outcome.systems},
        comparisons=tuple(compare_all(scores, questions, num_resamples=num_resamples, seed=seed)),
    )


def _system(system: System, outcome: Outcome, agents: AgentsConfig, kinds: Sequence[Group]) -> SystemScores:
    episodes = outcome.episodes(system.name)
    usages = [one.usage for one in outcome.answered[system.name]]
    judged = {verdict.id: verdict.right for verdict in outcome.verdicts[system.name]} if outcome.verdicts else None

    def of(group: Group) -> Measures:
        inside = [episodes[i] for i in group.positions]
        return measure(inside, by_question=outcome.by_question, ks=cutoffs(agents.num_candidates), judged=judged)

    return SystemScores(
        kind=system.kind,
        model=system.model,
        agents=system.agents,
        overall=of(kinds[0]),
        types={group.type: of(group) for group in kinds if group.type is not None},
        hops={group.hops: of(group) for group in kinds if group.hops is not None},
        seconds=total_seconds(usages),
        cost=mean_costs(usages),
        calibration=calibrate(episodes, [usage.confidence for usage in usages]),
        attribution=outcome.attribution.get(system.name),
    )


def final_metrics(scores: Scores) -> dict[str, float]:
    """What the tracker shows of a run: eval/<system>/<measure>, and the main difference with its interval."""
    metrics: dict[str, float] = {}
    for name, system in scores.systems.items():
        values = system.overall.model_dump(exclude=UNTOLD, exclude_none=True)
        values |= {f"penalised/{agent}": share for agent, share in system.overall.penalised.items()}
        values["seconds"] = system.seconds
        values["tokens"] = sum(c.num_prompt_tokens + c.num_response_tokens for c in system.cost.values())
        if system.calibration:
            values["calibration_error"] = system.calibration.error
        if system.attribution:
            values |= {f"lost/{step.agent}": step.delta for step in system.attribution.steps[1:]}
        metrics |= {f"eval/{name}/{key}": float(value) for key, value in values.items()}
    if (main := scores.comparison("mappo", "warm_start")) is not None:
        metrics |= {"eval/delta_f1": main.delta, "eval/delta_f1_low": main.low, "eval/delta_f1_high": main.high}
        if main.p_value is not None:
            metrics["eval/delta_f1_p_value"] = main.p_value
    return metrics
