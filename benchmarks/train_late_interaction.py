"""How fast is training a late-interaction model, and how much memory does it take? Ours, and two others.

    python -m benchmarks.train_late_interaction              # writes benchmarks/results/train_late_interaction.json
    python -m benchmarks.train_late_interaction --quick      # small steps, under two minutes: does the script run?

4 queries a step, each with a positive and 7 hard negatives, and the others' texts as negatives besides: softmax over
MaxSim, 128 dimensions a token. Against sentence-transformers' MultiVectorEncoderTrainer with its
MultiVectorMultipleNegativesRankingLoss, and against a plain loop that pads queries to 128 tokens and texts to 512. What
the sides are and how they are measured is in benchmarks/training_sides.py and benchmarks/retrieval_training.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from benchmarks.retrieval_training import Effort, columns, main, minilm
from benchmarks.training_sides import QUERY_LENGTH, TEXT_LENGTH, Kind
from jointrag.config import LateInteractionConfig
from jointrag.encoders import Kind as Role
from trainers.late_interaction import LateInteractionLearner, make_model, tokens
from trainers.retrieval.groups import BatchesWithoutDuplicates, Group


def late_interaction(quick: bool) -> Kind:
    config = LateInteractionConfig(
        model=minilm(),
        batch_size=2 if quick else 4,
        num_negatives=3 if quick else 7,
        max_query_length=QUERY_LENGTH,
        max_length=TEXT_LENGTH,
        checkpoint_every=1_000,
    )
    return Kind(
        sample="queries",
        settings=config,
        make_model=lambda: make_model(config, "cpu"),
        make_learner=lambda model, settings: LateInteractionLearner(model, settings, "in_batch"),
        order=BatchesWithoutDuplicates,
        their_trainer=MultiVectorEncoderTrainer,
        their_arguments=MultiVectorEncoderTrainingArguments,
        their_loss=MultiVectorMultipleNegativesRankingLoss,
        columns=columns,
        padded_loss=padded_loss,
    )


def padded_loss(model: Any, examples: Sequence[Group]) -> Tensor:
    def vectors(texts: list[str], role: Role, length: int) -> tuple[Tensor, Tensor]:
        """Of every place [texts, length, dim], and whether it counts [texts, length]."""
        features = tokens(model, texts, role)
        for name, value in features.items():
            if isinstance(value, Tensor) and value.ndim == 2:
                filling = model.tokenizer.pad_token_id if name == "input_ids" else 0
                features[name] = pad(value, (0, length - value.shape[1]), value=filling)
        outputs = model(features, task="query" if role == "query" else "document")
        return outputs["token_embeddings"], outputs["attention_mask"].bool()

    queries, query_mask = vectors([example.query for example in examples], "query", QUERY_LENGTH)
    texts, text_mask = vectors([text for example in examples for text in example.texts], "passage", TEXT_LENGTH)
    similarity = torch.einsum("qid,tjd->qtij", queries, texts).masked_fill(~text_mask[None, :, None], -torch.inf)
    scores = (similarity.amax(-1) * query_mask[:, None]).sum(-1)
    return cross_entropy(scores, torch.arange(len(examples)) * (len(texts) // len(examples)))


if __name__ == "__main__":
    raise SystemExit(main("train_late_interaction", __doc__, late_interaction, Effort(rounds=3, num_steps=1)))
