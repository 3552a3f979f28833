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


class LoraSettings(Section):
    """Low-rank adapters (peft); merged into the weights when the model is saved."""

    r: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Share = 0.0
    targets: tuple[str, ...] | None = None
    """Names of the layers that get one; null: all linear ones."""


class TrainingSettings(Section):
    """How a retrieval model of any kind is trained."""

    num_epochs: PositiveFloat = 1.0
    batch_size: PositiveInt = 64
    """Queries per optimiser step, all processes together."""
    learning_rate: PositiveFloat = 2e-5
    warmup_ratio: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: PositiveFloat = 1.0
    max_query_length: PositiveInt | None = None
    """Tokens of a query; null: as many as the model takes."""
    max_length: PositiveInt | None = None
    """Tokens of a text (of a pair, for rerankers that read the two together); null: as many as the model takes."""
    num_negatives: Annotated[int, Field(ge=0)] = 0
    """Negatives of its own that each query gets, drawn anew every epoch."""
    tokens_per_forward: PositiveInt = 16_384
    """Texts of like length go through the model together, this many tokens at most at a time."""
    most_padding: Share = 0.1
    """Share of padding that such a part may have. On a GPU, a little more makes fewer and larger parts."""
    gradient_caching: bool = False
    """True: memory for one part of a batch is enough, whatever batch_size is, for one more forward pass (GradCache)."""
    gradient_accumulation: PositiveInt = 1
    """Split a batch's queries over so many passes. In-batch negatives are those of a pass: mind gradient_caching."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """auto: bf16 on a GPU that has it, float32 elsewhere. Weights are kept in float32 whichever it is."""
    evaluate_every: PositiveInt | None = None
    """Steps between evaluations; null: at the end only. The best model is kept."""
    checkpoint_every: PositiveInt = 500
    """Steps between checkpoints; training that was interrupted goes on from the last."""
    lora: LoraSettings | None = None
    trust_remote_code: bool = False
    """True: run code that comes with the model. Only for those whose authors you trust."""


class RetrieverConfig(TrainingSettings):
    """Stage 2: fine-tune the embedding model on (question, gold passage) pairs, in-batch softmax loss."""

    encoder: Encoder = ScratchEncoder()
    train: bool = True
    """False: use the encoder as it is (the paper keeps Contriever fixed)."""
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
