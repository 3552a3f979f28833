"""The processes that train together (torchrun). Alone, everything here is trivial and nothing distributed is started.

team = Team.join()
mine = team.share(questions)                # this process's part
everything = team.gather(results)           # all processes' results, on every process
team.sum_gradients(parameters)
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed.tensor import DTensor

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """One process's place among all that train together."""

    rank: int = 0
    size: int = 1
    sharded: bool = False  # `accelerate launch` asked for FSDP: models are split, see trainers.mappo.sharding

    @classmethod
    def join(cls, device: str = "auto") -> Team:
        """The team that torchrun started; a team of one without it. Join before a model is loaded: from then on "cuda"
        means this process's own GPU. `device` "cpu": the team talks through the CPU although there are GPUs.

        Raises ValueError for an accelerate config that asks for what is not there.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
        return cls(state.process_index, state.num_processes, _sharded())

    @staticmethod
    def leave() -> None:
        """At the end of a process that joined: a connection still open at the interpreter's end can bring it down
        there."""
        if distributed.is_available() and distributed.is_initialized():
            distributed.barrier()
            distributed.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """The one process that writes, logs and tracks."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's contiguous part; the parts' sizes differ by one at most."""
        each, extra = divmod(len(items), self.size)
        start = self.rank * each + min(self.rank, extra)
        return list(items[start : start + each + (self.rank < extra)])

    def gather(self, items: list[T]) -> list[T]:
        """All processes' items in the order of their ranks, on every process. Anything that can be pickled."""
        if self.size == 1:
            return items
        parts: list[Any] = [None] * self.size
        distributed.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Every gradient becomes the sum over all processes; a missing one counts as 0. One message per dtype. Those of
        sharded models are summed already."""
        if self.size == 1:
            return
        alike: dict[tuple[torch.dtype, torch.device], list[torch.nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            if isinstance(parameter, DTensor):
                continue
            alike[parameter.dtype, parameter.device].append(parameter)
        for group in alike.values():
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in group]
            whole = torch.cat([gradient.reshape(-1) for gradient in gradients])
            distributed.all_reduce(whole)
            for parameter, part in zip(group, whole.split([p.numel() for p in group]), strict=True):
                parameter.grad = part.view_as(parameter)

    def in_step(self, batches: list[list[int]]) -> list[tuple[list[int], float]]:
        """The rows of each forward pass and its weight in the loss, 1. Sharded models want equally many passes of every
        process: one that has fewer goes along with rows of another's, with weight 0."""
        most = max(self.gather([batches]), key=len) if self.sharded else batches
        return [(rows, 1.0) for rows in batches] + [(rows[:1], 0.0) for rows in most[len(batches) :]]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            distributed.barrier()


def _sharded() -> bool:
    """What the config file of `accelerate launch` says, which it hands on in the environment."""
    for name in ("ACCELERATE_USE_DEEPSPEED", "FSDP_OFFLOAD_PARAMS"):
        if os.environ.get(name, "false").lower() == "true":
            raise ValueError(f"joint training does not do {name}; use configs/accelerate/fsdp.yaml")
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError("joint training uses FSDP2: set fsdp_version: 2, as configs/accelerate/fsdp.yaml does")
    return True
