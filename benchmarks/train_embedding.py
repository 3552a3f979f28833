"""How fast is training an embedding model, and how much memory does it take? Ours, and two others.

    python -m benchmarks.train_embedding              # writes benchmarks/results/train_embedding.json
    python -m benchmarks.train_embedding --quick      # small steps, under two minutes: does the script run?

4 queries a step, each with a positive and 15 hard negatives, and the others' texts as negatives besides (softmax,
temperature 0.05). Against sentence-transformers' SentenceTransformerTrainer with its MultipleNegativesRankingLoss, and
against a plain loop that pads queries to 128 tokens and texts to 512. What the sides are and how they are measured is
in benchmarks/training_sides.py and benchmarks/retrieval_training.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import Tensor

from benchmarks.retrieval_training import Effort, columns, main, minilm
from benchmarks.training_sides import QUERY_LENGTH, TEXT_LENGTH, Kind
from jointrag.config import PretrainedEncoder, RetrieverConfig
from trainers.embedding import make_model
from trainers.retrieval.embedder import Embedder
from trainers.retrieval.groups import BatchesWithoutDuplicates, Group

TEMPERATURE = 0.05


def embedding(quick: bool) -> Kind:
    config = RetrieverConfig(
        encoder=PretrainedEncoder(name=minilm(), max_length=TEXT_LENGTH),
        data=Path("a file with negatives"),  # is opened in benchmarks.retrieval_training
        batch_size=2 if quick else 4,
        num_negatives=3 if quick else 15,
        temperature=TEMPERATURE,
        max_query_length=QUERY_LENGTH,
        max_length=TEXT_LENGTH,
        checkpoint_every=1_000,
    )
    return Kind(
        sample="queries",
        settings=config,
        make_model=lambda: make_model(config, (), "cpu"),
        make_learner=lambda model, settings: Embedder(model, settings, "softmax"),
        order=BatchesWithoutDuplicates,
        their_trainer=SentenceTransformerTrainer,
        their_arguments=SentenceTransformerTrainingArguments,
        their_loss=lambda model: MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE),
        columns=columns,
        padded_loss=padded_loss,
    )


def padded_loss(model: Any, examples: Sequence[Group]) -> Tensor:
    def vectors(texts: list[str], length: int) -> Tensor:
        tokens = model.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return model(dict(tokens))["sentence_embedding"]  # of unit length

    queries = vectors([example.query for example in examples], QUERY_LENGTH)
    texts = vectors([text for example in examples for text in example.texts], TEXT_LENGTH)
    scores = queries @ texts.T / TEMPERATURE
    positives = torch.arange(len(examples)) * (len(texts) // len(examples))
    return torch.nn.functional.cross_entropy(scores, positives)


if __name__ == "__main__":
    raise SystemExit(main("train_embedding", __doc__, embedding, Effort(rounds=3, num_steps=1)))
