"""The report's tables about answers: systems, differences between them, where points are lost, question groups.

`console` is what is printed at the end of a run; it shows the same numbers as the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.scores import Attribution, AttributionStep, Comparison, Measures, Scores
from evaluation.sentences import control_sentence, headline, label, lost, pair
from evaluation.tables import Table, change, p_value, plain, points, signed

METRIC_LABELS = {"f1": "F1", "em": "EM", "accuracy": "accuracy", "judged": "judged right"}


def console(scores: Scores) -> str:
    """A short plain-text table with the headline below it."""
    sentences = filter(None, [headline(scores), control_sentence(scores)])
    return "\n".join([plain(results(scores)), "", *sentences])


def results(scores: Scores) -> Table:
    """Every system on the same questions, the simplest first."""
    systems = {label(scores, name): system.overall for name, system in scores.systems.items()}
    judged = scores.judge is not None
    columns = ["F1", "EM", "accuracy", *(["judged right"] if judged else []), "gold retrieved", "gold read"]

    def cells(m: Measures) -> list[str]:
        answers = [points(m.f1), points(m.em), points(m.accuracy), *([points(m.judged)] if judged else [])]
        return [*answers, points(m.retrieval_recall), points(m.read_recall)]

    known = any(m.retrieval_recall is not None for m in systems.values())
    notes = [
        "Gold retrieved: share of a question's gold passages among the candidates. "
        "Gold read: share that reached the generator."
        if known
        else "The data names no gold passages, so what was retrieved and read cannot be judged.",
        *_simple_systems(scores),
        *([f"Judged right: by {scores.judge}."] if judged else []),
    ]
    return Table(
        f"Results on {scores.num_questions:,} held-out questions, in percent",
        ("system", *columns),
        tuple((name, *cells(m)) for name, m in systems.items()),
        " ".join(notes),
    )


def _simple_systems(scores: Scores) -> list[str]:
    """What the simplest systems are, where they are there."""
    said = {
        "no_retrieval": "the last agent alone, without passages",
        "plain_rag": "the question itself is searched for and the last agent reads all it finds",
    }
    found = []
    for name, system in scores.systems.items():
        if system.kind in said:
            weights = f" (weights: {label(scores, system.model)})" if system.model in scores.systems else ""
            found.append(f"{label(scores, name)}: {said[system.kind]}{weights}.")
    return [text[:1].upper() + text[1:] for text in found]


def main_differences(scores: Scores) -> Table | None:
    """The subject against every other system, with p-values; None without another one."""
    rows = subjects_differences(scores)
    caption = f"Differences to {label(scores, scores.subject)} on the same questions, in points"
    return _differences(scores, rows, caption) if rows else None


def subjects_differences(scores: Scores) -> list[Comparison]:
    """In F1 over all questions, of the report's subject and every other system; the main one first."""
    rows = [c for c in _overall(scores) if scores.subject in (c.system, c.baseline)]
    return sorted(rows, key=lambda c: c != scores.main)


def _overall(scores: Scores) -> list[Comparison]:
    return [c for c in scores.comparisons if c.metric == "f1" and c.type is None and c.hops is None]


def all_differences(scores: Scores) -> Table | None:
    """Every pair of systems; None where the main table has them all."""
    rows = _overall(scores)
    if len(rows) == len(subjects_differences(scores)):
        return None
    return _differences(scores, rows, "Differences between all pairs of systems, in points")


