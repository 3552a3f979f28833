"""Only the retrieval models: the embedding model with its index, a late-interaction model, a reranker.

python -m flows.train_retrieval --preset demo
python -m flows.train_retrieval --preset retriever --set dataset.path=corpus.jsonl --set retriever.data=train.jsonl
python -m flows.train_retrieval --preset retriever --set reranker.model=BAAI/bge-reranker-base --set reranker.data=…
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, so that --help does not wait for them
    from flows.command_line import main

    raise SystemExit(main("flows.train_retrieval:train_retrieval", __doc__))

from typing import Any

from prefect import flow

from flows.opening import Preset, StageName, opened
from tasks import stages

CHAIN = (
    "prepare", "start_retriever", "preferences", "retriever", "index", "negatives", "late_interaction", "reranker"
)  # fmt: skip


@flow(name="train-retrieval")
def train_retrieval(
    preset: Preset = "demo", overrides: dict[str, Any] | None = None, force: list[StageName] | None = None
) -> dict[str, str]:
    """Train the embedding model and build the index; where the settings have them, a late-interaction model and a
    reranker. Those learn from files of their own, or from the prepared questions and what the retriever takes for
    answers. Returns the paths of the index and the models."""
    with opened(preset, overrides, force, CHAIN) as run:
        prepared = stages.prepare(run)
        retriever = stages.retriever(run, prepared)
        made = {"retriever": retriever, "index": stages.index(run, prepared, retriever)}
        negatives = stages.negatives(run, prepared, retriever) if run.config.mines_negatives else None
        if run.config.late_interaction:
            made["late_interaction"] = stages.late_interaction(run, negatives)
        if run.config.reranker and run.config.reranker.train:
            made["reranker"] = stages.reranker(run, negatives)
        return {name: str(artifact.path) for name, artifact in made.items()}
