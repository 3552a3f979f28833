"""The results where people look for them: the console, the Prefect run's page, the MLflow parent run."""

from __future__ import annotations

import logging
from pathlib import Path

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from evaluation import matrix, result_tables, tables
from evaluation.sampled_traces import sampled
from evaluation.scores import Matrix, Scores
from evaluation.sentences import headline
from jointrag.artifacts import Artifact
from jointrag.jsonl import write_atomically
from tasks.run import Run

logger = logging.getLogger(__name__)


def show_scores(run: Run, evaluation: Artifact) -> None:
    """The table of results, printed and on the Prefect page; traces of some questions in MLflow."""
    scores = Scores.read(evaluation.path / "scores.json")
    table = result_tables.results(scores)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    create_table_artifact(key="results", table=rows, description=headline(scores))
    for line in ["", *result_tables.console(scores).splitlines(), ""]:
        logger.info("%s", line)
    logger.info("scores  %s", evaluation.path / "scores.json")
    if run.pipeline and run.config.tracking.num_traces:
        run.pipeline.log_traces(sampled(evaluation.path, run.config.tracking.num_traces))
    if run.pipeline and (address := run.pipeline.address()):
        logger.info("MLflow  %s", address)


def show_matrix(run: Run, found: Matrix) -> Path:
    """Several datasets' table, printed, on the Prefect page and in MLflow. Returns the path of matrix.json, in the
    run's folder."""
    path = run.folder / "matrix.json"
    write_atomically(path, found.model_dump_json(indent=2) + "\n")
    table = matrix.table(found)
    write_atomically(path.with_suffix(".md"), tables.markdown(table) + "\n")
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    create_table_artifact(key="matrix", table=rows, description=table.caption)
    if run.pipeline:
        run.pipeline.run.log_artifact(path)
        cells = ((system, dataset, cell) for system, row in found.cells.items() for dataset, cell in row.items())
        run.pipeline.add({f"matrix/{system}/{dataset}/f1": cell.f1 for system, dataset, cell in cells})
    for line in ["", table.caption, *tables.plain(table).splitlines(), "", f"matrix  {path}"]:
        logger.info("%s", line)
    return path


def publish(run: Run, evaluation: Artifact, report: Artifact, folder: str = "report") -> str:
    """The report as a Prefect artifact and in MLflow, there in `folder`, the table on the console. Returns the path of
    report.html."""
    create_markdown_artifact(key="report", markdown=(report.path / "report.md").read_text(encoding="utf-8"))
    if run.pipeline:
        for name in ("report.md", "report.html"):
            run.pipeline.run.log_artifact(report.path / name, folder)
        run.pipeline.run.log_artifact(evaluation.path / "scores.json", folder)
    show_scores(run, evaluation)
    page = str(report.path / "report.html")
    logger.info("report  %s", page)
    return page
