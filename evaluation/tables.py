"""The report's tables and sentences, made once from `Scores` and rendered as HTML, Markdown or plain text.

Scores are shown times 100 with one decimal, differences with their sign. `results_table` is what the console prints at
the end of a run; it shows the same numbers as the report.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.scores import Comparison, Scores

LABELS = {"warm_start": "warm start", "control": "control", "mappo": "MAPPO"}
METRIC_LABELS = {"f1": "F1", "em": "EM", "accuracy": "accuracy"}

CONTROL = (
    "The control is the warm start trained further, for as long as MAPPO, but by imitation: on supervised examples for "
    "every agent, made from labelled questions of the target domain. MAPPO sees the answers to its questions and "
    "nothing else. The control says what labels would have bought in the same time."
)


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are ready-made strings, not yet escaped. The first column names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


# ---- numbers and names -----------------------------------------------------------------------------------------------


def points(share: float | None) -> str:
    """0.782 → "78.2"; "–" where nothing was measured."""
    return "–" if share is None else f"{100 * share:.1f}"


def signed(share: float) -> str:
    """0.232 → "+23.2", -0.011 → "−1.1", 0 → "0.0". A second decimal where the first would read as zero."""
    if share == 0:
        return "0.0"
    digits = 1 if abs(share) >= 0.0005 else 2
    return f"{100 * share:+.{digits}f}".replace("-", "−")


def interval(comparison: Comparison) -> str:
    return f"{signed(comparison.low)} to {signed(comparison.high)}"


def label(system: str) -> str:
    return LABELS.get(system, system)


def duration(seconds: float) -> str:
    """75 → "1 min 15 s"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


# ---- sentences -------------------------------------------------------------------------------------------------------


def verdict(comparison: Comparison | None) -> str:
    """Raised or lowered only if the whole interval is on that side of zero, else same; "" without a comparison."""
    if comparison is None:
        return ""
    return "raised" if comparison.low > 0 else "lowered" if comparison.high < 0 else "same"


def headline(scores: Scores) -> str:
    """The result in one plain sentence, whatever it is."""
    count = f"{scores.num_questions:,} held-out question{'s' if scores.num_questions != 1 else ''}"
    main = scores.comparison("mappo", "warm_start")
    if main is None:
        found = ", ".join(f"{points(system.overall.f1)} ({label(name)})" for name, system in scores.systems.items())
        return f"F1 on {count}: {found}."
    before, after = points(scores.systems["warm_start"].overall.f1), points(scores.systems["mappo"].overall.f1)
    change = f"({signed(main.delta)}, 95 % interval {interval(main)})"
    if verdict(main) == "same":
        return f"Joint training made no measurable difference: F1 {before} before, {after} after {change} on {count}."
    return f"Joint training {verdict(main)} F1 from {before} to {after} {change} on {count}."


def control_sentence(scores: Scores) -> str:
    """How MAPPO stands against the control; "" without one."""
    against = scores.comparison("mappo", "control")
    if against is None:
        return ""
    reached = f"The control reached F1 {points(scores.systems['control'].overall.f1)}"
    change = f"95 % interval {interval(against)}"
    if verdict(against) == "same":
        return f"{reached}, not measurably different from MAPPO ({signed(against.delta)}, {change})."
    side = "above" if against.delta > 0 else "below"
    return f"{reached}: MAPPO is {signed(abs(against.delta)).lstrip('+')} points {side} it ({change})."


# ---- tables ----------------------------------------------------------------------------------------------------------


def results(scores: Scores) -> Table:
    rows = [
        (label(name), points(m.f1), points(m.em), points(m.accuracy), points(m.retrieval_recall), points(m.read_recall))
        for name, m in ((name, system.overall) for name, system in scores.systems.items())
    ]
    known = any(system.overall.retrieval_recall is not None for system in scores.systems.values())
    return Table(
        f"Results on {scores.num_questions:,} held-out questions, in percent",
        ("system", "F1", "EM", "accuracy", "gold retrieved", "gold read"),
        tuple(rows),
        "Gold retrieved: share of a question's gold passages among the candidates. "
        "Gold read: share that reached the generator."
        if known
        else "The data names no gold passages, so what was retrieved and read cannot be judged.",
    )


def comparisons(scores: Scores) -> Table:
    """Every pair of systems: each metric's difference over all questions."""
    pairs = list(dict.fromkeys((c.system, c.baseline) for c in scores.comparisons))
    pairs.sort(key=lambda names: names != ("mappo", "warm_start"))
    return Table(
        "Differences on the same questions, in points (95 % paired-bootstrap interval)",
        ("comparison", *METRIC_LABELS.values()),
        tuple(
            (
                f"{label(system)} − {label(baseline)}",
                *(_cell(scores.comparison(system, baseline, m)) for m in METRIC_LABELS),
            )
            for system, baseline in pairs
        ),
        "An interval that contains 0 means: no measurable difference. "
        "It covers the choice of questions, not the training seed.",
    )


