"""Toy stages behind the real machinery, and a flow of three: one in-process, one in a process, one that resumes."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from jointrag.config import IndexConfig, SyntheticDataset
from jointrag.tracking import Tracker

CHAIN = ("prepare", "index", "mappo")


def prepare(config: SyntheticDataset, *, notes: str, seed: int, out: Path) -> dict[str, float]:
    _called(notes, "prepare")
    (out / "questions.txt").write_text(f"{config.num_people} {seed}")
    return {"prepare/people": float(config.num_people)}


def index(config: IndexConfig, *, notes: str, prepared: Path, out: Path) -> dict[str, float]:
    _called(notes, "index")
    (out / "index.txt").write_text(f"{(prepared / 'questions.txt').read_text()} {config.factory}")
    return {"index/size": 1.0}


def train(
    config: IndexConfig, *, notes: str, index: Path, systems: dict[str, Path], out: Path, tracker: Tracker
) -> dict[str, float]:
    """Three steps, each kept; fails or hangs after the first where the notes folder says so."""
    _called(notes, "mappo")
    state = out / "checkpoint.json"
    steps = json.loads(state.read_text()) if state.exists() else []
    while len(steps) < 3:
        steps.append(os.getpid())
        state.write_text(json.dumps(steps))
        tracker.log_metrics({"mappo/step": len(steps)}, step=len(steps))
        print(f"step {len(steps)} of 3", flush=True)
        if (Path(notes) / "fail").exists():
            raise ValueError("the reward is not a number; lower mappo.learning_rate")
        if (Path(notes) / "hang").exists():
            time.sleep(120)
    (out / "model").mkdir()
    (out / "model" / "weights.txt").write_text("w" * 10)
    state.unlink()
    return {"mappo/reward": 0.5, "mappo/resumed": float(len(set(steps)) > 1)}


def _called(notes: str, name: str) -> None:
    with (Path(notes) / "calls").open("a") as file:
        file.write(f"{name}\n")


def toy_flow() -> Any:
    """The flow; Prefect is imported only now, after the environment points somewhere."""
    from prefect import flow

    from jointrag.config import PipelineConfig
    from tasks.run import Stage, open_run

    first = Stage("prepare", "tests.integration.toy:prepare", takes=frozenset({"seed"}), own_process=False)
    second = Stage("index", "tests.integration.toy:index")
    third = Stage("mappo", "tests.integration.toy:train", takes=frozenset({"tracker"}), resumable=True)

    @flow(name="toy")
    def toy(workspace: str, people: int = 5, factory: str = "Flat", force: tuple[str, ...] = ()) -> None:
        config = PipelineConfig(workspace=Path(workspace), dataset=SyntheticDataset(num_people=people))
        notes = {"notes": workspace}
        with open_run(config, "toy", CHAIN, force, os.environ.get("MLFLOW_TRACKING_URI")) as run:
            prepared = run.build(first, {"config": config.dataset}, {}, values=notes)
            built = run.build(second, {"config": IndexConfig(factory=factory)}, {"prepared": prepared}, values=notes)
            inputs = {"index": built, "systems": {"one": prepared}}
            run.build(third, {"config": IndexConfig()}, inputs, values=notes)

    return toy


if __name__ == "__main__":  # python -m tests.integration.toy WORKSPACE, with PREFECT_API_URL set
    toy_flow()(sys.argv[1])
