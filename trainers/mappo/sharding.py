"""A model whose weights, gradients and optimiser states are split over the processes: FSDP2, torch's fully_shard.

shard(model)                                 # before its parameters go to an optimiser
with full_weights(model): ...                # no gradients: all weights, and a process decodes as much as it likes
through(model, function, …)                  # a forward pass that is learned from; all processes make equally many
clip_gradients(parameters, most)             # by the norm over all processes' parts
whole(parameter)                             # for checkpoints: the full tensor, on every process

In a forward pass the layers' weights are gathered one layer after the other, so a process that makes one pass less than
the others would keep them waiting for ever: see `Team.in_step`. For the same reason all processes call each of these
functions, in the same order. Gradients are summed as `Team.sum_gradients` sums those of other models. All of these do
nothing much for a model that is not sharded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from jointrag.generation import decoder_and_head

T = TypeVar("T")


def shard(model: Any) -> None:
    """Split the model in place. Its parameters are new objects afterwards, and it cannot be copied any more."""
    mesh = init_device_mesh(model.device.type, (distributed.get_world_size(),))
    for layer in decoder_and_head(model)[0].layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)  # what no layer has: embedding, last norm, head
    for part in _parts(model):
        part.set_gradient_divide_factor(1.0)  # a sum, no mean
        part.set_force_sum_reduction_for_comms(True)  # and gloo knows no other
        part.set_reduce_scatter_unused_params(True, recurse=False)  # another process may play another adapter
    through(model, lambda: None)  # the first call makes this module the root, whichever is called next
    model.reshard()


@contextmanager
def full_weights(model: Any) -> Iterator[None]:
    """All weights on every process, for as long as the block lasts; changes to them are lost. Blocks may be nested."""
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        yield
        return
    parts = _parts(model)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        model.reset_iter_state()  # splits the weights again, and forgets passes that no backward pass will follow
        for part in parts:
            part.set_reshard_after_forward(part is not model, recurse=False)


def through(model: Any, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """`function(*arguments, **options)`, which uses the model's parts, as if it were the model's own forward pass:
    weights that belong to no layer are gathered, and gradients are summed in the backward pass."""
    if not isinstance(model, FSDPModule):
        return function(*arguments, **options)
    forward = model.forward  # type: ignore[attr-defined]
    model.forward = partial(function)  # type: ignore[attr-defined] (a module itself would become a child of the model)
    try:
        return model(*arguments, **options)  # type: ignore[operator]
    finally:
        model.forward = forward  # type: ignore[attr-defined]


def clip_gradients(parameters: Sequence[torch.nn.Parameter], most: float) -> torch.Tensor:
    """torch's clip_grad_norm_, also where some of the parameters are sharded: the norm [] of all, before clipping."""
    kinds = [[p for p in parameters if isinstance(p, DTensor) is sharded] for sharded in (False, True)]
    norms = [whole(get_total_norm([p.grad for p in kind if p.grad is not None])) for kind in kinds if kind]
    norm = norms[0] if len(norms) == 1 else get_total_norm(norms)
    for kind in kinds:
        clip_grads_with_norm_(kind, most, norm)
    return norm


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor of a part, on every process: all have to ask for it."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Of a full tensor, which all processes hold, the part that this one has of `like`."""
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor


def whole_model(model: Any, load: Callable[[], Any]) -> Any:
    """The model as it can be saved: itself, or, where it is sharded, what `load` gives, with the model's weights."""
    if not isinstance(model, FSDPModule):
        return model
    loaded, parameters = load(), dict(model.named_parameters())  # type: ignore[attr-defined]
    with torch.no_grad():
        for name, parameter in loaded.named_parameters():
            parameter.copy_(whole(parameters[name]))
    return loaded


def _parts(model: Any) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]
