"""Stage 8: every system answers the same held-out questions, greedily; scores.json says how well, and why.

`evaluate` writes scores.json (read it with `evaluation.scores.Scores.read`) and, per system, predictions/<system>.jsonl
(one Episode a line, without token ids), usage/<system>.jsonl (evaluation.costs.Usage) and, with a judge,
judged/<system>.jsonl (evaluation.judge.Verdict). The answers come from `jointrag.pipeline.answer`, which training calls
too, and are scored by `jointrag.metrics`, which the reward calls too: what is reported is what was trained.

Interrupted, it goes on in the same folder: answers are kept batch by batch in answers/, which goes when all is done.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluation.answering import Answered, answer_all
from evaluation.attribution import attribute, gold_passages
from evaluation.judge import Judge, Verdict
from evaluation.measures import question_scores
from evaluation.passages import found_by_question
from evaluation.scores import Attribution, Scores
from evaluation.summary import Outcome, final_metrics, summarise
from evaluation.systems import Speaker, System, attributed, line_up, speaker
from jointrag.config import AgentsConfig, EvaluationConfig, LanguageModelSection
from jointrag.jsonl import read_numbered, write_atomically, write_jsonl
from jointrag.tracking import NoTracker, Tracker
from jointrag.types import Question

logger = logging.getLogger(__name__)


def evaluate(
    config: EvaluationConfig,
    agents: AgentsConfig,
    model: LanguageModelSection,
    *,
    prepared: Path,
    systems: dict[str, Path],
    retrieval_url: str,
    seed: int,
    out: Path,
    device: str = "auto",
    tracker: Tracker = NoTracker(),
    judge_replies: str | None = None,
) -> dict[str, float]:
    """Score `systems` (name → directory holding model/), `config.served` and what `config` adds on the test split of
    `prepared`. `judge_replies`: the folder where a judge's replies are kept; by itself below `out`. An `out` with the
    answers of an interrupted call is for the same models and the same index.

    Returns eval/<system>/f1, /em, /accuracy, /retrieval_recall …, and, if both were given, eval/delta_f1 of mappo over
    warm_start with eval/delta_f1_low and _high, the ends of its 95 % interval.
    Raises ValueError for an empty test split, a question without answers, a system without model or tokenizer, or two
    of one name, before anything is answered; ConnectionError when a server is gone: what was answered is kept.
    """
    from jointrag.retrieval import HttpRetriever

    line = line_up(config, agents.chain, list(systems))
    speakers = {name: speaker(name, systems, config, model, device) for name in dict.fromkeys(s.model for s in line)}
    questions = held_out_questions(prepared / "questions" / "test.jsonl", config.num_questions, seed)
    judge = Judge(config.judge, Path(judge_replies) if judge_replies else out / "judge") if config.judge else None
    by_question = found_by_question(questions, HttpRetriever(retrieval_url), agents.num_candidates)
    journals = out / "answers"

    def answered_by(system: System, speaking: Speaker) -> list[Answered]:
        return answer_all(
            system,
            speaking,
            agents,
            questions,
            HttpRetriever(retrieval_url),  # of its own: what another system asked is not remembered for this one
            batch_size=config.batch_size,
            journal=journals / f"{system.name}.jsonl",
        )

    def lost_by(system: System, speaking: Speaker, answered: Sequence[Answered]) -> Attribution | None:
        episodes = [one.episode for one in answered]
        return attribute(
            system,
            speaking,
            agents,
            episodes,
            gold_passages(episodes, prepared / "corpus.jsonl"),
            HttpRetriever(retrieval_url),
            batch_size=config.batch_size,
            journals=journals,
            num_resamples=config.num_bootstrap,
            seed=seed,
        )

    answered: dict[str, list[Answered]] = {}
    attribution: dict[str, Attribution | None] = {}
    for name, speaking in speakers.items():  # one model after the other is loaded, for all that it has a part in
        for system in (system for system in line if system.model == name):
            answered[system.name] = answered_by(system, speaking)
            _log(system, answered[system.name])
            if system.name in attributed(config, line):
                attribution[system.name] = lost_by(system, speaking, answered[system.name])
        speaking.unload()
    outcome = Outcome(
        systems=line,
        answered={system.name: answered[system.name] for system in line},
        by_question={episode.question.id: episode for episode in by_question},
        attribution=attribution,
        verdicts=_judged(judge, line, answered),
        judge=config.judge.name if config.judge else None,
    )
    scores = summarise(outcome, agents, num_resamples=config.num_bootstrap, seed=seed)
    _write(outcome, scores, out, tracker)
    return final_metrics(scores)


def held_out_questions(path: Path, num_questions: int | None, seed: int) -> list[Question]:
    """The test questions, or a random `num_questions` of them in the file's order."""
    questions: list[Question] = []
    lines: dict[str, int] = {}
    for number, question in read_numbered(path, Question):
        if not any(answer.strip() for answer in question.answers):
            raise ValueError(
                f"{path}, line {number}: question {question.id!r} has no answers; it cannot be scored, give it one or "
                "drop it"
            )
        if question.id in lines:
            raise ValueError(
                f"{path}, line {number}: question id {question.id!r} occurs twice, first in line {lines[question.id]}; "
                "ids must be unique"
            )
        lines[question.id] = number
        questions.append(question)
    if not questions:
        raise ValueError(f"{path}: no questions to evaluate on; prepare a data set with a test split")
    if num_questions is None or num_questions == len(questions):
        return questions
    if num_questions > len(questions):
        logger.warning(
            "evaluation.num_questions=%d, but the test split has %d: using all", num_questions, len(questions)
        )
        return questions
    chosen = np.random.default_rng(seed).choice(len(questions), size=num_questions, replace=False)
    return [questions[i] for i in sorted(chosen)]


def _judged(
    judge: Judge | None, line: Sequence[System], answered: dict[str, list[Answered]]
) -> dict[str, list[Verdict]]:
    if judge is None:
        return {}
    return {s.name: judge.verdicts([one.episode for one in answered[s.name]], f"judge {s.name}") for s in line}


def _log(system: System, answered: Sequence[Answered]) -> None:
    means = {name: 100 * s.mean() for name, s in question_scores([one.episode for one in answered]).items()}
    logger.info("%s: F1 %.1f, EM %.1f, accuracy %.1f", system.name, *(means[name] for name in ("f1", "em", "accuracy")))


def _write(outcome: Outcome, scores: Scores, out: Path, tracker: Tracker) -> None:
    for name, rows in outcome.answered.items():
        write_jsonl(out / "predictions" / f"{name}.jsonl", (one.episode for one in rows))
        write_jsonl(out / "usage" / f"{name}.jsonl", (one.usage for one in rows))
    for name, verdicts in outcome.verdicts.items():
        write_jsonl(out / "judged" / f"{name}.jsonl", verdicts)
    write_atomically(out / "scores.json", scores.model_dump_json(indent=2) + "\n")
    shutil.rmtree(out / "answers")  # last: until all is written they are what it can be made of again
    tracker.log_artifact(out / "scores.json")
    tracker.log_table([c.model_dump() for c in scores.comparisons], "comparisons")
