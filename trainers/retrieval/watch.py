"""What is said while a retrieval model learns: progress, losses that are no numbers, losses that teach nothing."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import deque
from typing import Any

from torch import Tensor
from tqdm import tqdm
from transformers import TrainerCallback

from jointrag.tracking import Tracker

logger = logging.getLogger(__name__)
_WINDOW = 20  # steps over which a loss that stays 0, or stays the same, is pointed out
_IN_A_ROW = 3  # steps without a number that end the training
_SAY_EVERY_S = 5.0


class Progress(TrainerCallback):
    """A bar on a terminal, a line every few seconds in a log; losses and metrics to the tracker."""

    def __init__(self, name: str, tracker: Tracker, speaks: bool) -> None:
        self.name, self._tracker, self._speaks = name, tracker, speaks
        self._bar: Any = None
        self._started = self._said = 0.0
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.monotonic()
        self._first_step = state.global_step
        if self._speaks and sys.stderr.isatty():
            total, initial = state.max_steps, state.global_step
            self._bar = tqdm(desc=self.name, total=total, initial=initial, dynamic_ncols=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.update()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        logs = logs or {}
        names = {"loss": "step_loss", "learning_rate": "learning_rate", "grad_norm": "grad_norm"}
        found = {new: float(logs[old]) for old, new in names.items() if old in logs}
        found |= {name.removeprefix("eval_"): value for name, value in logs.items() if name.startswith("eval_")}
        if not found:
            return
        self._tracker.log_metrics({f"{self.name}/{name}": value for name, value in found.items()}, state.global_step)
        if not self._speaks:
            return
        now = time.monotonic()
        if "loss" in logs and (now - self._said >= _SAY_EVERY_S or state.global_step == state.max_steps):
            self._said = now
            done, left = state.global_step - self._first_step, state.max_steps - state.global_step
            left_s = (now - self._started) / max(1, done) * left
            said = (self.name, state.global_step, state.max_steps, logs["loss"], left_s)
            logger.info("%s %d/%d · loss %.4f · %d s left", *said)
        measured = " · ".join(
            f"{name.removeprefix('eval_')} {value:.4f}" for name, value in logs.items() if name.startswith("eval_")
        )
        if measured:
            logger.info("%s %d/%d · %s", self.name, state.global_step, state.max_steps, measured)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.close()


class Watch:
    """Looks at the loss of every step, and at the size of its gradient."""

    def __init__(self, name: str, learning_rate: float) -> None:
        self.name, self.learning_rate = name, learning_rate
        self.num_skipped = 0
        self._in_a_row = 0
        self._loss: Tensor | float = 0.0
        self._losses: deque[float] = deque(maxlen=_WINDOW)
        self._warned: set[str] = set()

    def saw(self, loss: Tensor, last: bool) -> None:
        """A pass of the step ended; `last`: it was the step's last."""
        self._loss = self._loss + loss.detach()

    def is_sound(self, grad_norm: float, scaled: bool, step: int) -> bool:
        """Before the optimiser's step: whether loss and gradient are numbers. `scaled`: the gradient's size is somebody
        else's business.

        Raises ValueError the third time in a row that they are not.
        """
        loss, self._loss = float(self._loss), 0.0
        if math.isfinite(loss) and (scaled or math.isfinite(grad_norm)):
            self._in_a_row = 0
            self._losses.append(loss)
            self._look_back(step)
            return True
        self.num_skipped += 1
        self._in_a_row += 1
        what = f"{self.name}: step {step}: the loss is {loss:g}, its gradient's norm {grad_norm:g}"
        if self._in_a_row == _IN_A_ROW:
            raise ValueError(
                f"{what}, the {_IN_A_ROW}rd time in a row; lower learning_rate, raise temperature, use "
                "precision=float32 if it was fp16, and look for scores or teacher vectors that are no numbers. "
                "The last checkpoint is kept"
            )
        logger.warning("%s; the step is left out (%d so far)", what, self.num_skipped)
        return False

    def _look_back(self, step: int) -> None:
        if len(self._losses) < _WINDOW:
            return
        low, high = min(self._losses), max(self._losses)
        if high < 1e-7:
            self._warn(
                "zero",
                f"the loss has been 0 for {_WINDOW} steps (to step {step}): every positive is alone among the texts "
                "it is compared with, or wins by far. Likely causes: a batch of one query without negatives, all "
                "negatives masked as duplicates of the positive, a temperature that is too low",
            )
        elif high - low <= 1e-6 * high:
            self._warn(
                "constant",
                f"the loss has been {high:g} for {_WINDOW} steps (to step {step}): nothing is learnt. Likely causes: a "
                f"learning rate of 0 (it is set to {self.learning_rate:g}), weights that are all frozen, a model that "
                "gives every text the same vector, the same examples over and over",
            )

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("%s: %s", self.name, text)
