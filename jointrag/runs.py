"""Runs of flows on disk: which there are, and which artifacts their stages were.

    run = find("spry-wren", workspace=Path())          # a part of its name that no other has; None: the newest finished
    run.config.agents.chain, run.stage("index")        # settings, and the folder of a stage's output

A run's folder is runs/flows/<preset>-<name>/ of its workspace. It holds config.yaml (the resolved settings) and
stages.json: when it started and finished, and for every stage the path of its output, relative to the workspace.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jointrag.config import PipelineConfig

RUNS = Path("runs") / "flows"
STAGES, CONFIG = "stages.json", "config.yaml"
CHECKPOINTS = {
    "mappo": "jointly trained",
    "control": "trained further by imitation",
    "warm_start": "before joint training",
}
"""Stages whose output plays the agents, the most interesting first, and what it is."""
_AGAIN = ": an older version made it; run the same flow with the same settings again, finished stages are not repeated"
_SHOWN = 12  # runs that an error lists


@dataclass
class StageRecord:
    """stages.json of a run that is going on. It is written anew after every change."""

    folder: Path
    workspace: Path
    started: str = field(default_factory=lambda: _now())
    finished: str | None = None
    stages: dict[str, str] = field(default_factory=dict)

    def begin(self) -> None:
        self._write()

    def add(self, stage: str, output: Path) -> None:
        self.stages[stage] = output.relative_to(self.workspace).as_posix()
        self._write()

    def finish(self) -> None:
        self.finished = _now()
        self._write()

    def _write(self) -> None:
        from jointrag.jsonl import write_atomically  # brings pydantic, which `jointrag --help` does not need

        row = {"started": self.started, "finished": self.finished, "stages": self.stages}
        write_atomically(self.folder / STAGES, json.dumps(row, indent=1) + "\n")


@dataclass(frozen=True)
class RecordedRun:
    """A run's folder, read."""

    folder: Path
    started: str
    finished: str | None
    stages: dict[str, Path]
    """Outputs of the stages that are finished: absolute paths."""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def workspace(self) -> Path:
        return self.folder.parents[len(RUNS.parts)]

    @cached_property
    def config(self) -> PipelineConfig:
        """The settings it ran with. Raises ConfigError where this version does not know them."""
        from jointrag.presets import read_resolved

        return read_resolved(self.folder / CONFIG)

    @property
    def checkpoints(self) -> list[str]:
        return [stage for stage in CHECKPOINTS if stage in self.stages]

    @property
    def can_answer(self) -> bool:
        return "index" in self.stages and bool(self.checkpoints)

    def stage(self, name: str) -> Path:
        """The output of a stage. Raises ValueError for one that the run has not, or whose folder is gone."""
        if name not in self.stages:
            raise ValueError(f"run {self.name} has no {name}; it has {', '.join(self.stages) or 'finished no stage'}")
        path = self.stages[name]
        if not path.is_dir():
            raise ValueError(
                f"run {self.name}: {path} is gone; run the same flow with the same settings again, which makes the "
                f"stage {name} again and repeats nothing else"
            )
        return path


def runs(workspace: Path) -> list[RecordedRun]:
    """All that have a stages.json, the newest first."""
    found = [_read(folder) for folder in (workspace.resolve() / RUNS).glob("*") if (folder / STAGES).is_file()]
    return sorted(found, key=lambda run: run.started, reverse=True)


def find(name: str | None, workspace: Path) -> RecordedRun:
    """The run of that name, of that folder, or the only one whose name has `name` in it; None: the newest that finished
    and can answer questions. Raises ValueError that says which runs there are."""
    known = runs(workspace)
    where = workspace.resolve() / RUNS
    if name is None:
        if finished := [run for run in known if run.finished and run.can_answer]:
            return finished[0]
        raise ValueError(f"{where}: no finished run with trained agents{_listing(known) or _older(where)}")
    if (folder := Path(name).resolve()).parts[-3:-1] == RUNS.parts and (folder / STAGES).is_file():
        return _read(folder)
    if exact := [run for run in known if run.name == name]:
        return exact[0]
    matching = [run for run in known if name in run.name]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise ValueError(f"{len(matching)} runs have {name!r} in their names{_listing(matching)}")
    if (where / name).is_dir():
        raise ValueError(f"{where / name} has no {STAGES}{_AGAIN}")
    raise ValueError(f"no run {name!r} in {where}{_listing(known) or _older(where)}")


def _read(folder: Path) -> RecordedRun:
    file = folder / STAGES
    workspace = folder.parents[len(RUNS.parts)]
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
        stages = {str(stage): workspace / path for stage, path in row["stages"].items()}
        return RecordedRun(folder, str(row["started"]), row["finished"], stages)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: damaged ({type(error).__name__}: {error}); run the same flow again") from None


def _listing(known: Sequence[RecordedRun]) -> str:
    if not known:
        return ""
    width = max(len(run.name) for run in known[:_SHOWN])
    lines = [f"  {run.name:<{width}}  {run.started[:16].replace('T', ' ')}  {_state(run)}" for run in known[:_SHOWN]]
    more = [f"  and {len(known) - _SHOWN} older ones"] if len(known) > _SHOWN else []
    return "; there are\n" + "\n".join([*lines, *more])


def _older(where: Path) -> str:
    """What to do where no run has a stages.json."""
    if any(where.glob(f"*/{CONFIG}")):
        return f"; those that are there have no {STAGES}{_AGAIN}"
    return "; train one first: python -m flows.full_pipeline (or name another --workspace)"


def _state(run: RecordedRun) -> str:
    what = ", ".join(run.checkpoints) or "no trained agents"
    return what if run.finished else f"{what}; not finished"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
