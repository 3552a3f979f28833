"""Builds an index: the corpus, its vectors in shards, what is searched, and how well that finds what is nearest.

An interrupted build goes on where it was when it is started again with the same `out`. index.json is written last: a
folder without it is a build that did not finish.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from jointrag import corpus as corpus_files
from jointrag.bm25 import BM25
from jointrag.config import Bm25IndexConfig, HybridIndexConfig, IndexConfig, IndexSection, TorchIndexConfig
from jointrag.corpus import Corpus
from jointrag.encoders import Encoder, fingerprint
from jointrag.index import faiss_search
from jointrag.index.encoding import encode_in_processes, encode_missing
from jointrag.index.info import INFO, IndexInfo, encoder_paths, sampled
from jointrag.index.recall import recall, sample_queries
from jointrag.index.search import BM25_FILES, CORPUS, FAISS, VECTORS, open_dense
from jointrag.index.shards import Shards, cut
from jointrag.progress import progress

logger = logging.getLogger(__name__)


def build(
    config: IndexSection,
    *,
    prepared: Path,
    retriever: Path | None = None,
    out: Path,
    device: str = "auto",
    num_processes: int = 1,
) -> dict[str, float]:
    """Index prepared/corpus.jsonl into the folder `out`; vectors are those of the encoder retriever/model, which BM25
    does without. `num_processes` share the embedding, one per GPU where there are GPUs.

    Returns index/passages, index/bytes, index/passages_per_s and, with vectors, index/recall@10. Raises ValueError for
    a broken corpus (see jointrag.corpus), a factory that Faiss does not know, one that needs more passages than there
    are, and settings that it does not have.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    (out / INFO).unlink(missing_ok=True)
    dense = config.dense if isinstance(config, HybridIndexConfig) else config
    with_vectors = None if isinstance(dense, Bm25IndexConfig) else _Encoding(dense, retriever, device)
    corpus_fingerprint = corpus_files.build(prepared / "corpus.jsonl", out / CORPUS)
    corpus = Corpus.open(out / CORPUS)

    if isinstance(config, Bm25IndexConfig | HybridIndexConfig):
        _build_bm25(config if isinstance(config, Bm25IndexConfig) else config.bm25, corpus, out)
    made = _Made()
    if with_vectors is not None:
        made = with_vectors.make(prepared, corpus, corpus_fingerprint, out, num_processes)
    files = sampled(out, [name for name in (CORPUS, VECTORS, FAISS, BM25_FILES) if (out / name).exists()])
    info = IndexInfo(
        type=config.type,
        factory=dense.factory if isinstance(dense, IndexConfig) else "",
        num_passages=len(corpus),
        dim=made.dim,
        index_bytes=sum((out / name).stat().st_size for name in files if not name.startswith(f"{CORPUS}/")),
        recall_at_10=made.recall,
        corpus_fingerprint=corpus_fingerprint,
        encoder_fingerprint=made.encoder_fingerprint,
        encoder_dim=made.encoder_dim,
        encoder_paths=encoder_paths(made.model, out) if made.model else (),
        vectors_fingerprint=made.fingerprint,
        settings=config.model_dump(mode="json"),
        files=files,
    )
    info.write(out)
    metrics = {
        "index/passages": float(len(corpus)),
        "index/bytes": float(info.index_bytes),
        "index/passages_per_s": len(corpus) / (time.monotonic() - started),
    }
    return metrics if made.recall is None else metrics | {"index/recall@10": made.recall}


def plan(config: IndexSection, *, prepared: Path, retriever: Path, out: Path) -> Shards:
    """What `build` does before it embeds, for those who embed elsewhere: on other machines, as tasks of their own.

    shards = plan(config, prepared=…, retriever=…, out=out)
    for number in shards.missing():          # each wherever `out` can be read and written
        Shards.open(out / "vectors").encode(number, encoder)
    build(config, prepared=…, retriever=…, out=out)   # finds the shards
    """
    dense = config.dense if isinstance(config, HybridIndexConfig) else config
    if isinstance(dense, Bm25IndexConfig):
        raise ValueError("an index of type bm25 has no vectors to plan")
    out.mkdir(parents=True, exist_ok=True)
    return _plan(dense, retriever / "model", corpus_files.build(prepared / "corpus.jsonl", out / CORPUS), out)


