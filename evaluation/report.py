"""Stage 9: report.md and report.html, from what evaluation and MAPPO left behind.

    write(ReportConfig(), evaluation=…, mappo=…, settings=config.model_dump(mode="json"), stages=[…], out=…)

Both say the same with the same numbers. report.html is one file: no outside address, no script; its figures are inline
SVG that follow light and dark mode. report.md carries its learning curves as one PNG in a data URI, referenced by
name, so that the text above it stays readable and the file can be shown where no second file can follow (a Prefect
artifact, for one). Texts from the data are escaped in both.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evaluation import figures, tables
from evaluation.examples import Example, Examples, pick, score
from evaluation.history import kept_sentence, kept_step, read_history
from evaluation.scores import Comparison, Scores
from evaluation.tables import markdown_escape as escaped
from evaluation.tables import results_table
from jointrag.config import ReportConfig
from jointrag.jsonl import read_jsonl, write_atomically
from jointrag.types import Episode

__all__ = ["results_table", "write"]

MAX_CHARACTERS = 280  # of a passage in the examples
MAX_WARNINGS = 10  # of the watchdog's, shown
PACKAGES = (
    *("jointrag", "torch", "transformers", "trl", "peft", "sentence-transformers"),
    *("faiss-cpu", "faiss-gpu", "prefect", "mlflow", "numpy"),
)


@dataclass(frozen=True, slots=True)
class Content:
    """Everything the report says, before it is Markdown or HTML."""

    scores: Scores
    tables: dict[str, tables.Table]
    intervals: tuple[tuple[str, Comparison], ...]
    panels: tuple[figures.Panel, ...]
    other_panels: tuple[figures.Panel, ...]
    kept: str
    """Which step's weights were kept, where not the last one's."""
    warnings: tuple[tuple[int, str], ...]
    """What the watchdog said, by step."""
    examples: Examples
    settings: str
    versions: dict[str, str]


def write(
    config: ReportConfig,
    *,
    evaluation: Path,
    mappo: Path,
    settings: dict[str, Any],
    stages: Sequence[dict[str, Any]],
    out: Path,
) -> dict[str, float]:
    """Write report.md and report.html into `out`.

    `settings` is the resolved configuration; `stages` a list of {"stage", "seconds", "cached", …} in the order run.
    Returns report/num_won, report/num_lost and report/num_same: the number of questions on which MAPPO's F1 is above,
    below and at the warm start's. Raises ValueError naming the file if scores, predictions or history cannot be read.
    """
    content = _content(config, evaluation, mappo, settings, stages)
    write_atomically(out / "report.md", _markdown(content))
    write_atomically(out / "report.html", _html(content))
    examples = content.examples
    return {
        "report/num_won": float(examples.num_won),
        "report/num_lost": float(examples.num_lost),
        "report/num_same": float(examples.num_same),
    }


def _content(
    config: ReportConfig, evaluation: Path, mappo: Path, settings: dict[str, Any], stages: Sequence[dict[str, Any]]
) -> Content:
    scores = Scores.read(evaluation / "scores.json")
    examples = Examples()
    if {"warm_start", "mappo"} <= set(scores.systems):
        before, after = (
            list(read_jsonl(evaluation / "predictions" / f"{name}.jsonl", Episode)) for name in ("warm_start", "mappo")
        )
        examples = pick(before, after, config.num_examples)
    history = read_history(mappo / "history.jsonl")
    kept = kept_sentence(stages, history)
    panels, other_panels = figures.panels(history.steps, kept_step(stages) if kept else None)
    shown = {
        "results": tables.results(scores),
        "comparisons": tables.comparisons(scores),
        "per_type": tables.per_type(scores),
        "behaviour": tables.behaviour(scores),
        "stages": tables.stage_times(stages),
        "index": tables.search_index(stages),
    }
    return Content(
        scores=scores,
        tables={name: table for name, table in shown.items() if table is not None and table.rows},
        intervals=_intervals(scores),
        panels=tuple(panels),
        other_panels=tuple(other_panels),
        kept=kept,
        warnings=history.warnings,
        examples=examples,
        settings=_settings(settings),
        versions=_versions(),
    )


def _intervals(scores: Scores) -> tuple[tuple[str, Comparison], ...]:
    """The rows of the interval figure: every pair over all questions, then MAPPO − warm start per type."""
    rows = [(tables.pair(c), c) for c in scores.comparisons if c.metric == "f1" and c.type is None]
    rows.sort(key=lambda row: (row[1].system, row[1].baseline) != ("mappo", "warm_start"))
    for name in scores.types:
        if (c := scores.comparison("mappo", "warm_start", type=name)) is not None:
            rows.append((f"MAPPO − warm start, {name or '(none)'}", c))
    return tuple(rows)


def _settings(settings: dict[str, Any]) -> str:
    """The settings as YAML, without passwords in addresses."""
    import yaml

    plain = json.loads(json.dumps(settings, default=str))
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # an optional one
            continue
    return found | {"machine": f"{platform.system()} {platform.machine()}"}


# ---- Markdown --------------------------------------------------------------------------------------------------------


def _markdown(content: Content) -> str:
    scores = content.scores
    parts = ["# JointRAG report", f"**{escaped(tables.headline(scores))}**", escaped(tables.control_sentence(scores))]
    for name in ("results", "comparisons", "per_type"):
        if name in content.tables:
            parts.append(tables.markdown(content.tables[name]))
        if name == "results" and "control" in scores.systems:
            parts.append(tables.CONTROL)
    if content.panels:
        alt = " ".join(panel.alt for panel in content.panels).replace("[", "(").replace("]", ")")
        parts += ["## Learning curves", f"![{alt}][curves]", content.kept]
    if content.warnings:
        lines = [f"- step {step}: {escaped(text)}" for step, text in content.warnings[-MAX_WARNINGS:]]
        parts += ["### What the watchdog said", _earlier(content.warnings), "\n".join(lines)]
    parts += ["## What the agents do", tables.markdown(content.tables["behaviour"])]
    parts += _markdown_examples(content.examples)
    parts += ["## Time, settings, versions", tables.markdown(content.tables["stages"])]
    if "index" in content.tables:
        parts.append(tables.markdown(content.tables["index"]))
    parts.append(
        "\n".join(f"    {line}" for line in content.settings.splitlines())
    )  # indented: no fence to break out of
    parts.append(", ".join(f"{name} {number}" for name, number in content.versions.items()))
    if content.panels:
        parts.append(f"[curves]: {figures.curves_png(content.panels)}")
    return "\n\n".join(filter(None, parts)) + "\n"


def _earlier(warnings: Sequence[tuple[int, str]]) -> str:
    """How many are not shown: those that count are the last."""
    num_more = len(warnings) - MAX_WARNINGS
    return f"The last {MAX_WARNINGS}; {num_more:,} before them are in history.jsonl." if num_more > 0 else ""


def _markdown_examples(examples: Examples) -> list[str]:
    if not examples.won and not examples.lost:
        return []
    parts = ["## Questions won and lost", _examples_sentence(examples)]
    for title, chosen in (("Won", examples.won), ("Lost", examples.lost)):
        for example in chosen:
            question = example.before.question
            parts.append(f"### {title}: {escaped(question.text)}")
            parts.append(f"Gold: {escaped(' | '.join(question.answers))}")
            parts += [
                _markdown_chain(name, e) for name, e in (("warm start", example.before), ("MAPPO", example.after))
            ]
    return parts


def _markdown_chain(name: str, episode: Episode) -> str:
    lines = [f"- **{name}**: {escaped(episode.answer) or '(no answer)'} (F1 {tables.points(score(episode))})"]
    lines += [f"  - asks: {escaped(sub_question)}" for sub_question in episode.sub_questions]
    read, gold = set(episode.chosen), set(episode.question.gold_passages)
    for passage in episode.candidates:
        marks = ("reads" if passage in read else "passes over") + (" (gold)" if passage.id in gold else "")
        lines.append(f"  - {marks}: {escaped(shorten(passage.contents))}")
    return "\n".join(lines)


def _examples_sentence(examples: Examples) -> str:
    return (
        f"F1 rose on {examples.num_won:,} questions, fell on {examples.num_lost:,} "
        f"and stayed on {examples.num_same:,}. "
        f"Shown: {len(examples.won)} of the first and {len(examples.lost)} of the second, picked at random."
    )


def shorten(text: str) -> str:
    """One line of at most MAX_CHARACTERS."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_CHARACTERS else line[: MAX_CHARACTERS - 1].rstrip() + "…"


