"""Three ways to train a retrieval model.

    with Meter(model) as meter:
        SIDES["ours"](kind, model, groups, num_steps=2, in_order=False, meter=meter)

- ours: trainers.retrieval.fit, with the defaults of its settings;
- trainer: sentence-transformers' own trainer for the kind of model, with the defaults of its arguments;
- padded: a plain loop that pads every query and every text to the maximum, as RAG-Retrieval's training does.

All take the same examples, as many queries and negatives to a step, the same loss, AdamW, learning rate and schedule.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler

from benchmarks.training_meter import Meter
from jointrag.config import TrainingSettings
from trainers.retrieval.batches import BatchesByLength, BatchesWithoutDuplicates
from trainers.retrieval.fit import fit
from trainers.retrieval.groups import Group
from trainers.retrieval.learner import Learner

QUERY_LENGTH, TEXT_LENGTH = 128, 512  # tokens; what the padded side pads to
LEARNING_RATE = 5e-5  # the default of sentence-transformers' arguments, as are no warm-up and a linear schedule


@dataclass(frozen=True)
class Kind:
    """A kind of model, as the three sides train it."""

    sample: str  # what is counted: "queries", each with its texts, or "pairs"
    settings: TrainingSettings  # of ours; its batch_size and num_negatives are everyone's
    make_model: Callable[[], Any]  # the same weights each time
    make_learner: Callable[[Any, Any], Learner[Any]]  # model, settings
    order: type[BatchesWithoutDuplicates] | type[BatchesByLength]
    their_trainer: Any  # sentence-transformers' class, that of its arguments, and the loss for a model
    their_arguments: Any
    their_loss: Callable[[Any], nn.Module]
    columns: Callable[[Sequence[Group]], Mapping[str, list[Any]]]  # their data set
    padded_loss: Callable[[Any, Sequence[Group]], Tensor]

    @property
    def samples_per_query(self) -> int:
        return 1 + self.settings.num_negatives if self.sample == "pairs" else 1


def ours(kind: Kind, model: Any, groups: Any, *, num_steps: int, in_order: bool, meter: Meter) -> None:
    """`in_order` asks for nothing here: the order is ours, and `examples` has it for the others."""
    learner = kind.make_learner(model, kind.settings)
    learner.register_forward_hook(lambda _, given, found: meter.losses.append(found["loss"].detach()))
    steps_of_an_epoch = len(kind.order(groups, batch_size=kind.settings.batch_size, seed=0))
    epochs = (num_steps - 0.5) / steps_of_an_epoch  # is rounded up to whole steps
    settings = kind.settings.model_copy(
        update={"num_epochs": epochs, "learning_rate": LEARNING_RATE, "warmup_ratio": 0.0}
    )
    with tempfile.TemporaryDirectory() as out:
        fit(learner, groups, settings, seed=0, out=Path(out), order=kind.order)


def trainer(kind: Kind, model: Any, groups: Any, *, num_steps: int, in_order: bool, meter: Meter) -> None:
    from datasets import Dataset
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from transformers import PrinterCallback

    loss = kind.their_loss(model)
    loss.register_forward_hook(lambda _, given, found: meter.losses.append(found.detach()))
    order: dict[str, Any] = {}
    if in_order:
        order["batch_sampler"] = lambda rows, **given: DefaultBatchSampler(SequentialSampler(rows), **given)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as out:
        arguments = kind.their_arguments(
            output_dir=out,
            num_train_epochs=1,
            per_device_train_batch_size=kind.settings.batch_size * kind.samples_per_query,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            **order,
        )
        rows = Dataset.from_dict(dict(kind.columns(examples(kind, groups, num_steps))))
        training = kind.their_trainer(model=model, args=arguments, train_dataset=rows, loss=loss)
        training.remove_callback(PrinterCallback)
        training.train()


def padded(kind: Kind, model: Any, groups: Any, *, num_steps: int, in_order: bool, meter: Meter) -> None:
    from transformers import get_linear_schedule_with_warmup

    shown = examples(kind, groups, num_steps)
    batches: Iterable[list[Group]] = DataLoader(
        shown,  # type: ignore[arg-type]
        batch_size=kind.settings.batch_size,
        shuffle=not in_order,
        collate_fn=list,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, num_steps)
    model.train()
    for batch in batches:
        loss = kind.padded_loss(model, batch)
        meter.losses.append(loss.detach())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


Side = Callable[..., None]
SIDES: dict[str, Side] = {"ours": ours, "trainer": trainer, "padded": padded}


def examples(kind: Kind, groups: Any, num_steps: int) -> list[Group]:
    """Those of the first steps of ours, in their order."""
    batches = kind.order(groups, batch_size=kind.settings.batch_size, seed=0)
    return [groups[key] for batch in islice(batches, num_steps) for key in batch]


def without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
