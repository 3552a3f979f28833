"""Watches from outside how a retrieval model is trained, whoever trains it: time, tokens, padding, losses.

with Meter(model) as meter:
    …                                        # steps of an optimizer of torch's
    meter.losses.append(loss.detach())
meter.run(samples_per_step).samples_per_s
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook


@dataclass(frozen=True)
class Run:
    """What was seen of some steps. A place is a row and column of a batch, with a token in it or padding."""

    seconds: float
    cpu_seconds: float  # of all threads: what other processes take away does not count
    num_samples: int
    places: int
    tokens: int
    losses: tuple[float, ...]  # of all steps

    @property
    def samples_per_s(self) -> float:
        return self.num_samples / self.seconds

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    @property
    def padding(self) -> float:
        return 1 - self.tokens / self.places


class Meter:
    """Counts what a model is given while it is trained. Time runs from its first batch to the end of the last step:
    no side is charged for its start or for saving."""

    def __init__(self, model: Any) -> None:
        self.losses: list[Tensor] = []  # whoever trains adds them
        self._model = model
        self._marks: list[tuple[float, float]] = []  # clock, and the process's own seconds: first batch, steps' ends
        self._forwards: list[tuple[int, Tensor]] = []  # places, tokens
        self._hooks: list[Any] = []

    def __enter__(self) -> Meter:
        self._hooks.append(self._model[0].register_forward_pre_hook(self._sees_batch))
        self._hooks.append(register_optimizer_step_post_hook(lambda *_: self._mark()))
        return self

    def __exit__(self, *_: Any) -> None:
        for hook in self._hooks:
            hook.remove()

    def run(self, samples_per_step: int) -> Run:
        num_steps = len(self._marks) - 1
        assert num_steps > 0
        (start, cpu_start), (end, cpu_end) = self._marks[0], self._marks[-1]
        return Run(
            seconds=end - start,
            cpu_seconds=cpu_end - cpu_start,
            num_samples=num_steps * samples_per_step,
            places=sum(places for places, _ in self._forwards),
            tokens=sum(int(tokens) for _, tokens in self._forwards),
            losses=tuple(float(loss) for loss in self.losses),
        )

    def _sees_batch(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        if not self._marks:
            self._mark()
        mask = given[0]["attention_mask"]
        self._forwards.append((mask.numel(), mask.sum()))

    def _mark(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._marks.append((time.perf_counter(), time.process_time()))
