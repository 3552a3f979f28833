"""report.md: what report.html says, as Markdown with tables.

Its learning curves are one PNG in a data URI, referenced by name, so that the text above it stays readable and the file
can be shown where no second file can follow (a Prefect artifact, for one). The other figures are in its tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evaluation import agent_tables, figures, sentences
from evaluation.examples import Examples, score, sentence
from evaluation.page import shorten
from evaluation.tables import markdown, points
from evaluation.tables import markdown_escape as escaped
from jointrag.types import Episode

if TYPE_CHECKING:
    from evaluation.report import Content

AGENTS = ("retrieval", "rewriter", "selector", "generator", "behaviour", "cost", "cost_per_agent")


def as_markdown(content: Content) -> str:
    scores, tables = content.scores, {name: markdown(table) for name, table in content.tables.items()}
    parts = ["# JointRAG report", f"**{escaped(content.headline)}**", escaped(sentences.control_sentence(scores))]
    parts += [tables["results"], content.control]
    parts += [tables.get(name, "") for name in ("differences", "all_differences", "per_type", "per_hops")]
    if "attribution" in tables:
        parts += ["## Where points are lost", tables["attribution"]]
    if content.panels:
        alt = " ".join(panel.alt for panel in content.panels).replace("[", "(").replace("]", ")")
        parts += ["## Learning curves", f"![{alt}][curves]", content.kept]
    if content.warnings:
        lines = [f"- step {step}: {escaped(text)}" for step, text in content.warnings]
        parts += ["### What the watchdog said", content.earlier_warnings, "\n".join(lines)]
    parts += ["## What the agents do", *(tables.get(name, "") for name in AGENTS)]
    if "calibration" in tables:
        parts += [tables["calibration"], escaped(agent_tables.calibration_sentence(scores))]
    parts += _examples(content.examples)
    parts += ["## Time, settings, versions", tables["stages"], tables.get("index", "")]
    parts.append(
        "\n".join(f"    {line}" for line in content.settings.splitlines())
    )  # indented: no fence to break out of
    parts.append(", ".join(f"{name} {number}" for name, number in content.versions.items()))
    if content.panels:
        parts.append(f"[curves]: {figures.curves_png(content.panels)}")
    return "\n\n".join(filter(None, parts)) + "\n"


def _examples(examples: Examples) -> list[str]:
    if not examples.won and not examples.lost:
        return []
    parts = ["## Questions won and lost", sentence(examples)]
    for title, chosen in (("Won", examples.won), ("Lost", examples.lost)):
        for example in chosen:
            question = example.before.question
            parts.append(f"### {title}: {escaped(question.text)}")
            parts.append(f"Gold: {escaped(' | '.join(question.answers))}")
            before, after = examples.names
            parts += [_chain(before, example.before), _chain(after, example.after)]
    return parts


def _chain(name: str, episode: Episode) -> str:
    lines = [f"- **{escaped(name)}**: {escaped(episode.answer) or '(no answer)'} (F1 {points(score(episode))})"]
    lines += [f"  - asks: {escaped(sub_question)}" for sub_question in episode.sub_questions]
    read, gold = set(episode.chosen), set(episode.question.gold_passages)
    for passage in episode.candidates:
        marks = ("reads" if passage in read else "passes over") + (" (gold)" if passage.id in gold else "")
        lines.append(f"  - {marks}: {escaped(shorten(passage.contents))}")
    return "\n".join(lines)
