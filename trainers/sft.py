"""trl's SFTTrainer with a weight per token, and its log lines in our words."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from transformers import TrainerCallback
from trl import SFTTrainer

from jointrag.tracking import Tracker

logger = logging.getLogger(__name__)


def collate(rows: list[dict[str, list[Any]]], pad_id: int) -> dict[str, torch.Tensor]:
    """Right-padded batch: input_ids, attention_mask, labels and loss_weights, each [batch, tokens]."""
    width = max(len(row["input_ids"]) for row in rows)

    def padded(key: str, fill: float) -> torch.Tensor:
        return torch.tensor([row[key] + [fill] * (width - len(row[key])) for row in rows])

    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows])
    return {
        "input_ids": padded("input_ids", pad_id),
        "attention_mask": mask,
        "labels": padded("labels", -100),
        "loss_weights": padded("loss_weights", 0.0),
    }


class WeightedSFTTrainer(SFTTrainer):
    """Cross-entropy per token times `loss_weights`, over the sum of the weights. Logits only where a weight is set."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        weights = inputs.pop("loss_weights")[:, 1:]  # a token's loss stands at the position before it
        labels = inputs.pop("labels")[:, 1:]
        inner = self.accelerator.unwrap_model(model)
        base = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
        hidden = base.get_decoder()(**inputs, use_cache=False).last_hidden_state[:, :-1]
        counted = weights > 0
        logits = base.get_output_embeddings()(hidden[counted]).float()  # [counted tokens, vocabulary]
        losses = torch.nn.functional.cross_entropy(logits, labels[counted], reduction="none")
        self._metrics["train"]["mean_token_accuracy"].append(
            (logits.argmax(-1) == labels[counted])[weights[counted] == 1].float().mean().item()
        )
        return (losses * weights[counted]).sum() / weights[counted].sum()


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
