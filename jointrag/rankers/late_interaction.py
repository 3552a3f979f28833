"""Late interaction (ColBERT): a vector for every token, and MaxSim between a query's and a document's.

    LateInteraction("models/colbert/model", Loading())      # from trainers/late_interaction.py
    LateInteraction("colbert-ir/colbertv2.0", Loading())    # what sentence-transformers' MultiVectorEncoder loads

Prompts, lengths, the expansion of queries and the words that do not count are the model's own. A query is encoded once
for all of its documents. A document that is longer than the model's document length is cut, and it is said, or read in
windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from jointrag.encoders import Encoder
from jointrag.rankers.loading import Loading, most_tokens
from jointrag.rankers.local import LocalRanker, Read
from jointrag.rankers.writing import Limits, Template, Written, backend_of, tokens

_QUERIES_KEPT = 1024


class LateInteraction(LocalRanker):
    """MaxSim: for each token of the query the most similar one of the document, summed up (or what the model's
    similarity_fn_name says)."""

    def __init__(self, name: str, loading: Loading) -> None:
        from sentence_transformers import MultiVectorEncoder

        try:
            encoder = MultiVectorEncoder(
                name,
                device=str(loading.where()),
                trust_remote_code=loading.trust_remote_code,
                model_kwargs={"dtype": loading.precision(), "use_safetensors": True},
            )
        except (ImportError, OSError, ValueError) as error:
            raise ValueError(f"{name!r} cannot be loaded as a late-interaction model ({error})") from None
        transformer: Any = encoder[0]
        tokenizer = transformer.tokenizer
        most = most_tokens(transformer.model, tokenizer)
        if loading.max_length is not None and loading.max_length > most:
            raise ValueError(f"max_length={loading.max_length}, but {name} reads {most} tokens")
        super().__init__(
            transformer.model,
            tokenizer,
            _Documents(tokenizer, Encoder(encoder).prompt("passage")),  # type: ignore[arg-type]
            max_length=loading.max_length or min(most, transformer.document_length or most),
            tokens_per_forward=loading.tokens_per_forward,
        )
        self.encoder = encoder.eval()
        self._query_prompt = Encoder(encoder).prompt("query") or None  # type: ignore[arg-type]
        self._queries: dict[str, torch.Tensor] = {}

    def forward(self, batch: Sequence[Read]) -> torch.Tensor:
        input_ids, attention_mask, _ = self.tensors(batch)
        features = {"input_ids": input_ids, "attention_mask": attention_mask, "modality": "text"}
        found = self.encoder(features, task="document")
        documents = [
            vectors[mask.bool()]
            for vectors, mask in zip(found["token_embeddings"], found["attention_mask"], strict=True)
        ]
        return self.encoder.similarity_pairwise(self._encoded([read.query for read in batch]), documents)

    def normalize(self, score: float) -> float:
        """MaxSim grows with the query, and a logistic function would make it 1 throughout; this one has the same order
        and leaves differences."""
        return (1 + score / (1 + abs(score))) / 2

    def _encoded(self, queries: Sequence[str]) -> list[torch.Tensor]:
        """Vectors [tokens, dim] of each query."""
        new = [query for query in dict.fromkeys(queries) if query not in self._queries]
        if len(self._queries) + len(new) > _QUERIES_KEPT:
            new = list(dict.fromkeys(queries))
            self._queries = {}
        if new:
            vectors = self.encoder.encode(new, prompt=self._query_prompt, task="query", show_progress_bar=False)
            self._queries |= dict(zip(new, vectors, strict=True))
        return [self._queries[query] for query in queries]


class _Documents:
    """Documents by themselves, in what the tokenizer puts around one text."""

    def __init__(self, tokenizer: Any, prompt: str) -> None:
        backend = backend_of(tokenizer)
        probe, (plain,) = backend.encode("a"), tokens(backend, ["a"])
        start = probe.sequence_ids.index(0)
        head, tail = probe.ids[:start], probe.ids[start + len(plain.ids) :]
        self._template = Template(tokenizer, head, (), tail, document_prefix=prompt)

    def write(self, queries: Sequence[str], documents: Sequence[str], limits: Limits) -> list[Written]:
        return self._template.write([""] * len(queries), documents, limits)