def _differences(scores: Scores, rows: list[Comparison], caption: str) -> Table:
    others = [m for m in METRIC_LABELS if m != "f1" and (m != "judged" or scores.judge)]

    def delta(c: Comparison, metric: str) -> str:
        found = scores.comparison(c.system, c.baseline, metric)
        return "–" if found is None else signed(found.delta)

    return Table(
        caption,
        ("comparison", "F1", "p", *(METRIC_LABELS[m] for m in others)),
        tuple((pair(scores, c), _cell(c), p_value(c.p_value), *(delta(c, m) for m in others)) for c in rows),
        "In brackets: 95 % paired-bootstrap interval; one that contains 0 means: no measurable difference. "
        "p: two-sided, by approximate randomisation, for F1. "
        "Both cover the choice of questions, not the training seed.",
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """Some of the questions: every system's measures on them, and the main difference there."""

    name: str
    measures: dict[str, Measures]
    main: Comparison | None


def main_difference(scores: Scores, type: str | None = None, hops: int | None = None) -> Comparison | None:
    """The main one, over the questions of a type or with so many hops."""
    main = scores.main
    return main and scores.comparison(main.system, main.baseline, type=type, hops=hops)


def per_type(scores: Scores) -> Table | None:
    """F1 of every system for each question type; None where the data names no types."""
    groups = [
        _Group(
            f"{name or '(none)'} ({count:,})",
            {system: s.types[name] for system, s in scores.systems.items() if name in s.types},
            main_difference(scores, type=name),
        )
        for name, count in scores.types.items()
    ]
    return _per_group(scores, "F1 per question type", groups)


def per_hops(scores: Scores) -> Table | None:
    """F1 of every system by the number of passages that an answer needs; None where all need as many."""
    groups = [
        _Group(
            f"{hops} hop{'' if hops == 1 else 's'} ({count:,})",
            {system: s.hops[hops] for system, s in scores.systems.items() if hops in s.hops},
            main_difference(scores, hops=hops),
        )
        for hops, count in scores.hops.items()
    ]
    return _per_group(scores, "F1 per hop count", groups)


def _per_group(scores: Scores, caption: str, groups: Sequence[_Group]) -> Table | None:
    if not groups:
        return None
    rows = [
        (label(scores, name), *(points(g.measures[name].f1) if name in g.measures else "–" for g in groups))
        for name in scores.systems
    ]
    if scores.main and any(group.main for group in groups):
        rows.append((pair(scores, scores.main), *(_cell(group.main) for group in groups)))
    return Table(
        caption,
        ("", *(group.name for group in groups)),
        tuple(rows),
        "In brackets: the number of questions; in the last row, the 95 % interval.",
    )


def _cell(comparison: Comparison | None) -> str:
    return "–" if comparison is None else change(comparison.delta, comparison.low, comparison.high)


def attributed(scores: Scores) -> dict[str, Attribution]:
    """The systems whose losses were attributed, by name."""
    return {name: system.attribution for name, system in scores.systems.items() if system.attribution}


def attribution(scores: Scores) -> Table | None:
    """Points of F1 lost at each agent, per system; None where nothing could be attributed."""
    found = attributed(scores)
    if not found:
        return None
    losses = {name: lost(one) for name, one in found.items()}
    agents = list(dict.fromkeys(agent for steps in losses.values() for agent in steps))
    rows = [("F1 as it is", *(points(one.steps[0].f1) for one in found.values()))]
    for agent in agents:
        steps = [steps.get(agent) for steps in losses.values()]
        rows.append((f"lost at the {agent}", *("–" if s is None else _loss(s) for s in steps)))
    alone = {agent: [steps.get(agent) for steps in losses.values()] for agent in agents}
    rows += [
        (f"{agent} alone gold", *("–" if s is None or s.alone is None else signed(s.alone) for s in steps))
        for agent, steps in alone.items()
        if any(s is not None and s.alone is not None for s in steps)
    ]
    count = max(one.num_questions for one in found.values())
    return Table(
        f"Where points of F1 are lost, on the {count:,} questions that name gold passages",
        ("", *(label(scores, name) for name in found)),
        tuple(rows),
        "One after the other, an agent's output is replaced by the gold one: sub-questions, passages, selection. What "
        "that gains was lost there, given that everything before it is gold; the rest is lost at the generator. "
        "In brackets: 95 % interval. Alone gold: what is gained if nothing else is replaced.",
    )


def _loss(step: AttributionStep) -> str:
    """18.1 (15.1 to 21.1): like `change`, without plus signs."""
    return change(step.delta, step.low, step.high).replace("+", "")
