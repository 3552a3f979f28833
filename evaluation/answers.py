"""Stage 8: every system answers the same held-out questions, greedily; scores.json says how well.

A system is a trained model's folder, or a model behind an OpenAI-compatible server (`EvaluationConfig.served`).
`evaluate` writes predictions/<system>.jsonl (one Episode a line, without token ids) and scores.json (read it with
`evaluation.scores.Scores.read`). The answers come from `jointrag.pipeline.answer`, which training calls too, and are
scored by `jointrag.metrics`, which the reward calls too: what is reported is what was trained.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from evaluation.measures import compare, measure, measure_types, types_of
from evaluation.scores import Scores, SystemScores
from jointrag.config import AgentsConfig, EvaluationConfig, LanguageModelSection, ServedConfig
from jointrag.generation import LanguageModel
from jointrag.jsonl import read_jsonl, write_atomically, write_jsonl
from jointrag.progress import progress
from jointrag.tracking import NoTracker, Tracker
from jointrag.types import Episode, Question, Turn

logger = logging.getLogger(__name__)

ORDER = ("warm_start", "control", "mappo")  # baselines first: each system is compared with all before it


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
) -> dict[str, float]:
    """Score `systems` (name → directory holding model/) and `config.served` on the test split of `prepared`.

    Returns eval/<system>/f1, /em, /accuracy, /retrieval_recall …, and, if both were given, eval/delta_f1 of mappo over
    warm_start with eval/delta_f1_low and _high, the ends of its 95 % interval.
    Raises ValueError for an empty test split, a question without answers, a system without model/, or two of one name.
    """
    if twice := set(systems) & set(config.served):
        raise ValueError(
            f"{min(twice)!r} names a trained system and one of evaluation.served; give the latter another name"
        )
    for name, directory in systems.items():
        if not (directory / "model").is_dir():
            raise ValueError(f"system {name!r}: {directory / 'model'} is missing; train that stage again")
    questions = held_out_questions(prepared / "questions" / "test.jsonl", config.num_questions, seed)
    episodes: dict[str, Sequence[Episode]] = {}
    results: dict[str, SystemScores] = {}
    for name in sorted([*systems, *config.served], key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER)):
        llm = _served(config.served[name]) if name in config.served else _local(systems[name], model, device)
        answered, seconds = _answer(name, llm, questions, config, agents, retrieval_url=retrieval_url)
        del llm  # before the next one is loaded
        write_jsonl(out / "predictions" / f"{name}.jsonl", answered)
        episodes[name] = answered
        results[name] = SystemScores(overall=measure(answered), types=measure_types(answered), seconds=seconds)
        overall = results[name].overall
        logger.info(
            "%s: F1 %.1f, EM %.1f, accuracy %.1f", name, *(100 * s for s in (overall.f1, overall.em, overall.accuracy))
        )
    names = list(episodes)
    scores = Scores(
        num_questions=len(questions),
        types={name: sum(q.type == name for q in questions) for name in types_of([q.type for q in questions])},
        systems=results,
        comparisons=tuple(
            comparison
            for i, system in enumerate(names)
            for baseline in names[:i]
            for comparison in compare(system, baseline, episodes, num_resamples=config.num_bootstrap, seed=seed)
        ),
    )
    write_atomically(out / "scores.json", scores.model_dump_json(indent=2) + "\n")
    tracker.log_artifact(out / "scores.json")
    tracker.log_table([c.model_dump() for c in scores.comparisons], "comparisons")
    return _final_metrics(scores)


def held_out_questions(path: Path, num_questions: int | None, seed: int) -> list[Question]:
    """The test questions, or a random `num_questions` of them in the file's order."""
    questions = list(read_jsonl(path, Question))
    if not questions:
        raise ValueError(f"{path}: no questions to evaluate on; prepare a data set with a test split")
    seen: set[str] = set()
    for question in questions:
        if not question.answers:
            raise ValueError(
                f"{path}: question {question.id!r} has no answers; it cannot be scored, give it one or drop it"
            )
        if question.id in seen:
            raise ValueError(f"{path}: question id {question.id!r} occurs twice; ids must be unique")
        seen.add(question.id)
    if num_questions is None or num_questions == len(questions):
        return questions
    if num_questions > len(questions):
        logger.warning(
            "evaluation.num_questions=%d, but the test split has %d: using all", num_questions, len(questions)
        )
        return questions
    chosen = np.random.default_rng(seed).choice(len(questions), size=num_questions, replace=False)
    return [questions[i] for i in sorted(chosen)]


def _local(directory: Path, model: LanguageModelSection, device: str) -> LanguageModel:
    from jointrag.generation import LocalLM

    return LocalLM.load(directory / "model", model, device)


def _served(config: ServedConfig) -> LanguageModel:
    from jointrag.served import ServedLM

    return ServedLM(config)


def _answer(
    name: str,
    llm: LanguageModel,
    questions: Sequence[Question],
    config: EvaluationConfig,
    agents: AgentsConfig,
    *,
    retrieval_url: str,
) -> tuple[list[Episode], float]:
    """One system's episodes, in the order of `questions`, and the seconds it took to answer."""
    from jointrag.agents import build_chain
    from jointrag.generation import GREEDY
    from jointrag.pipeline import answer
    from jointrag.retrieval import HttpRetriever

    chain, retriever = build_chain(agents), HttpRetriever(retrieval_url)

    def episodes() -> Iterator[Episode]:
        for start in range(0, len(questions), config.batch_size):
            batch = questions[start : start + config.batch_size]
            yield from answer(batch, chain, retriever, llm, GREEDY)

    started = time.monotonic()
    answered = [_without_tokens(e) for e in progress(episodes(), f"evaluate {name}", total=len(questions))]
    return answered, time.monotonic() - started


def _without_tokens(episode: Episode) -> Episode:
    """The texts are kept; token ids and log-probabilities would make the file ten times as large."""
    turns: tuple[Turn, ...] = tuple(
        replace(turn, prompt_ids=(), response_ids=(), logprobs=(), values=(), support=()) for turn in episode.turns
    )
    return replace(episode, turns=turns)


def _final_metrics(scores: Scores) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name, system in scores.systems.items():
        values = system.overall.model_dump(exclude={"penalised", "num_questions"}, exclude_none=True)
        values |= {f"penalised/{agent}": share for agent, share in system.overall.penalised.items()}
        values["seconds"] = system.seconds
        metrics |= {f"eval/{name}/{key}": float(value) for key, value in values.items()}
    if (main := scores.comparison("mappo", "warm_start")) is not None:
        metrics |= {"eval/delta_f1": main.delta, "eval/delta_f1_low": main.low, "eval/delta_f1_high": main.high}
    return metrics
