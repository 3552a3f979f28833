"""Retrieval in use: the encoder, the index (stage 3), the server (stage 4), a reranker behind it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from jointrag.config.base import Section, Share, check_heads
from jointrag.encoder_backends import Backend


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
    max_length: PositiveInt | None = None
    """Tokens of a text; null: as many as the model was saved with, 512 at most."""


Encoder = Annotated[ScratchEncoder | PretrainedEncoder, Field(discriminator="type")]


class EmbeddedCorpus(Section):
    """What every index of vectors has: the corpus, embedded in shards of fp16 vectors."""

    batch_size: PositiveInt = 256
    encoder_backend: Backend = "torch"
    """How the encoder computes the passages' vectors: as its model was saved (torch), or in bf16 or fp16, which is
    faster where the hardware multiplies it (jointrag/encoder_backends.py). Queries stay as precise as the model."""
    shard_size: PositiveInt = 16_384
    """Passages of a shard, the least that an interrupted run does again."""
    truncate_dim: PositiveInt | None = None
    """Keep the first so many dimensions and normalise again, for models trained that way (Matryoshka); null: all."""
    num_recall_queries: Annotated[int, Field(ge=0)] = 200
    """Queries on which recall@10 is measured against exact search; 0: it is not."""


class IndexConfig(EmbeddedCorpus):
    """Stage 3: embed the corpus, build the Faiss index. Also the other kinds of index: torch, bm25, hybrid."""

    type: Literal["faiss"] = "faiss"
    factory: str = "Flat"
    """A Faiss factory string; vectors are normalised and compared by inner product. One that begins with B (BFlat,
    BIVF1024, BHNSW32) compares the signs of their numbers alone, a bit each."""
    num_training_passages: PositiveInt | None = None
    """Vectors, drawn at random, that clusters and codes are learned from; null: 100,000, or 50 a cluster if more."""
    nprobe: PositiveInt | None = None
    """Clusters searched (IVF); null: the square root of how many there are."""
    ef_search: PositiveInt | None = None
    """Candidates kept while searching a graph (HNSW); null: 128."""
    rescore: Annotated[int, Field(ge=0)] | None = None
    """How many times as many passages as asked for are found in the index, then put in order by the fp16 vectors; 0:
    none are; null: 10 where the index has signs alone, else 0."""
    gpu: Literal["no", "one", "shard", "replicate"] = "no"
    """Learn clusters and search on one GPU, on all with a part of the index each, or on all with the whole index each;
    needs faiss-gpu."""


class TorchIndexConfig(EmbeddedCorpus):
    """Exact search with torch, on the device that encodes: nothing to build, and no faiss-gpu to install."""

    type: Literal["torch"] = "torch"


class Bm25IndexConfig(Section):
    """Search by words, without an encoder (jointrag/bm25.py)."""

    type: Literal["bm25"] = "bm25"
    language: str = "english"
    """Whose endings are cut off (PyStemmer); none: no language's."""
    k1: PositiveFloat = 1.5
    b: Share = 0.75


class HybridIndexConfig(Section):
    """An index of vectors and BM25, their rankings joined by reciprocal rank fusion."""

    type: Literal["hybrid"] = "hybrid"
    dense: Annotated[IndexConfig | TorchIndexConfig, Field(discriminator="type")] = IndexConfig()
    bm25: Bm25IndexConfig = Bm25IndexConfig()
    num_fetched: PositiveInt = 100
    """Passages that each of the two brings, or as many as are asked for if that is more."""
    rank_constant: PositiveFloat = 60.0
    """A passage scores 1 / (rank_constant + rank) in each ranking, ranks from 1."""


IndexSection = Annotated[
    IndexConfig | TorchIndexConfig | Bm25IndexConfig | HybridIndexConfig, Field(discriminator="type")
]


class ServerConfig(Section):
    """Stage 4: the retrieval server. It lives as long as the flow and is always stopped."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0: any free port. Replicas take the next ones."""
    replicas: PositiveInt = 1
    """Servers over the same index, which they share in memory; the processes that train together are spread over
    them."""
    workers: PositiveInt = 1
    """Processes behind each port, which share the connections that come in."""
    devices: tuple[str, ...] = ()
    """Where the workers run, one after the other ("cuda:0"); empty: where the rest of the run does."""
    num_threads: PositiveInt = 64
    """Requests handled at a time. Most of them wait for their batch, so no batch has queries of more requests."""
    max_batch: PositiveInt = 256
    """Most queries encoded together."""
    max_batch_characters: PositiveInt = 65_536
    """Most characters of the queries encoded together: a batch of long ones is smaller."""
    batch_window_ms: Annotated[float, Field(ge=0)] = 2.0
    """How long the first query of a batch waits for company."""
    cache_size: NonNegativeInt = 100_000
    """Passages kept in the answers to queries asked before (a query of k passages counts k); 0: none."""
    answer_cache_bytes: NonNegativeInt = 64 * 2**20
    """Whole answers kept for requests that come again, byte for byte; 0: none."""
    max_queued_queries: PositiveInt = 4096
    """Queries that may wait for their batch; what comes on top is refused with 503 until there is room."""
    max_queries_per_request: PositiveInt = 1024
    """Also the most texts of a request to rerank."""
    max_query_characters: PositiveInt = 20_000
    max_k: PositiveInt = 1000
    """Most passages per query."""
    max_body_bytes: PositiveInt = 16 * 2**20
    startup_timeout_s: PositiveFloat = 120.0
    stop_timeout_s: PositiveFloat = 10.0
    """How long requests under way may take after the server was told to stop."""

    @model_validator(mode="after")
    def _a_request_fits_the_queue(self) -> ServerConfig:
        if self.max_queries_per_request > self.max_queued_queries:
            raise ValueError(
                f"max_queries_per_request={self.max_queries_per_request} is more than max_queued_queries="
                f"{self.max_queued_queries}: the largest request would never find room"
            )
        return self


class RerankingConfig(Section):
    """How a reranker is used, where section reranker has one: between retriever and agents."""

    num_retrieved: PositiveInt = 50
    """Passages that the retriever brings for each query; the reranker's best of them are the agents' candidates."""
    kind: str | None = None
    """What a model is that is used as it is; null: as its files say (docs/reranking.md)."""
    max_length: PositiveInt | None = None
    """Tokens it reads of query and passage; null: as many as its kind takes."""
