"""The report's tables about the agents: retrieval, rewriter, selector, what each does and what it costs."""

from __future__ import annotations

import re

from evaluation.scores import Measures, Scores
from evaluation.sentences import label
from evaluation.tables import Table, number, points

NAMES = {"recall": "recall", "mrr": "MRR", "ndcg": "nDCG", "map": "MAP", "answer": "answer found"}


def behaviour(scores: Scores) -> Table:
    """What the agents did."""
    measures = {label(scores, name): system.overall for name, system in scores.systems.items()}
    agents = list(dict.fromkeys(agent for m in measures.values() for agent in m.penalised))
    rows = [
        (
            name,
            number(m.num_sub_questions),
            number(m.num_candidates),
            number(m.num_read),
            number(m.num_answer_words),
            *(points(m.penalised.get(agent)) for agent in agents),
        )
        for name, m in measures.items()
    ]
    columns = ("sub-questions", "candidates", "passages read", "answer words", *(f"{a} penalised, %" for a in agents))
    return Table(
        "Means per question",
        ("", *columns),
        tuple(rows),
        "Penalised: malformed, too long, too many or empty, as the reward counts it.",
    )


def retrieval(scores: Scores) -> Table | None:
    """What the question itself finds, and what each system's sub-questions find in its place."""
    searching = {
        label(scores, name): system.overall.retrieval
        for name, system in scores.systems.items()
        if system.overall.retrieval
        and not (system.kind in ("plain_rag", "subset") and system.overall.retrieval == scores.question_retrieval)
    }
    keys = list(dict.fromkeys(key for found in searching.values() for key in found))
    shown = [key for key in keys if key.startswith("recall@")] + _deepest(keys)
    if not shown:
        return None
    before = [("the question itself", scores.question_retrieval)] if scores.question_retrieval else []
    rows = [(name, *(points(found.get(key)) for key in shown)) for name, found in [*before, *searching.items()]]
    return Table(
        "Retrieval before and after rewriting, in percent",
        ("searched for", *(_metric(key) for key in shown)),
        tuple(rows),
        "Of the candidates in the order in which the selector sees them, against the gold passages. "
        "Answer found: share of questions with a gold answer in one of the passages.",
    )


def _deepest(keys: list[str]) -> list[str]:
    """Of every metric but recall, the one at the largest k."""
    best: dict[str, str] = {}
    for key in keys:
        metric, _, k = key.partition("@")
        if metric != "recall" and int(k) >= int(best.get(metric, "@0").partition("@")[2]):
            best[metric] = key
    return list(best.values())


def _metric(key: str) -> str:
    return re.sub(r"^\w+", lambda match: NAMES.get(match[0], match[0]), key)


def rewriter(scores: Scores) -> Table | None:
    """Gold passages that sub-questions bring and lose; None where no system has any."""
    asking = {
        label(scores, name): system.overall
        for name, system in scores.systems.items()
        if system.kind != "plain_rag" and (system.kind != "subset" or "rewriter" in system.agents)
    }
    rows = [
        (name, number(m.num_sub_questions), number(m.new_gold), number(m.lost_gold), number(m.new_gold - m.lost_gold))
        for name, m in asking.items()
        if m.new_gold is not None and m.lost_gold is not None
    ]
    return _unless_empty(
        "The rewriter: gold passages per question, compared with searching for the question itself",
        ("", "sub-questions", "brought", "lost", "net"),
        rows,
    )


def selector(scores: Scores) -> Table | None:
    """The selection against the gold passages among the candidates."""
    rows = [
        (
            name,
            *(points(value) for value in (m.selector_precision, m.selector_recall, m.selector_f1, m.selector_exact)),
            number(m.num_read),
            points(m.penalised.get("selector")),
        )
        for name, m in _measures(scores).items()
        if m.selector_f1 is not None
    ]
    return _unless_empty(
        "The selector against the gold passages among its candidates, in percent",
        ("", "precision", "recall", "F1", "exactly right", "passages read", "malformed"),
        rows,
        "Exactly right: all gold passages and nothing else. Malformed: lists the reward charges for their form.",
    )


def generator(scores: Scores) -> Table:
    """Whether answers say too much or too little."""
    rows = [
        (name, points(m.precision), points(m.recall), number(m.num_answer_words))
        for name, m in _measures(scores).items()
    ]
    return Table(
        "The generator: words of its answers, in percent",
        ("", "precision", "recall", "words per answer"),
        tuple(rows),
        "Precision: share of the answer's words that are in the gold answer. Recall: share of the gold answer's words "
        "that are in the answer.",
    )


def cost(scores: Scores) -> Table | None:
    """Per question: calls of the model, tokens and seconds, all agents together."""
    rows = []
    for name, system in scores.systems.items():
        agents = [one for agent, one in system.cost.items() if agent != "retriever"]
        if system.cost:
            rows.append(
                (
                    label(scores, name),
                    number(sum(a.num_calls for a in agents), 1),
                    number(sum(a.num_prompt_tokens for a in agents), 0),
                    number(sum(a.num_response_tokens for a in agents), 1),
                    _milliseconds(sum(a.seconds for a in system.cost.values())),
                )
            )
    return _unless_empty(
        "Cost per question",
        ("", "model calls", "tokens read", "tokens written", "time"),
        rows,
        "Time: share of the batch's, retrieval included; questions are answered in batches.",
    )


def cost_per_agent(scores: Scores) -> Table | None:
    """The same for every agent by itself."""
    rows = [
        (
            f"{label(scores, name)}: {agent}",
            number(one.num_calls, 1),
            number(one.num_prompt_tokens, 0),
            number(one.num_response_tokens, 1),
            _milliseconds(one.seconds),
        )
        for name, system in scores.systems.items()
        for agent, one in system.cost.items()
    ]
    return _unless_empty(
        "Cost per question and agent",
        ("", "calls", "tokens read", "tokens written", "time"),
        rows,
        "Calls: prompts that the model answered; for the retriever, searches.",
    )


def calibration(scores: Scores) -> Table | None:
    """How often selections are right, by how sure the selector was of them."""
    rows = [
        (
            f"{label(scores, name)}, {points(one.low)}–{points(one.high)}",
            f"{one.num_questions:,}",
            points(one.confidence),
            points(one.exact),
            points(one.f1),
        )
        for name, system in scores.systems.items()
        if system.calibration
        for one in system.calibration.bins
    ]
    return _unless_empty(
        "The selector's confidence, in percent",
        ("confidence", "questions", "mean", "exactly right", "answer F1"),
        rows,
        "Confidence: the probability of the whole selection as it was written.",
    )


def calibration_sentence(scores: Scores) -> str:
    """The expected calibration errors in words; "" where none was measured."""
    errors = [
        f"{points(system.calibration.error)} ({label(scores, name)})"
        for name, system in scores.systems.items()
        if system.calibration
    ]
    return (
        f"Mean distance between the selector's confidence and how often it is exactly right, in points: "
        f"{', '.join(errors)}."
        if errors
        else ""
    )


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f}\u00a0ms" if seconds < 10 else f"{seconds:,.1f}\u00a0s"


def _measures(scores: Scores) -> dict[str, Measures]:
    return {label(scores, name): system.overall for name, system in scores.systems.items()}


def _unless_empty(caption: str, columns: tuple[str, ...], rows: list[tuple[str, ...]], note: str = "") -> Table | None:
    return Table(caption, columns, tuple(rows), note) if rows else None
