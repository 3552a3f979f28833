"""The agents: warm start, then MAPPO, with everything they need before.

python -m flows.train_agents --preset demo --force mappo
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, so that --help does not wait for them
    from flows.command_line import main

    raise SystemExit(main("flows.train_agents:train_agents", __doc__))

from typing import Any

from prefect import flow

from flows.opening import Preset, StageName, opened
from tasks import stages
from tasks.serve import RetrievalServer

CHAIN = (
    "prepare", "start_retriever", "preferences", "retriever", "index", "negatives", "reranker", "serve",
    "agent_data", "warm_start", "mappo",
)  # fmt: skip


@flow(name="train-agents")
def train_agents(
    preset: Preset = "demo", overrides: dict[str, Any] | None = None, force: list[StageName] | None = None
) -> str:
    """Train the agents. Returns the path of the trained model."""
    with opened(preset, overrides, force, CHAIN) as run:
        prepared = stages.prepare(run)
        retriever = stages.retriever(run, prepared)
        index = stages.index(run, prepared, retriever)
        reranker = stages.chain_reranker(run, prepared, retriever)
        with RetrievalServer(run, index, reranker) as server:
            agent_data = stages.agent_data(run, prepared, server)
            warm_start = stages.warm_start(run, agent_data)
            mappo = stages.mappo(run, agent_data, warm_start, server)
        return str(mappo.path / "model")