# ---- HTML ------------------------------------------------------------------------------------------------------------


def _html(content: Content) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"points": tables.points, "shorten": shorten}
    curves = [(panel, figures.curve_svg(panel)) for panel in content.panels]
    others = [(panel, figures.curve_svg(panel)) for panel in content.other_panels]
    main = content.scores.comparison("mappo", "warm_start")
    return environment.get_template("report.html.j2").render(
        content=content,
        headline=tables.headline(content.scores),
        verdict=tables.verdict(main),
        control_sentence=tables.control_sentence(content.scores),
        control=tables.CONTROL if "control" in content.scores.systems else "",
        interval_svg=figures.interval_svg(content.intervals) if content.intervals else "",
        interval_alt=figures.interval_alt(content.intervals),
        curves=curves,
        others=others,
        warnings=content.warnings[-MAX_WARNINGS:],
        earlier_warnings=_earlier(content.warnings),
        examples_sentence=_examples_sentence(content.examples),
        examples=[("won", content.examples.won), ("lost", content.examples.lost)],
        chains=_chains,
    )


def _chains(example: Example) -> list[dict[str, Any]]:
    """The two columns of an example, for the template."""
    return [
        {
            "name": name,
            "answer": episode.answer,
            "f1": score(episode),
            "sub_questions": episode.sub_questions,
            "passages": [
                {
                    "text": passage.contents,
                    "read": passage in episode.chosen,
                    "gold": passage.id in episode.question.gold_passages,
                }
                for passage in episode.candidates
            ],
        }
        for name, episode in (("warm start", example.before), ("MAPPO", example.after))
    ]
