"""The first line of every flow: settings resolved, checked, written down; records opened."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from jointrag.preflight import preflight
from jointrag.presets import resolve
from tasks.run import Run, open_run

# Spelled out, because Prefect's pages make forms of them; a test compares them with configs/ and the stages.
Preset = Literal["demo", "smoke", "single-gpu", "paper"]
StageName = Literal[
    "prepare", "retriever", "index", "agent_data", "warm_start", "mappo", "control", "evaluate", "report"
]


@contextmanager
def opened(
    preset: str, overrides: dict[str, Any] | None, force: Sequence[str] | None, chain: tuple[str, ...]
) -> Iterator[Run]:
    """The run of this flow. `chain`: the names of its stages in order. Raises ConfigError before anything runs."""
    config = resolve(preset, overrides or {})
    preflight(config)
    if not config.control.enabled:
        chain = tuple(name for name in chain if name != "control")
    mlflow_uri = config.tracking.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI")
    with open_run(config, preset, chain, force or (), mlflow_uri) as run:
        yield run
