"""Calls a stage's plain function, here or in a process of its own, and says what went wrong in a sentence."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from jointrag.artifacts import Artifact
from tasks import child, supervisor

logger = logging.getLogger(__name__)
QUIET = {  # the libraries' own bars and chatter: a stage reports its progress itself
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


class StageFailed(RuntimeError):
    """A stage did not finish; the message says which and why."""


@dataclass(frozen=True)
class Call:
    """A stage's function with its arguments, but for the artifacts it reads."""

    function: str
    sections: Mapping[str, BaseModel]
    values: Mapping[str, Any]
    takes_tracker: bool
    num_threads: int | None
    own_process: bool
    num_processes: int
    """That share the work, where it has processes of its own."""
    accelerate_config: Path | None
    failed: Callable[[], str | None]
    """Says when something the stage relies on is gone for good."""


def execute(
    call: Call,
    inputs: Mapping[str, Any],
    *,
    stage: str,
    out: Path,
    folder: Path,
    tracking_uri: str | None,
    tracking_id: str | None,
) -> dict[str, float]:
    """Run the function into `out` and return its metrics; `folder` is the flow run's own. Raises StageFailed."""
    spec = child.Spec(
        function=call.function,
        out=str(out),
        sections={name: _section(section) for name, section in call.sections.items()},
        paths={name: _paths(value) for name, value in inputs.items()},
        values=dict(call.values),
        takes_tracker=call.takes_tracker,
        tracking_uri=tracking_uri,
        tracking_id=tracking_id,
        num_threads=call.num_threads,
    )
    if call.own_process:
        return _in_a_process(call, spec, stage, folder)
    try:
        return child.call(spec)
    except Exception as error:
        raise StageFailed(f"{stage}: {child.explain(error)}") from error


def _in_a_process(call: Call, spec: child.Spec, stage: str, folder: Path) -> dict[str, float]:
    environment = dict(QUIET)
    if spec.tracking_id:
        environment["MLFLOW_RUN_ID"] = spec.tracking_id
    command = ["tasks.child"]
    if call.num_processes > 1 or call.accelerate_config:
        command = ["tasks.launch", "--num-processes", str(call.num_processes)]
        command += ["--accelerate-config", str(call.accelerate_config)] if call.accelerate_config else []
        environment["OMP_NUM_THREADS"] = "1"
    if spec.num_threads:
        environment["OMP_NUM_THREADS"] = str(spec.num_threads)
    file = folder / stage / "spec.json"  # kept with the run: exactly what was called
    file.parent.mkdir(exist_ok=True)
    file.write_text(child.to_json(spec), encoding="utf-8")
    told, metrics = child.error_of(file), child.metrics_of(file)
    for old in (told, metrics):
        old.unlink(missing_ok=True)
    try:
        supervisor.run(
            [sys.executable, "-m", *command, str(file)],
            on_line=_report,
            environment=environment,
            failed=call.failed,
        )
    except supervisor.CommandFailed as error:
        reason = call.failed() or (told.read_text(encoding="utf-8") if told.exists() else None)
        tail = "" if reason else "".join(f"\n    {line}" for line in error.lines)
        raise StageFailed(f"{stage}: {reason or error}{tail}") from None
    return json.loads(metrics.read_text(encoding="utf-8"))


def _report(line: str) -> None:
    level = logging.WARNING if line.startswith(("WARNING ", "ERROR ")) else logging.INFO
    logger.log(level, "      %s", line.removeprefix("INFO "))


def _section(section: BaseModel) -> child.Section:
    cls = type(section)
    return child.Section(f"{cls.__module__}:{cls.__qualname__}", section.model_dump(mode="json"))


def _paths(value: Artifact | Mapping[str, Artifact]) -> Any:
    return str(value.path) if isinstance(value, Artifact) else {name: str(inner.path) for name, inner in value.items()}
