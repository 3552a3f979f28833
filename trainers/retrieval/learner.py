"""A model together with what it is to learn: tokenising, the forward pass by length, gradient caching, all processes.

A kind of model is a subclass with two or three short methods:

    class Embedder(Learner):
        keeps = ("sentence_embedding",)
        def collate(self, groups): ...            # -> Batch; runs ahead in a thread
        def loss(self, outputs, targets): ...     # tensors of the whole batch -> scalar

Several processes: each runs the model over its own rows, then all outputs and targets are gathered, and every process
works out the loss of the whole batch, with gradients for its own rows alone. Summed over the processes (fit does it)
these are the gradients that one process would have had, so a loss never has to know how many there are. Parameters
may be used in `run` only: in `loss` they would count once for each process.

Gradient caching is GradCache (Gao et al. 2021): outputs without gradients, the loss' gradients with respect to them,
then part after part once more with gradients. sentence-transformers' version works on rows as they come; this one
works on the parts of like length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar

import torch
from sentence_transformers.base.losses.gradcache import RandContext
from torch import Tensor, nn

from jointrag.by_length import Features, Part, join, run_by_length, split_by_length
from jointrag.config import TrainingSettings
from trainers.parallel import Team
from trainers.retrieval.backbone import merge_adapters

Outputs = dict[str, Tensor]
T = TypeVar("T")


class Batch(TypedDict):
    """What `collate` makes. Only tensors and plain values, so that it can be moved to a device."""

    features: dict[str, Features]  # by name, e.g. "query" and "text": tokenised texts, each name one run of the model
    targets: dict[str, Tensor]  # what the loss needs besides outputs; gathered along the first dimension


class Learner(nn.Module, ABC, Generic[T]):
    """Model and loss; T is what one example of the data is. `model` is the sentence-transformers model."""

    accepts_loss_kwargs = False  # for transformers' Trainer: the loss is a mean over a batch
    keeps: tuple[str, ...]
    """Names of the model's outputs that the loss needs."""

    def __init__(self, model: Any, settings: TrainingSettings) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.team = Team()

    @abstractmethod
    def collate(self, examples: Sequence[T]) -> Batch:
        """Tokenise. Called in a thread of its own, before the batch is needed."""

    @abstractmethod
    def loss(self, outputs: dict[str, Outputs], targets: dict[str, Tensor]) -> Tensor:
        """The loss of the whole batch, from the outputs by the names of the features and the targets of all its
        rows. Rows stand in the order in which `collate` had them, process after process."""

    def run(self, name: str, features: Features) -> Mapping[str, Any]:
        """One forward pass over the features of this name."""
        return self.model(features)

    def save(self, folder: Path) -> None:
        """Write a folder that sentence-transformers loads; adapters become part of the weights first."""
        merge_adapters(self.model)
        self.model.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)

    def forward(self, features: dict[str, Features], targets: dict[str, Tensor]) -> dict[str, Tensor]:
        targets = {name: gather(target, self.team) for name, target in targets.items()}
        if self.settings.gradient_caching and torch.is_grad_enabled():
            return {"loss": self._cached(features, targets)}
        limits = (self.settings.tokens_per_forward, self.settings.most_padding)
        outputs = {
            name: self._kept(run_by_length(lambda part, name=name: self.run(name, part), given, *limits))
            for name, given in features.items()
        }
        return {"loss": self.loss(self._gathered(outputs), targets)}

    def _kept(self, outputs: Mapping[str, Any]) -> Outputs:
        return {name: outputs[name] for name in self.keeps}

    def _gathered(self, outputs: dict[str, Outputs]) -> dict[str, Outputs]:
        return {
            name: {key: gather(tensor, self.team) for key, tensor in kept.items()} for name, kept in outputs.items()
        }

    # ---- gradient caching --------------------------------------------------------------------------------------------

    def _cached(self, features: dict[str, Features], targets: dict[str, Tensor]) -> Tensor:
        limits = (self.settings.tokens_per_forward, self.settings.most_padding)
        runs: list[_CachedPart] = []
        outputs: dict[str, Outputs] = {}
        for name, given in features.items():
            parts = split_by_length(given, *limits)
            mine = [self._without_gradients(name, part) for part in parts]
            outputs[name] = self._kept(join([run.outputs for run in mine], parts, given))
            runs += mine
        whole = self.loss(self._gathered(outputs), targets)
        whole.backward()  # as far as the outputs
        loss = whole.detach().requires_grad_()
        autocast = (whole.device.type, torch.is_autocast_enabled(whole.device.type))
        dtype = torch.get_autocast_dtype(whole.device.type)

        def replay(scale: Tensor) -> None:  # called by the backward pass, with what the loss was multiplied by
            with torch.enable_grad(), torch.autocast(autocast[0], dtype, enabled=autocast[1]):
                for run in runs:
                    with run.random_state:
                        again = self.run(run.name, dict(run.part.features))
                    products = [
                        (again[key].to(leaf.dtype) * leaf.grad).sum()
                        for key, leaf in run.outputs.items()
                        if leaf.grad is not None
                    ]
                    if products:
                        (sum(products[1:], products[0]) * scale).backward()

        loss.register_hook(replay)
        return loss

    def _without_gradients(self, name: str, part: Part) -> _CachedPart:
        random_state = RandContext(*part.features.values())  # dropout draws the same masks the second time
        with torch.no_grad():
            outputs = self._kept(self.run(name, dict(part.features)))
        leaves = {
            key: tensor.detach().float().requires_grad_() if tensor.is_floating_point() else tensor
            for key, tensor in outputs.items()
        }
        return _CachedPart(name, part, random_state, leaves)


class _CachedPart:
    """A part, its outputs as the loss saw them (leaves, which get its gradients), and the random state before it."""

    def __init__(self, name: str, part: Part, random_state: RandContext, outputs: Outputs) -> None:
        self.name, self.part, self.random_state, self.outputs = name, part, random_state, outputs


def gather(rows: Tensor, team: Team) -> Tensor:
    """All processes' rows, in the order of their ranks; gradients go to this process's own.

    Numbers of rows may differ, and so may the other dimensions: they are filled up with zeros.
    """
    if team.size == 1:
        return rows
    from torch import distributed

    shapes = team.gather([tuple(rows.shape)])
    widest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    padded = rows.detach().new_zeros(widest)
    padded[tuple(slice(0, size) for size in rows.shape)] = rows.detach()
    as_sent = padded.to(torch.uint8) if padded.dtype == torch.bool else padded
    everyone = [torch.empty_like(as_sent) for _ in range(team.size)]
    distributed.all_gather(everyone, as_sent)
    pieces = [piece[: shape[0]].to(rows.dtype) for piece, shape in zip(everyone, shapes, strict=True)]
    own = rows.new_zeros((rows.shape[0], *widest[1:]))
    if list(rows.shape[1:]) == widest[1:]:
        own = rows
    else:  # a padded copy through which gradients flow
        around = [
            amount for size, most in zip(rows.shape[:0:-1], widest[:0:-1], strict=True) for amount in (0, most - size)
        ]
        own = torch.nn.functional.pad(rows, around)
    pieces[team.rank] = own
    return torch.cat(pieces)
