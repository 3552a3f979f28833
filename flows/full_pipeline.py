"""The whole pipeline: from a corpus and questions to trained agents and a report that says whether it helped.

python -m flows.full_pipeline --preset demo --set mappo.num_steps=50
prefect deployment run full-pipeline/demo --watch
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, so that --help does not wait for them
    from flows.command_line import main

    raise SystemExit(main("flows.full_pipeline:full_pipeline", __doc__))

from typing import Any

from prefect import flow

from flows.opening import Preset, StageName, opened
from jointrag.artifacts import Artifact
from tasks import stages
from tasks.publish import publish
from tasks.run import Run
from tasks.serve import RetrievalServer

CHAIN = (
    "prepare", "start_retriever", "preferences", "retriever", "index", "negatives", "reranker", "serve",
    "agent_data", "warm_start", "mappo", "control", "evaluate", "report",
)  # fmt: skip


@flow(name="full-pipeline")
def full_pipeline(
    preset: Preset = "demo", overrides: dict[str, Any] | None = None, force: list[StageName] | None = None
) -> str:
    """Train and evaluate a whole RAG team. Returns the path of the report.

    overrides: settings that differ from the preset, nested or dotted: {"mappo.num_steps": 50}.
    force: stages to do again although they are finished.
    """
    with opened(preset, overrides, force, CHAIN) as run:
        evaluation, report = trained_and_evaluated(run)
        return publish(run, evaluation, report)


def trained_and_evaluated(run: Run) -> tuple[Artifact, Artifact]:
    """All stages in order; the outputs of the last two."""
    prepared = stages.prepare(run)
    retriever = stages.retriever(run, prepared)
    index = stages.index(run, prepared, retriever)
    reranker = stages.chain_reranker(run, prepared, retriever)
    with RetrievalServer(run, index, reranker) as server:
        agent_data = stages.agent_data(run, prepared, server)
        warm_start = stages.warm_start(run, agent_data)
        mappo = stages.mappo(run, agent_data, warm_start, server)
        systems = {"warm_start": warm_start, "mappo": mappo}
        if run.config.control.enabled:
            systems["control"] = stages.control(run, agent_data, warm_start, mappo)
        evaluation = stages.evaluate(run, prepared, systems, server)
    return evaluation, stages.report(run, evaluation, mappo)
