"""The process a training stage runs in: `python -m tasks.child spec.json`, started by tasks.stage.

The spec names a plain function and everything it is called with. The outcome goes to a file beside the spec: the
metrics, or what went wrong in a sentence. The process ends with its parent.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from jointrag import artifacts
from jointrag.jsonl import write_atomically
from jointrag.parent import exit_with_parent
from jointrag.tracking import MlflowTracker, NoTracker, Tracker


@dataclass(frozen=True)
class Section:
    """A config section and its class, `module:name`."""

    type: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Spec:
    """One call of a stage function."""

    function: str
    """`module:name`, imported only where it runs."""
    out: str
    sections: dict[str, Section] = field(default_factory=dict)
    paths: dict[str, Any] = field(default_factory=dict)
    """Artifact directories by argument name: a path, or a dictionary of paths."""
    values: dict[str, Any] = field(default_factory=dict)
    """Every other argument."""
    takes_tracker: bool = False
    tracking_uri: str | None = None
    tracking_id: str | None = None
    num_threads: int | None = None


def call(spec: Spec) -> dict[str, float]:
    """Import the function and call it."""
    arguments: dict[str, Any] = {name: _section(section) for name, section in spec.sections.items()}
    arguments |= {name: _paths(path) for name, path in spec.paths.items()}
    arguments |= spec.values
    tracker = _tracker(spec)
    if spec.takes_tracker:
        arguments["tracker"] = tracker
    try:
        return load(spec.function)(**arguments, out=Path(spec.out))
    finally:
        if isinstance(tracker, MlflowTracker):
            tracker.flush()


def load(name: str) -> Any:
    """The object `module:name`."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _section(section: Section) -> Any:
    return TypeAdapter(load(section.type)).validate_python(section.values)


def _paths(path: Any) -> Any:
    return {name: Path(inner) for name, inner in path.items()} if isinstance(path, dict) else Path(path)


def _tracker(spec: Spec) -> Tracker:
    known = spec.tracking_uri and spec.tracking_id
    return MlflowTracker(str(spec.tracking_uri), str(spec.tracking_id)) if known else NoTracker()


def main(path: Path) -> int:
    exit_with_parent()
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="%(levelname)s %(message)s")
    for name in ("jointrag", "trainers", "evaluation", "retrieval_server"):
        logging.getLogger(name).setLevel(logging.INFO)
    spec = TypeAdapter(Spec).validate_json(path.read_bytes())
    if spec.num_threads:
        import torch

        torch.set_num_threads(spec.num_threads)
    outcome = outcome_of(path)
    try:
        with artifacts.writing(Path(spec.out)):
            metrics = call(spec)
    except Exception as error:
        write_atomically(outcome, json.dumps({"error": explain(error)}))
        return 1
    write_atomically(outcome, json.dumps({"metrics": metrics}))
    return 0


def outcome_of(path: Path) -> Path:
    """The file beside the spec that says how the call ended."""
    return path.with_name("outcome.json")


def explain(error: Exception) -> str:
    """A sentence for the user's mistakes (a ValueError of ours says what to do); for all else also a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, ValueError) and frames and "site-packages" not in frames[-1].filename:
        return str(error)
    traceback.print_exception(error, file=sys.stdout)
    return f"{type(error).__name__}: {error}"


def to_json(spec: Spec) -> str:
    return json.dumps(asdict(spec))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
