"""trl's SFTTrainer with a weight for prompt tokens, and its log lines in our words.

Several processes (torchrun) make the same updates as one: they share each batch of the same order of examples. Only
the last batch of an epoch is another, where it has gaps: it is filled up with examples from the start.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl.trainer.sft_trainer import SFTTrainer

from jointrag.generation import decoder_and_head
from jointrag.tracking import Tracker

logger = logging.getLogger(__name__)


def collate(rows: list[dict[str, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """Right-padded batch of {input_ids, prompt_length}: input_ids, attention_mask and labels, each [batch, tokens], and
    is_response [batch, tokens], True on the tokens after the prompt."""
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    width = int(lengths.max())
    ids = torch.tensor([row["input_ids"] + [pad_id] * (width - len(row["input_ids"])) for row in rows])
    position = torch.arange(width)[None]
    is_token = position < lengths[:, None]
    return {
        "input_ids": ids,
        "attention_mask": is_token.long(),
        "labels": ids.masked_fill(~is_token, -100),
        "is_response": is_token & (position >= torch.tensor([row["prompt_length"] for row in rows])[:, None]),
    }


class WeightedSFTTrainer(SFTTrainer):
    """Cross-entropy averaged over the tokens of all processes, where a prompt token counts `prompt_loss_weight` and a
    response token 1.

    Logits are computed only where a loss is.
    """

    prompt_loss_weight = 0.0
    loss_is_scaled_for_ga = True  # ours is a mean over the accumulated batches

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        # through the call of the wrapped model: in it DDP gets ready to average the gradients of the backward pass
        llm = self.accelerator.unwrap_model(model)
        with _forward_is(llm, partial(self._loss, llm)):
            return model(**inputs)

    def _loss(self, llm: Any, labels: torch.Tensor, is_response: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        is_response, labels = is_response[:, 1:], labels[:, 1:]  # a token's loss stands at the position before it
        decoder, head = decoder_and_head(llm)
        hidden = decoder(**inputs, use_cache=False).last_hidden_state[:, :-1]
        counted = is_response if self.prompt_loss_weight == 0 else labels != -100
        logits = head(hidden[counted]).float()  # [counted tokens, vocabulary]
        weights = torch.where(is_response[counted], 1.0, self.prompt_loss_weight)
        right = (logits.argmax(-1) == labels[counted])[is_response[counted]].float()
        sums = torch.stack([weights.sum(), right.sum(), torch.ones_like(right).sum()])
        weight, num_right, num_responses = self.accelerator.reduce(sums, "sum")  # type: ignore[misc]
        self._metrics["train"]["mean_token_accuracy"].append((num_right / num_responses).item())
        losses = cross_entropy(logits, labels[counted], reduction="none")
        share = self.accelerator.num_processes / self.current_gradient_accumulation_steps  # DDP averages: hence times N
        return (losses * weights).sum() / weight * share

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The order one process would take: examples of one length for all processes' batches together."""
        sampler = super()._get_train_sampler(train_dataset)
        assert isinstance(sampler, LengthGroupedSampler)
        sampler.batch_size *= self.accelerator.num_processes
        return sampler


@contextmanager
def _forward_is(model: Any, function: Callable[..., torch.Tensor]) -> Iterator[None]:
    forward = model.forward
    model.forward = function
    try:
        yield
    finally:
        model.forward = forward


class MovingAverage(TrainerCallback):
    """A log line every few seconds, every loss to the tracker, and the end of the time, where one is set."""

    def __init__(self, name: str, tracker: Tracker, max_seconds: float | None) -> None:
        self.name, self.tracker, self.max_seconds = name, tracker, max_seconds
        self.loss = float("nan")
        self._started = self._said = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = self._said = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.max_seconds is not None:  # the first process decides: all end after the same step
            control.should_training_stop = broadcast_object_list(
                [time.monotonic() - self._started >= self.max_seconds]
            )[0]

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            if logs and math.isnan(self.loss):  # a run too short for a log line: its mean loss
                self.loss = float(logs.get("train_loss", math.nan))
            return
        self.loss = float(logs["loss"])
        names = {"loss": "loss", "learning_rate": "learning_rate", "mean_token_accuracy": "token_accuracy"}
        self.tracker.log_metrics(
            {f"{self.name}/{new}": logs[old] for old, new in names.items() if old in logs}, state.global_step
        )
        if time.monotonic() - self._said >= 5:
            self._said = time.monotonic()
            elapsed = self._said - self._started
            total = self.max_seconds or elapsed / state.global_step * state.max_steps
            logger.info(
                "%s step %d · loss %.3f · token accuracy %.3f · %d s left",
                self.name,
                state.global_step,
                self.loss,
                logs.get("mean_token_accuracy", float("nan")),
                total - elapsed,
            )
