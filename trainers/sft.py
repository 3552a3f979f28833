"""trl's SFTTrainer with a weight for prompt tokens, and its log lines in our words."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback
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
    """Cross-entropy averaged over the tokens, where a prompt token counts `prompt_loss_weight` and a response token 1.

    Logits are computed only where a loss is.
    """

    prompt_loss_weight = 0.0

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        is_response = inputs.pop("is_response")[:, 1:]  # a token's loss stands at the position before it
        labels = inputs.pop("labels")[:, 1:]
        decoder, head = decoder_and_head(self.accelerator.unwrap_model(model))
        hidden = decoder(**inputs, use_cache=False).last_hidden_state[:, :-1]
        counted = is_response if self.prompt_loss_weight == 0 else labels != -100
        logits = head(hidden[counted]).float()  # [counted tokens, vocabulary]
        weights = torch.where(is_response[counted], 1.0, self.prompt_loss_weight)
        right = (logits.argmax(-1) == labels[counted])[is_response[counted]].float().mean()
        self._metrics["train"]["mean_token_accuracy"].append(right.item())
        losses = cross_entropy(logits, labels[counted], reduction="none")
        return (losses * weights).sum() / weights.sum() / self.current_gradient_accumulation_steps


class MovingAverage(TrainerCallback):
    """A log line every few seconds, every loss to the tracker, and the end of the time, where one is set."""

    def __init__(self, name: str, tracker: Tracker, max_seconds: float | None) -> None:
        self.name, self.tracker, self.max_seconds = name, tracker, max_seconds
        self.loss = float("nan")
        self._started = self._said = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = self._said = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.max_seconds is not None and time.monotonic() - self._started >= self.max_seconds:
            control.should_training_stop = True

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
