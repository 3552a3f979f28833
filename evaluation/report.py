"""Stage 9: report.md and report.html, from what evaluation and MAPPO left behind.

    write(ReportConfig(), evaluation=…, settings=config.model_dump(mode="json"), stages=[…], out=…, mappo=…)

Both say the same with the same numbers, the most important first. report.html is one file: no outside address, no
script; its figures are inline SVG that follow light and dark mode. report.md is evaluation/report_markdown.py's.
Texts from the data are escaped in both.
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

from evaluation import agent_tables, figures, result_tables, run_tables, score_figures, sentences
from evaluation.examples import Example, Examples, pick, score, sentence
from evaluation.history import History, kept_sentence, kept_step, read_history
from evaluation.page import render
from evaluation.report_markdown import as_markdown
from evaluation.scores import Scores
from evaluation.tables import Table
from jointrag.config import ReportConfig
from jointrag.jsonl import read_jsonl, write_atomically
from jointrag.types import Episode

MAX_WARNINGS = 10  # of the watchdog's, shown
PACKAGES = (
    *("jointrag", "torch", "transformers", "trl", "peft", "sentence-transformers"),
    *("faiss-cpu", "faiss-gpu", "prefect", "mlflow", "numpy"),
)


@dataclass(frozen=True, slots=True)
class Content:
    """Everything the report says, before it is Markdown or HTML."""

    scores: Scores
    tables: dict[str, Table]
    """By name, those with something in them."""
    figures: dict[str, score_figures.Figure]
    panels: tuple[figures.Panel, ...]
    other_panels: tuple[figures.Panel, ...]
    kept: str
    """Which step's weights were kept, where not the last one's."""
    warnings: tuple[tuple[int, str], ...]
    """What the watchdog said last, by step."""
    earlier_warnings: str
    """How many more there are."""
    examples: Examples
    settings: str
    versions: dict[str, str]

    @property
    def headline(self) -> str:
        return sentences.headline(self.scores)

    @property
    def control(self) -> str:
        """What the control is; "" without one."""
        return sentences.CONTROL if "control" in self.scores.systems else ""


def write(
    config: ReportConfig,
    *,
    evaluation: Path,
    settings: dict[str, Any],
    stages: Sequence[dict[str, Any]],
    out: Path,
    mappo: Path | None = None,
) -> dict[str, float]:
    """Write report.md and report.html into `out`.

    `settings` is the resolved configuration; `stages` a list of {"stage", "seconds", "cached", …} in the order run;
    `mappo` the joint training whose learning curves are shown. Returns report/num_won, report/num_lost and
    report/num_same: the number of questions on which the F1 of `Scores.main`'s system (MAPPO, where it is there) is
    above, below and at its baseline's. Raises ValueError naming the file if scores, predictions or history cannot be
    read.
    """
    content = _content(config, evaluation, mappo, settings, stages)
    write_atomically(out / "report.md", as_markdown(content))
    write_atomically(out / "report.html", _html(content))
    examples = content.examples
    return {
        "report/num_won": float(examples.num_won),
        "report/num_lost": float(examples.num_lost),
        "report/num_same": float(examples.num_same),
    }


def _content(
    config: ReportConfig,
    evaluation: Path,
    mappo: Path | None,
    settings: dict[str, Any],
    stages: Sequence[dict[str, Any]],
) -> Content:
    scores = Scores.read(evaluation / "scores.json")
    history = read_history(mappo / "history.jsonl") if mappo else History(())
    kept = kept_sentence(stages, history)
    panels, other_panels = figures.panels(history.steps, kept_step(stages) if kept else None)
    drawn = {
        "intervals": score_figures.intervals(scores),
        "waterfall": score_figures.waterfall(scores),
        "calibration": score_figures.calibration(scores),
    }
    return Content(
        scores=scores,
        tables=_tables(scores, stages),
        figures={name: figure for name, figure in drawn.items() if figure is not None},
        panels=tuple(panels),
        other_panels=tuple(other_panels),
        kept=kept,
        warnings=history.warnings[-MAX_WARNINGS:],
        earlier_warnings=_earlier(len(history.warnings) - MAX_WARNINGS),
        examples=_examples(config, scores, evaluation / "predictions"),
        settings=_settings(settings),
        versions=_versions(),
    )


def _tables(scores: Scores, stages: Sequence[dict[str, Any]]) -> dict[str, Table]:
    made = {
        "results": result_tables.results(scores),
        "differences": result_tables.main_differences(scores),
        "all_differences": result_tables.all_differences(scores),
        "attribution": result_tables.attribution(scores),
        "per_type": result_tables.per_type(scores),
        "per_hops": result_tables.per_hops(scores),
        "retrieval": agent_tables.retrieval(scores),
        "rewriter": agent_tables.rewriter(scores),
        "selector": agent_tables.selector(scores),
        "generator": agent_tables.generator(scores),
        "behaviour": agent_tables.behaviour(scores),
        "calibration": agent_tables.calibration(scores),
        "cost": agent_tables.cost(scores),
        "cost_per_agent": agent_tables.cost_per_agent(scores),
        "stages": run_tables.stage_times(stages),
        "index": run_tables.search_index(stages),
    }
    return {name: table for name, table in made.items() if table is not None and table.rows}


def _examples(config: ReportConfig, scores: Scores, predictions: Path) -> Examples:
    main = scores.main
    if main is None:
        return Examples()
    before, after = (list(read_jsonl(predictions / f"{n}.jsonl", Episode)) for n in (main.baseline, main.system))
    names = sentences.label(scores, main.baseline), sentences.label(scores, main.system)
    return pick(before, after, config.num_examples, names)


def _earlier(num_more: int) -> str:
    """How many warnings are not shown: those that count are the last."""
    return f"The last {MAX_WARNINGS}; {num_more:,} before them are in history.jsonl." if num_more > 0 else ""


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


def _html(content: Content) -> str:
    return render(
        "report.html.j2",
        content=content,
        tables=content.tables,
        figures=content.figures,
        verdict=sentences.verdict(content.scores.main),
        control_sentence=sentences.control_sentence(content.scores),
        calibration_sentence=agent_tables.calibration_sentence(content.scores),
        curves=[(panel, figures.curve_svg(panel)) for panel in content.panels],
        others=[(panel, figures.curve_svg(panel)) for panel in content.other_panels],
        examples_sentence=sentence(content.examples),
        examples=[("won", content.examples.won), ("lost", content.examples.lost)],
        chains=lambda example: _chains(content.examples, example),
    )


def _chains(examples: Examples, example: Example) -> list[dict[str, Any]]:
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
        for name, episode in zip(examples.names, (example.before, example.after), strict=True)
    ]
