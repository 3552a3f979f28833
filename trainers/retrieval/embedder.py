"""What embedding models learn from: groups of texts (pairs, hard negatives, scores), or a teacher's vectors.

learner = Embedder(model, config, loss="softmax")          # fit(learner, Groups(…), …)
learner = Distiller(model, config, config.teacher, num_dims=1024)     # fit(learner, TeacherTexts, …)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from torch import Tensor, nn

from jointrag.by_length import Features
from jointrag.config import RetrieverConfig, TeacherConfig
from jointrag.encoders import Encoder, Kind
from trainers.retrieval.groups import Group
from trainers.retrieval.learner import Batch, Learner, Outputs
from trainers.retrieval.losses import (
    distillation,
    guided,
    in_batch_softmax,
    kl_to_scores,
    matryoshka,
    same_text,
)
from trainers.retrieval.teacher import TeacherText

VECTOR = "sentence_embedding"


class _Embeds(Learner[Any]):
    keeps = (VECTOR,)
    settings: RetrieverConfig
    model: SentenceTransformer

    def tokens(self, texts: Sequence[str], kind: Kind, model: SentenceTransformer | None = None) -> Features:
        """Texts as the model takes them, with its own prompt for their kind."""
        model = self.model if model is None else model
        length = self.settings.max_query_length if kind == "query" else self.settings.max_length
        given: dict[str, Any] = {"task": "query" if kind == "query" else "document"}
        if length is not None and model is self.model:
            given["max_length"] = length
        return dict(model.preprocess(list(texts), prompt=Encoder(model).prompt(kind) or None, **given))


class Embedder(_Embeds):
    """A query close to its positive, or to its texts in proportion to their scores."""

    def __init__(
        self,
        model: SentenceTransformer,
        config: RetrieverConfig,
        loss: Literal["softmax", "scores"],
        guide: SentenceTransformer | None = None,
    ) -> None:
        super().__init__(model, config)
        self._by_scores = loss == "scores"
        self._guide = [guide.eval()] if guide is not None else []  # in a list: it is no part of what is trained

    def collate(self, examples: Sequence[Group]) -> Batch:
        queries, texts = [group.query for group in examples], [text for group in examples for text in group.texts]
        features = {"query": self.tokens(queries, "query"), "text": self.tokens(texts, "passage")}
        for guide in self._guide:
            features["guide query"] = self.tokens(queries, "query", guide)
            features["guide text"] = self.tokens(texts, "passage", guide)
        return {"features": features, "targets": targets_of(examples, queries, texts)}

    def run(self, name: str, features: Features) -> Mapping[str, Any]:
        if not name.startswith("guide"):
            return self.model(features)
        with torch.no_grad():
            return self._guide[0](features)

    def loss(self, outputs: dict[str, Outputs], targets: dict[str, Tensor]) -> Tensor:
        queries, texts = outputs["query"][VECTOR], outputs["text"][VECTOR]
        sizes, config = targets["sizes"], self.settings
        if self._by_scores:
            owner = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)

            def by_scores(queries: Tensor, texts: Tensor) -> Tensor:
                return kl_to_scores(
                    queries,
                    texts,
                    targets["labels"],
                    owner,
                    temperature=config.temperature,
                    score_temperature=config.score_temperature,
                )

            return matryoshka(by_scores, config.matryoshka_dims, queries, texts)
        positive = sizes.cumsum(0) - sizes  # the first of each query's texts
        masked = same_text(targets["query_ids"], targets["text_ids"], positive)
        if self._guide:
            masked |= guided(outputs["guide query"][VECTOR], outputs["guide text"][VECTOR], positive)

        def softmax(queries: Tensor, texts: Tensor) -> Tensor:
            return in_batch_softmax(queries, texts, positive, temperature=config.temperature, masked=masked)

        return matryoshka(softmax, config.matryoshka_dims, queries, texts)


class Distiller(_Embeds):
    """Texts as a teacher sees them."""

    def __init__(
        self, model: SentenceTransformer, config: RetrieverConfig, teacher: TeacherConfig, num_dims: int
    ) -> None:
        super().__init__(model, config)
        widths = config.matryoshka_dims or (model.get_embedding_dimension(),)
        if teacher.cosine_weight and num_dims not in widths:
            raise ValueError(
                f"the teacher's vectors have {num_dims} dimensions, the model's {widths}: add {num_dims} to "
                "retriever.matryoshka_dims (a linear layer makes them where the model has fewer), or set "
                "teacher.cosine_weight=0 and learn from similarities alone"
            )
        self._teacher = teacher

    def collate(self, examples: Sequence[TeacherText]) -> Batch:
        features = {"text": self.tokens([example.text for example in examples], "passage")}
        vectors = torch.from_numpy(np.stack([example.vector for example in examples]))
        return {"features": features, "targets": {"teacher": vectors}}

    def loss(self, outputs: dict[str, Outputs], targets: dict[str, Tensor]) -> Tensor:
        def like_teacher(student: Tensor) -> Tensor:
            return distillation(
                student,
                targets["teacher"],
                cosine_weight=self._teacher.cosine_weight,
                similarity_weight=self._teacher.similarity_weight,
                relative_weight=self._teacher.relative_weight,
                margin=self._teacher.margin,
            )

        return matryoshka(like_teacher, self.settings.matryoshka_dims, outputs["text"][VECTOR])


def widen(model: SentenceTransformer, num_dims: int) -> None:
    """Put a linear layer behind the pooling, so that vectors have `num_dims` dimensions; nothing if they have as many.

    It starts as an orthogonal map, which leaves similarities as they are.
    """
    own = model.get_embedding_dimension()
    assert own is not None
    if num_dims <= own:
        return
    layer = Dense(own, num_dims, bias=False, activation_function=nn.Identity())
    nn.init.orthogonal_(layer.linear.weight)
    place = next((i for i, module in enumerate(model) if isinstance(module, Normalize)), len(model))
    model.insert(place, layer.to(model.device))


def targets_of(examples: Sequence[Group], queries: Sequence[str], texts: Sequence[str]) -> dict[str, Tensor]:
    """What losses over the texts of a batch need: each query's number of texts, their labels, and who is equal to
    whom."""
    labels = [label for group in examples for label in group.labels]
    return {
        "sizes": torch.tensor([len(group.texts) for group in examples]),
        "labels": torch.tensor(labels, dtype=torch.float32),
        "query_ids": text_ids(queries),
        "text_ids": text_ids(texts),
    }


def text_ids(texts: Sequence[str]) -> Tensor:
    """int64 [texts], equal where texts are, in every process."""
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests])
