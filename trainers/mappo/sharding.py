"""A model whose weights, gradients and optimiser states are split over the processes: FSDP2, torch's fully_shard.

shard(model)                                 # before its parameters go to an optimiser
with full_weights(model): ...                # rollouts: every process has all weights and decodes as much as it likes
through(model, function, …)                  # a forward pass that is learned from; all processes make equally many
whole(parameter)                             # for checkpoints: the full tensor, on every process

In a forward pass the layers' weights are gathered one layer after the other, so a process that makes one pass less than
the others would keep them waiting for ever. Gradients are summed as `Team.sum_gradients` sums those of other models.
All of these do nothing much for a model that is not sharded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from jointrag.generation import decoder_and_head

T = TypeVar("T")


def shard(model: Any) -> None:
    """Split the model in place. Its parameters are new objects afterwards, and it cannot be copied any more."""
    for layer in decoder_and_head(model)[0].layers:
        fully_shard(layer)
    fully_shard(model)  # what no layer has: embedding, last norm, head
    for module in _parts(model):
        module.set_gradient_divide_factor(1.0)  # a sum, no mean
        module.set_force_sum_reduction_for_comms(True)  # and gloo knows no other
    through(model, lambda: None)  # the first call makes this module the root, whichever is called next
    model.reshard()


@contextmanager
def full_weights(model: Any) -> Iterator[None]:
    """All weights on every process, for as long as the block lasts; changes to them are lost."""
    if not isinstance(model, FSDPModule):
        yield
        return
    parts = _parts(model)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not model, recurse=False)


def through(model: Any, function: Callable[..., T], *arguments: Any) -> T:
    """`function(*arguments)`, which uses the model's parts, as if it were the model's own forward pass: weights that
    belong to no layer are gathered, and gradients are summed in the backward pass."""
    if not isinstance(model, FSDPModule):
        return function(*arguments)
    forward = model.forward  # type: ignore[attr-defined]
    model.forward = function  # type: ignore[attr-defined]
    try:
        return model(*arguments)  # type: ignore[operator]
    finally:
        model.forward = forward  # type: ignore[attr-defined]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor of a part, on every process: all have to ask for it."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Of a full tensor, which all processes hold, the part that this one has of `like`."""
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor


def _parts(model: Any) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]
