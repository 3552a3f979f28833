"""Checkpoints of your choice on the same held-out questions, and models behind an OpenAI-compatible server.

python -m flows.evaluate_rag --preset demo --checkpoint before=models/warm_start/KEY --checkpoint after=models/mappo/KEY
python -m flows.evaluate_rag --preset demo --checkpoint after=models/mappo/KEY --checkpoint big=http://HOST:8000/v1#NAME
python -m flows.evaluate_rag --preset demo --checkpoint after=models/mappo/KEY --dataset home --dataset away:seed=1
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, so that --help does not wait for them
    from flows.command_line import main

    raise SystemExit(main("flows.evaluate_rag:evaluate_rag", __doc__))

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow

from evaluation import matrix
from flows.opening import Preset, StageName, opened, stages_of
from jointrag import artifacts
from jointrag.config import PipelineConfig
from jointrag.preflight import preflight
from jointrag.presets import ConfigError, merged, parse_overrides, resolve
from jointrag.runs import CHECKPOINTS
from tasks import stages
from tasks.publish import publish, show_matrix
from tasks.run import Run
from tasks.serve import RetrievalServer

CHAIN = (
    "prepare", "start_retriever", "preferences", "retriever", "index", "negatives", "reranker", "serve", "evaluate",
    "report",
)  # fmt: skip
RETRIEVAL = (
    "seed", "dataset", "preferences", "retriever", "index", "negatives", "reranker", "reranking", "server",
)  # fmt: skip


@flow(name="evaluate-rag")
def evaluate_rag(
    checkpoints: dict[str, str],
    preset: Preset = "demo",
    overrides: dict[str, Any] | None = None,
    force: list[StageName] | None = None,
    datasets: dict[str, dict[str, Any]] | None = None,
) -> str:
    """Evaluate finished stage outputs, by name: {"before": "models/warm_start/…"}, and served models, by address:
    {"big": "http://HOST:8000/v1#NAME"}. Returns the path of the report.

    datasets: by name, the settings in which a dataset differs: {"home": {}, "away": {"dataset.path": "data/away"}},
    or a preset whose dataset, retriever and index it has: {"away": {"preset": "single-gpu"}}. Every system answers the
    questions of every one; returns the path of the matrix.
    """
    addresses = {name: where for name, where in checkpoints.items() if where.startswith(("http://", "https://"))}
    settings = _with_served(overrides or {}, addresses)
    configs = {name: _of_dataset(name, preset, settings, own) for name, own in (datasets or {}).items()}
    with opened(preset, settings, force, CHAIN) as run:
        systems = {name: _checkpoint(name, Path(path)) for name, path in checkpoints.items() if name not in addresses}
        if not configs:
            _, evaluation, report = _evaluate(run, systems)
            return publish(run, evaluation, report)
        prepared, evaluations = {}, {}
        for name, config in configs.items():
            on_this = replace(run, config=config, stages=stages_of(config, CHAIN), records=[])
            prepared[name], evaluations[name], report = _evaluate(on_this, systems)
            publish(on_this, evaluations[name], report, f"report/{name}")
        made_from = {name: matrix.data_sets_of(system.path) for name, system in systems.items()}
        found = matrix.build(
            {name: evaluation.path for name, evaluation in evaluations.items()},
            {
                system: {name: data.fingerprint in known if known else None for name, data in prepared.items()}
                for system, known in made_from.items()
            },
            num_resamples=run.config.evaluation.num_bootstrap,
            seed=run.config.seed,
        )
        return str(show_matrix(run, found))


def _evaluate(
    run: Run, systems: dict[str, artifacts.Artifact]
) -> tuple[artifacts.Artifact, artifacts.Artifact, artifacts.Artifact]:
    """The prepared data, the evaluation on it, and the report, with learning curves where one was trained jointly."""
    prepared = stages.prepare(run)
    retriever = stages.retriever(run, prepared)
    index = stages.index(run, prepared, retriever)
    reranker = stages.chain_reranker(run, prepared, retriever)
    with RetrievalServer(run, index, reranker) as server:
        evaluation = stages.evaluate(run, prepared, systems, server)
    jointly = [system for system in systems.values() if system.stage == "mappo"]
    return prepared, evaluation, stages.report(run, evaluation, jointly[0] if len(jointly) == 1 else None)


def _of_dataset(name: str, preset: str, settings: dict[str, Any], own: dict[str, Any]) -> PipelineConfig:
    """The settings of the run, but with the dataset's own questions and retrieval."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"dataset name {name!r}: use letters, digits, '_', '-' and '.', and begin with a letter")
    if "preset" in own:
        theirs = resolve(own["preset"], {key: value for key, value in own.items() if key != "preset"})
    else:
        theirs = resolve(preset, merged(settings, own))
    config = resolve(preset, settings).model_copy(update={name: getattr(theirs, name) for name in RETRIEVAL})
    preflight(config)
    return config


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
    if artifact.stage not in CHECKPOINTS:
        raise ConfigError(
            f"checkpoint {name}={path} is the output of {artifact.stage}, not of {', '.join(CHECKPOINTS)}"
        )
    if damage := artifacts.damage(artifact.path):
        raise ConfigError(f"checkpoint {name}: {damage}")
    return artifact
