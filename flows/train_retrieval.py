"""Only the retriever: its training and its index.

python -m flows.train_retrieval --preset demo
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, so that --help does not wait for them
    from flows.command_line import main

    raise SystemExit(main("flows.train_retrieval:train_retrieval", __doc__))

from typing import Any

from prefect import flow

from flows.opening import Preset, StageName, opened
from tasks import stages


@flow(name="train-retrieval")
def train_retrieval(
    preset: Preset = "demo", overrides: dict[str, Any] | None = None, force: list[StageName] | None = None
) -> str:
    """Train the embedding model and build the index. Returns the path of the index."""
    with opened(preset, overrides, force, ("prepare", "retriever", "index")) as run:
        prepared = stages.prepare(run)
        retriever = stages.retriever(run, prepared)
        return str(stages.index(run, prepared, retriever).path)
