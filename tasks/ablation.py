"""The last stage of an ablation, its table, and the places where people look for it."""

from __future__ import annotations

import logging

from prefect.artifacts import create_markdown_artifact

from evaluation import ablation_tables
from evaluation.ablation_data import Result
from jointrag.ablations import Ablation
from jointrag.artifacts import Artifact
from tasks.run import Run, Stage

logger = logging.getLogger(__name__)
ABLATION = Stage("ablation", "evaluation.ablation:write", own_process=False)


def make_table(run: Run, ablation: Ablation, evaluations: dict[str, Artifact]) -> Artifact:
    """The table. `evaluations`: by "row.seed"."""
    sections = {"ablation": ablation, "config": run.config.evaluation}
    return run.build(ABLATION, sections, {"runs": evaluations})


def publish_table(run: Run, made: Artifact) -> str:
    """The table on the console, as a Prefect artifact and in MLflow. Returns the path of ablation.html."""
    result = Result.read(made.path / "ablation.json")
    create_markdown_artifact(
        key=f"ablation-{result.name.lower().replace('_', '-')}",
        markdown=(made.path / "ablation.md").read_text(encoding="utf-8"),
        description=ablation_tables.headline(result),
    )
    if run.pipeline:
        for name in ("ablation.json", "ablation.md", "ablation.html"):
            run.pipeline.run.log_artifact(made.path / name, "report")
    for line in ["", *ablation_tables.as_text(result).splitlines(), ""]:
        logger.info("%s", line)
    page = str(made.path / "ablation.html")
    logger.info("table  %s", page)
    if run.pipeline and (address := run.pipeline.address()):
        logger.info("MLflow  %s", address)
    return page