def per_type(scores: Scores) -> Table | None:
    """F1 of every system for each question type; None where the data names no types."""
    if not scores.types:
        return None
    main = scores.comparison("mappo", "warm_start") is not None
    rows = []
    for name, count in scores.types.items():
        row = [name or "(none)", f"{count:,}", *(points(s.types[name].f1) for s in scores.systems.values())]
        rows.append((*row, _cell(scores.comparison("mappo", "warm_start", type=name))) if main else tuple(row))
    columns = ("type", "questions", *(label(name) for name in scores.systems))
    return Table("F1 per question type", (*columns, "MAPPO − warm start") if main else columns, tuple(rows))


def _cell(comparison: Comparison | None) -> str:
    """+23.2 (+20.1 to +26.4), which a narrow table may break before the bracket and before the upper end."""
    if comparison is None:
        return "–"
    return f"{signed(comparison.delta)} ({interval(comparison)})".replace(" to", "\u00a0to")


def behaviour(scores: Scores) -> Table:
    """What the agents did: one row per measure, one column per system."""
    measures = {name: system.overall for name, system in scores.systems.items()}
    agents = list(dict.fromkeys(agent for m in measures.values() for agent in m.penalised))

    def row(what: str, value: Any) -> tuple[str, ...]:
        return (what, *(value(m) for m in measures.values()))

    rows = [
        row("sub-questions per question", lambda m: f"{m.num_sub_questions:.2f}"),
        row("candidates retrieved", lambda m: f"{m.num_candidates:.2f}"),
        row("passages read", lambda m: f"{m.num_read:.2f}"),
        row("gold passages retrieved, %", lambda m: points(m.retrieval_recall)),
        row("gold passages read, %", lambda m: points(m.read_recall)),
        row("passages read that are gold, %", lambda m: points(m.read_precision)),
        row("words per answer", lambda m: f"{m.num_answer_words:.2f}"),
        *(row(f"penalised responses, {agent}, %", lambda m, a=agent: points(m.penalised.get(a))) for agent in agents),
        ("seconds for all questions", *(f"{system.seconds:.0f}" for system in scores.systems.values())),
    ]
    return Table(
        "Means over all questions",
        ("", *(label(name) for name in measures)),
        tuple(rows),
        "Penalised: malformed, too long, too many or empty, as the reward counts it.",
    )


def stage_times(stages: Sequence[dict[str, Any]]) -> Table:
    rows = []
    for stage in stages:
        reused = bool(stage.get("cached"))
        rows.append((str(stage["stage"]).replace("_", " "), "reused" if reused else duration(float(stage["seconds"]))))
    total = sum(float(stage["seconds"]) for stage in stages if not stage.get("cached"))
    rows.append(("total", duration(total)))
    return Table(
        "Time per stage", ("stage", "time"), tuple(rows), "Reused: an earlier run's result with the same inputs."
    )


def search_index(stages: Sequence[dict[str, Any]]) -> Table | None:
    """How large the index is, and how much of what exact search finds it finds."""
    metrics = next((stage["metrics"] for stage in stages if stage["stage"] == "index"), None)
    if metrics is None:
        return None
    rows = [("passages", f"{metrics['index/passages']:,.0f}"), ("on disk", f"{metrics['index/bytes'] / 1e6:,.1f} MB")]
    if "index/recall@10" in metrics:
        rows.append(("recall@10 against exact search", points(metrics["index/recall@10"])))
    return Table(
        "The index", ("", "value"), tuple(rows), "Recall: of the 10 passages nearest to a query, those that it finds."
    )


def pair(comparison: Comparison) -> str:
    return f"{label(comparison.system)} − {label(comparison.baseline)}"


# ---- renderings ------------------------------------------------------------------------------------------------------


def results_table(scores: dict[str, Any]) -> str:
    """The content of scores.json as a short plain-text table with the headline below it, for the console."""
    parsed = Scores.model_validate(scores)
    sentences = filter(None, [headline(parsed), control_sentence(parsed)])
    return "\n".join([plain(results(parsed)), "", *sentences])


def plain(table: Table) -> str:
    """Columns aligned with spaces: the first to the left, the others to the right."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    text = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([text[0], "─" * len(text[0]), *text[1:]])


def markdown(table: Table) -> str:
    """A Markdown table with its caption above and its note below."""
    lines = [
        "| " + " | ".join(map(markdown_escape, table.columns)) + " |",
        "|" + "|".join([" :-- ", *[" --: "] * (len(table.columns) - 1)]) + "|",
        *("| " + " | ".join(map(markdown_escape, row)) + " |" for row in table.rows),
    ]
    note = ["", markdown_escape(table.note)] if table.note else []
    return "\n".join([f"**{markdown_escape(table.caption)}**", "", *lines, *note])


def markdown_escape(text: str) -> str:
    """One line that shows as it is: neither Markdown nor HTML in it has any effect."""
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
