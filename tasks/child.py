"""The process a training stage runs in: `python -m tasks.child spec.json`, started by tasks.stage.

The spec names a plain function and everything it is called with. The outcome goes to a file beside the spec: the
metrics, or what went wrong in a sentence. The process ends with its parent.

Where several processes share the stage (tasks.launch), each is one of these. The first of them logs, tracks and tells
the metrics; of those that fail, the one that did so first tells why, because the others fail for want of it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
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
    if "retrieval_url" in arguments:
        urls = arguments["retrieval_url"].split(",")
        arguments["retrieval_url"] = urls[rank() % len(urls)]
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
    if os.getpgrp() == os.getpid():  # else the launcher leads this group and watches for it
        exit_with_parent()
    is_first = rank() == 0
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="%(levelname)s %(message)s")
    for name in ("jointrag", "trainers", "evaluation", "retrieval_server"):
        logging.getLogger(name).setLevel(logging.INFO if is_first else logging.WARNING)
    spec = TypeAdapter(Spec).validate_json(path.read_bytes())
    if not is_first:
        spec = replace(spec, tracking_id=None)
    if spec.num_threads:
        import torch

        torch.set_num_threads(spec.num_threads)
    try:
        with artifacts.writing(Path(spec.out)) if is_first else nullcontext():
            metrics = call(spec)
    except Exception as error:
        if not error_of(path).exists():
            write_atomically(error_of(path), explain(error))
        return 1
    if is_first:
        write_atomically(metrics_of(path), json.dumps(metrics))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from trainers.parallel import Team

        Team.leave()
    return 0


def rank() -> int:
    """Which of the processes that share the stage this one is."""
    return int(os.environ.get("RANK", "0"))


def metrics_of(path: Path) -> Path:
    """The file beside the spec that the metrics go to."""
    return path.with_name("metrics.json")


def error_of(path: Path) -> Path:
    """The file beside the spec that says what went wrong."""
    return path.with_name("error.txt")


def explain(error: Exception) -> str:
    """A sentence where it says what to do, as a ValueError of ours or a server that is gone; else also a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, ValueError) and frames and "site-packages" not in frames[-1].filename:
        return str(error)
    if isinstance(error, ConnectionError) and type(error).__module__.startswith("jointrag."):
        return str(error)
    traceback.print_exception(error, file=sys.stdout)
    return f"{type(error).__name__}: {error}"


def to_json(spec: Spec) -> str:
    return json.dumps(asdict(spec))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
