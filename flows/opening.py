"""The first line of every flow: settings resolved, checked, written down; records opened."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from jointrag.config import PipelineConfig
from jointrag.preflight import preflight
from jointrag.presets import ConfigError, resolve
from tasks.run import Run, open_run

# Spelled out, because Prefect's pages make forms of them; a test compares them with configs/ and the stages.
Preset = Literal["demo", "smoke", "hotpotqa-sample", "musique-sample", "retriever", "index", "single-gpu", "paper"]
StageName = Literal[
    "prepare",
    "start_retriever",
    "preferences",
    "retriever",
    "index",
    "negatives",
    "late_interaction",
    "reranker",
    "agent_data",
    "warm_start",
    "mappo",
    "control",
    "evaluate",
    "report",
]


def _optional(config: PipelineConfig) -> dict[str, bool]:
    """Stages that not every run has, and whether this one does."""
    by_preference = config.retriever.train and config.retriever.supervision == "preference"
    return {
        "start_retriever": by_preference,
        "preferences": by_preference,
        "negatives": config.mines_negatives,
        "late_interaction": config.late_interaction is not None,
        "reranker": config.reranker is not None and config.reranker.train,
        "control": config.control.enabled,
    }


def stages_of(config: PipelineConfig, chain: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `chain` that a run with these settings has."""
    left_out = {name for name, wanted in _optional(config).items() if not wanted}
    return tuple(name for name in chain if name not in left_out)


@contextmanager
def opened(
    preset: str,
    overrides: dict[str, Any] | None,
    force: Sequence[str] | None,
    chain: tuple[str, ...],
    name: str | None = None,
) -> Iterator[Run]:
    """The run of this flow. `chain`: the names of its stages in order; `name`: what its records are called, where that
    is not the preset's. Raises ConfigError before anything runs."""
    config = resolve(preset, overrides or {})
    preflight(config)
    chain = stages_of(config, chain)
    if missing := [name for name in force or () if name not in chain]:
        raise ConfigError(f"force names {missing[0]}, which is no stage of this run; it has {', '.join(chain)}")
    mlflow_uri = config.tracking.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI")
    with open_run(config, name or preset, chain, force or (), mlflow_uri) as run:
        yield run
