"""Checkpoints of your choice on the same held-out questions.

python -m flows.evaluate_rag --preset demo --checkpoint before=models/warm_start/KEY --checkpoint after=models/mappo/KEY
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, so that --help does not wait for them
    from flows.command_line import main

    raise SystemExit(main("flows.evaluate_rag:evaluate_rag", __doc__))

import re
from pathlib import Path
from typing import Any

from prefect import flow

from flows.opening import Preset, StageName, opened
from jointrag import artifacts
from jointrag.presets import ConfigError
from tasks import stages
from tasks.publish import show_scores
from tasks.serve import RetrievalServer

CHAIN = ("prepare", "retriever", "index", "serve", "evaluate")
AGENT_STAGES = ("warm_start", "mappo", "control")


@flow(name="evaluate-rag")
def evaluate_rag(
    checkpoints: dict[str, str],
    preset: Preset = "demo",
    overrides: dict[str, Any] | None = None,
    force: list[StageName] | None = None,
) -> str:
    """Evaluate finished stage outputs, by name: {"before": "models/warm_start/…"}. Returns the path of the scores."""
    with opened(preset, overrides, force, CHAIN) as run:
        systems = {name: _checkpoint(name, Path(path)) for name, path in checkpoints.items()}
        prepared = stages.prepare(run)
        retriever = stages.retriever(run, prepared)
        index = stages.index(run, prepared, retriever)
        with RetrievalServer(run, index) as server:
            evaluation = stages.evaluate(run, prepared, systems, server)
        show_scores(run, evaluation)
        return str(evaluation.path)


def _checkpoint(name: str, path: Path) -> artifacts.Artifact:
    """A finished output of a stage that trains the agents. `name` becomes a file name."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"checkpoint name {name!r}: use letters, digits, '_', '-' and '.', and begin with a letter")
    artifact = artifacts.read(path.resolve())
    if artifact.stage not in AGENT_STAGES:
        raise ConfigError(
            f"checkpoint {name}={path} is the output of {artifact.stage}, not of {', '.join(AGENT_STAGES)}"
        )
    if damage := artifacts.damage(artifact.path):
        raise ConfigError(f"checkpoint {name}: {damage}")
    return artifact