def _plan(config: IndexConfig | TorchIndexConfig, model: Path, corpus_fingerprint: str, out: Path) -> Shards:
    return Shards.plan(
        out / VECTORS,
        corpus=out / CORPUS,
        corpus_fingerprint=corpus_fingerprint,
        model=model,
        shard_size=config.shard_size,
        truncate_dim=config.truncate_dim,
        encoder_backend=config.encoder_backend,
    )


def _build_bm25(config: Bm25IndexConfig, corpus: Corpus, out: Path) -> None:
    texts = progress((passage.contents for passage in corpus), "indexing words, passage", total=len(corpus))
    BM25.build(texts, scratch=out, language=config.language, k1=config.k1, b=config.b).save(out / BM25_FILES)


@dataclass(frozen=True)
class _Made:
    """What there is to say about the vectors; the defaults: there are none."""

    dim: int = 0
    recall: float | None = None
    encoder_fingerprint: str = ""
    encoder_dim: int = 0
    model: Path | None = None
    fingerprint: str = ""


class _Encoding:
    """The part of a build that takes an encoder. What is wrong with the settings is said at once."""

    def __init__(self, config: IndexConfig | TorchIndexConfig, retriever: Path | None, device: str) -> None:
        if retriever is None:
            raise ValueError(f"an index of type {config.type} needs an encoder: give the retriever")
        self._config, self._device = config, device
        self._model = retriever / "model"
        self._encoder = Encoder.load(self._model, device, config.encoder_backend)
        self._dim = min(config.truncate_dim or self._encoder.dim, self._encoder.dim)
        if config.truncate_dim and config.truncate_dim > self._encoder.dim:
            raise ValueError(
                f"index.truncate_dim={config.truncate_dim}: the encoder's vectors have {self._encoder.dim} dimensions"
            )
        self._index = faiss_search.make(config, self._dim) if isinstance(config, IndexConfig) else None

    def make(self, prepared: Path, corpus: Corpus, corpus_fingerprint: str, out: Path, num_processes: int) -> _Made:
        config = self._config
        if isinstance(config, IndexConfig):
            faiss_search.check_size(self._index, config, len(corpus))
        shards = _plan(config, self._model, corpus_fingerprint, out)
        logger.info(
            "vectors: %d of %d dimensions, %.1f MB on disk", len(corpus), self._dim, len(corpus) * self._dim / 5e5
        )
        if isinstance(config, IndexConfig):
            logger.info("%s", faiss_search.describe(self._index, config, len(corpus)))
        self._embed(shards, num_processes)
        vectors = shards.vectors()
        if isinstance(config, IndexConfig):
            faiss_search.fill(self._index, vectors, config)
            faiss_search.write(self._index, out / FAISS)
            self._index = None
        found = None
        if config.num_recall_queries:
            texts = sample_queries(prepared, corpus, config.num_recall_queries)
            queries = cut(self._encoder.encode(texts, kind="query", batch_size=config.batch_size), config.truncate_dim)
            found = recall(open_dense(out, config, vectors, self._device), vectors, queries, self._device)
            logger.info("recall@10 against exact search: %.3f on %d queries", found, len(texts))
        encoder_dim = self._encoder.dim
        return _Made(self._dim, found, fingerprint(self._model), encoder_dim, self._model, shards.fingerprint)

    def _embed(self, shards: Shards, num_processes: int) -> None:
        if there := len(shards) - len(shards.missing()):
            logger.info("%d of %d shards are embedded already", there, len(shards))
        for other in sorted(shards.folder.parent.parent.glob(f"*/{VECTORS}")):
            if taken := shards.take_over(other) if other != shards.folder else 0:
                logger.info("%d of %d shards are those of %s", taken, len(shards), other)
        if min(num_processes, len(shards.missing())) > 1:
            encode_in_processes(shards, num_processes, self._device, self._config.batch_size)
        else:
            encode_missing(shards, self._encoder, self._config.batch_size)
        shards.tidy()
