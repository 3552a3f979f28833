"""Everything a run needs to go on after step n, in one file, written aside and renamed; and the best weights so far.

The data order and the random numbers of a step follow from the seed and the step's number, so they need no place here.
Sharded models are whole in the file.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainers.mappo.policy import Policy
from trainers.mappo.sharding import part_like, whole

logger = logging.getLogger(__name__)
KEEP = 2


@dataclass(frozen=True)
class Progress:
    """How far a run has come, and all that it carries from step to step but for weights and optimiser."""

    step: int = 0  # steps done
    train_seconds: float = 0.0
    kl_coefficient: float = 0.0
    rate_factor: float = 1.0  # halved by every roll-back
    skipped_updates: int = 0  # not finite, all in all
    bad_updates: int = 0  # the same, in a row until now
    best_dev_f1: float = -1.0
    kept_step: int | None = None  # whose weights are in best-n.pt
    kept_dev_f1: float = -1.0
    watchdog: dict[str, Any] = field(default_factory=dict)
    ended: str = ""  # why the watchdog ended the run
    last: dict[str, Any] = field(default_factory=dict)  # the step's line in the history


class Checkpoints:
    """The checkpoints of one run. `writes`: whether this process is the one that writes them. All processes call."""

    def __init__(self, folder: Path, policy: Policy, optimizer: torch.optim.Optimizer, writes: bool) -> None:
        self.folder, self.writes = folder, writes
        self._policy, self._optimizer = policy, optimizer
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, progress: Progress) -> None:
        """Write step-n.pt; drop all but the last two, and best weights that have been outdone. Not earlier: a run
        that is killed goes on from the newest step-n.pt, which may still name them."""
        self._write(f"step-{progress.step:06d}.pt", progress)
        if self.writes:
            outdone = [path for path in self.folder.glob("best-*.pt") if path != self._best(progress)]
            for old in [*self._steps()[:-KEEP], *outdone]:
                old.unlink()

    def keep_best(self, progress: Progress) -> None:
        """Write best-n.pt: these weights are the ones to keep, as far as dev can tell."""
        self._write(self._best(progress).name, progress)

    def resume(self, start: Progress) -> Progress:
        """Load the newest checkpoint into policy and optimiser; `start` where there is none.

        Best weights found after that checkpoint lie unused until they are found again.
        """
        paths = self._steps()
        if not paths:
            return start
        progress = self._load(paths[-1])
        logger.info("MAPPO resumes after step %d", progress.step)
        return progress

    def restore_best(self, progress: Progress) -> None:
        """Load the best weights, and the optimiser as it was with them."""
        self._load(self._best(progress))

    def _best(self, progress: Progress) -> Path:
        return self.folder / f"best-{progress.kept_step or 0:06d}.pt"

    def _write(self, name: str, progress: Progress) -> None:
        path = self.folder / name
        aside = path.with_suffix(".tmp")
        optimizer = self._optimizer.state_dict()
        moments = {i: {k: self._kept(v) for k, v in state.items()} for i, state in optimizer["state"].items()}
        state = {
            "progress": asdict(progress),
            "policy": {name: self._kept(p) for name, p in self._policy.named_parameters().items()},
            "optimizer": optimizer | {"state": moments},
        }
        if self.writes:
            torch.save(state, aside)
            aside.replace(path)

    def _kept(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The whole tensor, which every process has to ask for and one writes."""
        full = whole(tensor)
        return full.cpu() if self.writes else None

    def _load(self, path: Path) -> Progress:
        state = torch.load(path, map_location="cpu", weights_only=True)
        parameters = self._policy.named_parameters()
        with torch.no_grad():
            for name, value in state["policy"].items():
                parameters[name].copy_(part_like(value, parameters[name]))
        in_order = [p for group in self._optimizer.param_groups for p in group["params"]]
        for i, moments in state["optimizer"]["state"].items():
            for name, value in moments.items():
                if value.shape == in_order[i].shape:  # the count of steps is a number
                    moments[name] = part_like(value, in_order[i])
        self._optimizer.load_state_dict(state["optimizer"])
        return Progress(**state["progress"])

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.pt"))
