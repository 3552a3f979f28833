"""How fast is training a reranker, and how much memory does it take? Ours, and two others.

    python -m benchmarks.train_reranker              # writes benchmarks/results/train_reranker.json
    python -m benchmarks.train_reranker --quick      # small steps, under two minutes: does the script run?

4 queries a step, each with a positive and 7 hard negatives: 32 pairs, binary cross-entropy of each by itself. Against
sentence-transformers' CrossEncoderTrainer with its BinaryCrossEntropyLoss, 32 pairs a step, and against a plain loop
that pads pairs to 512 tokens. What the sides are and how they are measured is in benchmarks/training_sides.py and
benchmarks/retrieval_training.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from torch import Tensor

from benchmarks.retrieval_training import Effort, main, minilm
from benchmarks.training_sides import TEXT_LENGTH, Kind
from jointrag.config import RerankerConfig
from trainers.reranker import RerankerLearner, make_model
from trainers.retrieval.groups import BatchesByLength, Group


def reranker(quick: bool) -> Kind:
    config = RerankerConfig(
        model=minilm(),
        loss="point_ce",  # as theirs
        batch_size=2 if quick else 4,
        num_negatives=3 if quick else 7,
        max_length=TEXT_LENGTH,
        checkpoint_every=1_000,
    )
    return Kind(
        sample="pairs",
        settings=config,
        make_model=lambda: make_model(config, "cpu"),
        make_learner=RerankerLearner,
        order=BatchesByLength,
        their_trainer=CrossEncoderTrainer,
        their_arguments=CrossEncoderTrainingArguments,
        their_loss=BinaryCrossEntropyLoss,
        columns=pairs,
        padded_loss=padded_loss,
    )


def pairs(examples: Sequence[Group]) -> dict[str, list[Any]]:
    """A row for every text."""
    return {
        "query": [example.query for example in examples for _ in example.texts],
        "text": [text for example in examples for text in example.texts],
        "label": [label for example in examples for label in example.labels],
    }


def padded_loss(model: Any, examples: Sequence[Group]) -> Tensor:
    rows = pairs(examples)
    tokens = model.tokenizer(
        rows["query"], rows["text"], padding="max_length", truncation=True, max_length=TEXT_LENGTH, return_tensors="pt"
    )
    scores = model(dict(tokens))["scores"].squeeze(-1)
    return torch.nn.functional.binary_cross_entropy_with_logits(scores, torch.tensor(rows["label"]))


if __name__ == "__main__":
    raise SystemExit(main("train_reranker", __doc__, reranker, Effort(rounds=3, num_steps=1)))
