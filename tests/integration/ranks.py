"""What tests run in several processes: `torchrun(2, NAME, OUT)` calls the function NAME here in each of them.

Every process writes what it found to OUT/<rank>.pt.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from jointrag.parent import exit_with_parent
from tasks import supervisor
from trainers.mappo.parallel import Team

TIMEOUT_S = 300


def torchrun(num_processes: int, name: str, out: Path) -> list[Any]:
    """What every process found, in the order of their ranks. Raises AssertionError with the output when one failed."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes), "-m", __name__]
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    deadline = time.monotonic() + TIMEOUT_S
    lines: list[str] = []
    try:
        supervisor.run(
            [sys.executable, *launch, name, str(out)],
            on_line=lines.append,
            environment=environment,
            failed=lambda: "took too long" if time.monotonic() > deadline else None,
        )
    except supervisor.CommandFailed as error:
        raise AssertionError("\n".join([*lines, str(error)])) from None
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(num_processes)]


def team(out: Path) -> Any:
    """Every method of Team once."""
    team = Team.join()
    parameters = [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))]
    parameters.append(torch.nn.Parameter(torch.zeros(2)))  # without a gradient on one process
    parameters[0].grad = torch.full((2, 3), 1.0 + team.rank)
    parameters[1].grad = torch.arange(4.0, dtype=torch.float64)
    if team.rank == 1:
        parameters[2].grad = torch.ones(2)
    team.sum_gradients(parameters)
    team.wait()
    return {
        "rank": team.rank,
        "size": team.size,
        "is_first": team.is_first,
        "share": team.share(range(7)),
        "gather": team.gather([f"{team.rank}.{i}" for i in range(1 + team.rank)]),
        "gradients": [parameter.grad for parameter in parameters],
    }


if __name__ == "__main__":
    exit_with_parent()
    found = globals()[sys.argv[1]](Path(sys.argv[2]))
    torch.save(found, Path(sys.argv[2]) / f"{os.environ['RANK']}.pt")
