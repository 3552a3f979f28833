"""The training loop of all retrieval models: transformers' Trainer around a Learner.

    result = fit(learner, groups, settings, seed=0, out=Path("models/retriever"), tracker=tracker,
                 evaluate=lambda: {"recall@10": …}, name="retriever")          # writes out/model

Trainer keeps optimizer, schedule, mixed precision and checkpoints. What is ours: batches are tokenised ahead in a
thread; a checkpoint counts only when it is whole, so that training killed at any moment goes on from the last and ends
with the same weights; the best model by `evaluate` is kept; processes add up their gradients by themselves
(trainers.parallel), because DDP knows neither gradient caching nor weights that a batch does not use; losses that are
no numbers are skipped, and those that cannot teach anything are pointed out (watch.py).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from jointrag.config import TrainingSettings
from jointrag.jsonl import write_atomically
from jointrag.tracking import NoTracker, Tracker
from trainers.parallel import Team
from trainers.retrieval.ahead import Ahead
from trainers.retrieval.backbone import precision_of
from trainers.retrieval.groups import BatchesByLength, BatchesWithoutDuplicates
from trainers.retrieval.learner import Learner
from trainers.retrieval.trainer import WHOLE, FitTrainer
from trainers.retrieval.watch import Progress

logger = logging.getLogger(__name__)
CHECKPOINTS = ".checkpoints"
_TRAINING = "training.json"
_SAMPLED = 64  # examples that are compared

Evaluate = Callable[[], dict[str, float]]


@dataclass(frozen=True)
class FitResult:
    """What training came to. `metrics` are those of `evaluate` for the model that was kept."""

    loss: float  # mean over the last logged steps
    seconds: float  # of this call
    steps: int
    metrics: dict[str, float]


def fit(
    learner: Learner[Any],
    data: Any,
    settings: TrainingSettings,
    *,
    seed: int,
    out: Path,
    tracker: Tracker = NoTracker(),
    evaluate: Evaluate | None = None,
    name: str = "retriever",
    order: type[BatchesWithoutDuplicates] | type[BatchesByLength] = BatchesWithoutDuplicates,
) -> FitResult:
    """Train in place and write out/model. With `evaluate`, the model with the best value of its first metric is kept.

    Goes on from the newest checkpoint in out/.checkpoints, which is deleted at the end. `order`: BatchesByLength for
    losses in which no text is another query's negative.

    Raises ValueError for a batch size that processes and accumulation cannot share evenly, for checkpoints of another
    training, and when the loss is no number three times in a row.
    """
    team = Team.join(str(next(learner.parameters()).device.type))
    if team.sharded:
        raise ValueError("retrieval models are trained whole on every process; use torchrun, or no FSDP config")
    if not any(parameter.requires_grad for parameter in learner.parameters()):
        raise ValueError(f"{name}: all weights are frozen, so there is nothing to train")
    learner.team = team
    size = _batch_size(settings, team)
    batches = order(data, batch_size=size, seed=seed, rank=team.rank, world_size=team.size)
    started = time.monotonic()
    folder = out / CHECKPOINTS
    _same_training(folder, {"name": name, "seed": seed, **_numbers(settings), "examples": _sample(data)}, team)
    ahead = Ahead(learner.collate, data, batches)
    progress = Progress(name, tracker if team.is_first else NoTracker(), team.is_first)
    trainer = FitTrainer(
        learner,
        ahead,
        _arguments(settings, learner, len(batches), seed, folder),
        evaluate,
        settings.evaluate_every,
        progress,
    )
    try:
        newest = _newest(folder, team)
        if newest is None or not trainer.ended(newest):
            trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    finally:
        ahead.close()
    metrics = trainer.take_best()
    if team.is_first:
        _save(learner, out)
        shutil.rmtree(folder, ignore_errors=True)
    team.wait()
    return FitResult(trainer.last_loss(), time.monotonic() - started, trainer.state.global_step, metrics)


def _batch_size(settings: TrainingSettings, team: Team) -> int:
    """Queries in one pass of one process."""
    size, rest = divmod(settings.batch_size, settings.gradient_accumulation * team.size)
    if rest or not size:
        raise ValueError(
            f"batch_size={settings.batch_size} has to be a multiple of gradient_accumulation="
            f"{settings.gradient_accumulation} x {team.size} processes"
        )
    return size


def _numbers(settings: TrainingSettings) -> dict[str, Any]:
    """The settings that training depends on: one may evaluate more often, or in other parts, and still go on."""
    free = {"evaluate_every", "checkpoint_every", "tokens_per_forward", "most_padding"}
    return settings.model_dump(mode="json", exclude=free)


def _sample(data: Any) -> str:
    """How many examples there are, and a hash of some: a file that was changed is told from the one before."""
    places = sorted({i * len(data) // _SAMPLED for i in range(_SAMPLED)})
    digest = hashlib.blake2b("\n".join(repr(data[0, place]) for place in places).encode(), digest_size=8)
    return f"{len(data)} {digest.hexdigest()}"


def _same_training(folder: Path, training: dict[str, Any], team: Team) -> None:
    path = folder / _TRAINING
    if path.is_file() and (before := json.loads(path.read_text())) != training:
        changed = sorted(key for key in before | training if before.get(key) != training.get(key))
        raise ValueError(
            f"{folder} holds checkpoints of another training ({', '.join(changed)} differ); "
            "delete it to start afresh, or write somewhere else"
        )
    team.wait()
    if team.is_first:
        write_atomically(path, json.dumps(training))


def _newest(folder: Path, team: Team) -> Path | None:
    """The newest checkpoint that is whole; what was cut short is removed."""
    whole = sorted(folder.glob(f"checkpoint-*/{WHOLE}"), key=lambda path: int(path.parent.name.split("-")[1]))
    newest = whole[-1].parent if whole else None
    team.wait()
    if team.is_first:
        for checkpoint in folder.glob("checkpoint-*"):
            if not (checkpoint / WHOLE).is_file():
                shutil.rmtree(checkpoint)
    team.wait()
    return newest


def _save(learner: Learner[Any], out: Path) -> None:
    aside = out / ".model.partial"
    shutil.rmtree(aside, ignore_errors=True)
    learner.save(aside)
    shutil.rmtree(out / "model", ignore_errors=True)
    aside.rename(out / "model")


def _arguments(
    settings: TrainingSettings, learner: Learner[Any], num_batches: int, seed: int, folder: Path
) -> TrainingArguments:
    device = next(learner.parameters()).device.type
    precision = precision_of(settings, device)
    num_steps = math.ceil(num_batches / settings.gradient_accumulation * settings.num_epochs)
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.num_epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(settings.warmup_ratio * num_steps),
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        logging_steps=max(1, num_steps // 200),
        logging_nan_inf_filter=False,
        eval_strategy="no",  # FitTrainer says when
        save_strategy="steps",
        save_steps=settings.checkpoint_every,
        metric_for_best_model="first",
        greater_is_better=True,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        use_cpu=device == "cpu",
    )
