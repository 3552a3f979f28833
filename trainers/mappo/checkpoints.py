"""Everything a run needs to go on after step n, in one file, written aside and renamed."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jointrag.jsonl import write_jsonl

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int = 0  # steps done
    train_seconds: float = 0.0
    kl_coefficient: float = 0.0


def save(folder: Path, progress: Progress, policy: Any, optimizer: torch.optim.Optimizer, keep: int = 2) -> None:
    """Write `folder`/step-n.pt and drop all but the last `keep`. The data order and the random numbers of a step follow
    from the seed and its number, so they need no place here."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = {name: p.detach().cpu() for name, p in policy.model.named_parameters() if p.requires_grad}
    state = {
        "progress": vars(progress),
        "policy": trained,
        "value_head": policy.value_head.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    path = folder / f"step-{progress.step:06d}.pt"
    aside = path.with_suffix(".tmp")
    torch.save(state, aside)
    aside.replace(path)
    for old in _steps(folder)[:-keep]:
        old.unlink()


def resume(folder: Path, history: Path, policy: Any, optimizer: torch.optim.Optimizer, start: Progress) -> Progress:
    """Load the newest checkpoint into policy and optimizer; `start` where there is none. The history loses the lines of
    steps that will be done again."""
    paths = _steps(folder)
    if not paths:
        history.unlink(missing_ok=True)
        return start
    state = torch.load(paths[-1], map_location=policy.model.device, weights_only=True)
    parameters = dict(policy.model.named_parameters())
    with torch.no_grad():
        for name, value in state["policy"].items():
            parameters[name].copy_(value)
    policy.value_head.load_state_dict(state["value_head"])
    optimizer.load_state_dict(state["optimizer"])
    progress = Progress(**state["progress"])
    lines = [json.loads(line) for line in history.read_text().splitlines() if line.endswith("}")]
    write_jsonl(history, [line for line in lines if line["step"] <= progress.step])
    logger.info("MAPPO resumes after step %d", progress.step)
    return progress


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"))
