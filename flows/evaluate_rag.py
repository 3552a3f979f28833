"""Checkpoints of your choice on the same held-out questions, and models behind an OpenAI-compatible server.

python -m flows.evaluate_rag --preset demo --checkpoint before=models/warm_start/KEY --checkpoint after=models/mappo/KEY
python -m flows.evaluate_rag --preset demo --checkpoint after=models/mappo/KEY --checkpoint big=http://HOST:8000/v1#NAME
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
from jointrag.presets import ConfigError, parse_overrides
from tasks import stages
from tasks.publish import show_scores
from tasks.serve import RetrievalServer

CHAIN = (
    "prepare", "start_retriever", "preferences", "retriever", "index", "negatives", "reranker", "serve", "evaluate"
)  # fmt: skip
AGENT_STAGES = ("warm_start", "mappo", "control")


@flow(name="evaluate-rag")
def evaluate_rag(
    checkpoints: dict[str, str],
    preset: Preset = "demo",
    overrides: dict[str, Any] | None = None,
    force: list[StageName] | None = None,
) -> str:
    """Evaluate finished stage outputs, by name: {"before": "models/warm_start/…"}, and served models, by address:
    {"big": "http://HOST:8000/v1#NAME"}. Returns the path of the scores."""
    addresses = {name: where for name, where in checkpoints.items() if where.startswith(("http://", "https://"))}
    with opened(preset, _with_served(overrides or {}, addresses), force, CHAIN) as run:
        systems = {name: _checkpoint(name, Path(path)) for name, path in checkpoints.items() if name not in addresses}
        prepared = stages.prepare(run)
        retriever = stages.retriever(run, prepared)
        index = stages.index(run, prepared, retriever)
        reranker = stages.chain_reranker(run, prepared, retriever)
        with RetrievalServer(run, index, reranker) as server:
            evaluation = stages.evaluate(run, prepared, systems, server)
        show_scores(run, evaluation)
        return str(evaluation.path)


def _with_served(overrides: dict[str, Any], addresses: dict[str, str]) -> dict[str, Any]:
    """The overrides and, in evaluation.served, the addresses; what else an entry needs may be among the overrides."""
    merged = parse_overrides(overrides)
    for name, address in addresses.items():
        if "." in name:
            raise ConfigError(
                f"checkpoint name {name!r}: a served model's has no dots, they part the names of settings"
            )
        base_url, _, model = address.partition("#")
        if not model:
            raise ConfigError(f"checkpoint {name}={address} does not name the model: {name}={address}#MODEL")
        entry = merged.setdefault("evaluation", {}).setdefault("served", {}).setdefault(name, {})
        entry |= {"base_url": base_url, "name": model}
    return merged


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
