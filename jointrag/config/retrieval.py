"""Stages 2 to 4: the embedding model, the index, the server."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from jointrag.config.base import Section, Share, check_heads


class ScratchEncoder(Section):
    """A small BERT with a word-level vocabulary, trained from random weights (mean pooling)."""

    type: Literal["scratch"] = "scratch"
    hidden_size: PositiveInt = 128
    num_layers: PositiveInt = 2
    num_heads: PositiveInt = 4
    max_length: PositiveInt = 64

    @model_validator(mode="after")
    def _heads_fit(self) -> ScratchEncoder:
        check_heads(self.hidden_size, self.num_heads)
        return self


class PretrainedEncoder(Section):
    """A Hugging Face name or folder, as sentence-transformers loads it."""

    type: Literal["pretrained"] = "pretrained"
    name: str
    max_length: PositiveInt = 256


Encoder = Annotated[ScratchEncoder | PretrainedEncoder, Field(discriminator="type")]


class RetrieverConfig(Section):
    """Stage 2: fine-tune the embedding model on (question, gold passage) pairs, in-batch softmax loss."""

    encoder: Encoder = ScratchEncoder()
    train: bool = True
    """False: use the encoder as it is (the paper keeps Contriever fixed)."""
    num_epochs: PositiveFloat = 1.0
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 2e-5
    warmup_ratio: Share = 0.1
    temperature: PositiveFloat = 0.05
    max_pairs: PositiveInt | None = None
    """Use at most this many pairs (a random sample)."""


class IndexConfig(Section):
    """Stage 3: embed the corpus, build the Faiss index."""

    factory: str = "Flat"
    """A Faiss factory string; vectors are normalised and compared by inner product."""
    batch_size: PositiveInt = 256


class ServerConfig(Section):
    """Stage 4: the retrieval server. It lives as long as the flow and is always stopped."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0: any free port. Replicas take the next ones."""
    replicas: PositiveInt = 1
    """Servers over the same index, which they share in memory; the processes that train together are spread over
    them."""
    num_threads: PositiveInt = 8
    max_batch: PositiveInt = 256
    """Most queries encoded together."""
    batch_window_ms: Annotated[float, Field(ge=0)] = 2.0
    """How long the first query of a batch waits for company."""
    startup_timeout_s: PositiveFloat = 120.0
