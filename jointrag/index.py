"""The Faiss index over a corpus: built once from an encoder, then bound to both by fingerprint.

    build(IndexConfig(), prepared=…, retriever=…, out=Path("models/index"))
    index = load(Path("models/index"))
    index.search(vectors, k=10)   # list[list[Hit]]

index.json is written last: a folder without it is a build that did not finish.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jointrag import corpus as corpus_files
from jointrag.config import IndexConfig
from jointrag.corpus import Corpus
from jointrag.encoders import Encoder, fingerprint
from jointrag.jsonl import write_atomically
from jointrag.progress import progress
from jointrag.types import Hit

if TYPE_CHECKING:
    import faiss

logger = logging.getLogger(__name__)
_INDEX = "index.faiss"
_CORPUS = "corpus"
_INFO = "index.json"
_TRAINING_VECTORS = 200_000  # enough to train any factory's clusters; the rest is only added


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What index.json says."""

    num_passages: int
    dim: int
    factory: str
    index_bytes: int
    corpus_fingerprint: str
    encoder_fingerprint: str
    encoder_paths: tuple[str, ...]  # relative to the index, then absolute: either may be moved with it


class SearchIndex:
    """A loaded index: vectors in, hits out."""

    def __init__(self, index: faiss.Index, corpus: Corpus, info: IndexInfo, encoder_path: Path) -> None:
        self._index = index
        self.corpus = corpus
        self.info = info
        self.encoder_path = encoder_path

    def search(self, vectors: NDArray[np.float32], k: int) -> list[list[Hit]]:
        """The `k` nearest passages of each of `vectors` [queries, dim], best first; all where the corpus is smaller.

        An approximate index may find fewer. Scores are inner products.
        """
        positions, scores = self.nearest(vectors, k)
        return [
            [Hit(self.corpus[i], score) for score, i in zip(row, ids, strict=True) if i >= 0]
            for row, ids in zip(scores.tolist(), positions.tolist(), strict=True)
        ]

    def nearest(self, vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The same as places in the corpus and scores, [queries, k or the corpus's size]; place -1: none found."""
        if k < 1:
            raise ValueError(f"k={k}: ask for at least one passage")
        scores, positions = self._index.search(vectors, min(k, len(self.corpus)))  # type: ignore[call-arg]
        return positions, scores


def build(config: IndexConfig, *, prepared: Path, retriever: Path, out: Path, device: str = "auto") -> dict[str, float]:
    """Embed prepared/corpus.jsonl with retriever/model and write the index to `out`.

    Raises ValueError for a broken corpus (see jointrag.corpus), a factory that Faiss does not know, or one that needs
    more passages than there are.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    encoder = Encoder.load(retriever / "model", device)
    index = _empty_index(config.factory, encoder.dim)
    corpus_fingerprint = corpus_files.build(prepared / "corpus.jsonl", out / _CORPUS)
    corpus = Corpus.open(out / _CORPUS)

    vectors_path = out / f".vectors.{os.getpid()}"
    try:
        vectors = np.memmap(vectors_path, dtype=np.float32, mode="w+", shape=(len(corpus), encoder.dim))
        for start in progress(range(0, len(corpus), config.batch_size), "embedding the corpus, batch"):
            stop = min(start + config.batch_size, len(corpus))
            texts = [corpus[i].contents for i in range(start, stop)]
            vectors[start:stop] = encoder.encode(texts, kind="passage", batch_size=config.batch_size)
        _fill(index, vectors, config.factory)
    finally:
        vectors_path.unlink(missing_ok=True)

    _write(index, out / _INDEX)
    model = (retriever / "model").resolve()
    info = IndexInfo(
        num_passages=len(corpus),
        dim=encoder.dim,
        factory=config.factory,
        index_bytes=(out / _INDEX).stat().st_size,
        corpus_fingerprint=corpus_fingerprint,
        encoder_fingerprint=fingerprint(model),
        encoder_paths=(os.path.relpath(model, out.resolve()), str(model)),
    )
    write_atomically(out / _INFO, json.dumps(asdict(info), indent=2) + "\n")
    seconds = time.monotonic() - started
    return {
        "index/passages": float(len(corpus)),
        "index/bytes": float(info.index_bytes),
        "index/passages_per_s": len(corpus) / seconds,
    }


def _empty_index(factory: str, dim: int) -> Any:
    import faiss

    try:
        return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ValueError(
            f"index.factory={factory!r}: Faiss does not build this for {dim} dimensions ({error})"
        ) from None


def _fill(index: Any, vectors: NDArray[np.float32], factory: str) -> None:
    if not index.is_trained:
        step = max(1, len(vectors) // _TRAINING_VECTORS)
        try:
            index.train(np.ascontiguousarray(vectors[::step]))
        except RuntimeError as error:
            raise ValueError(
                f"index.factory={factory!r} cannot be trained on {len(vectors)} passages ({error}); "
                "choose fewer clusters, or Flat"
            ) from None
    for start in range(0, len(vectors), 65_536):
        index.add(np.ascontiguousarray(vectors[start : start + 65_536]))


def _write(index: Any, path: Path) -> None:
    import faiss

    aside = path.with_name(f".{path.name}.{os.getpid()}")
    faiss.write_index(index, str(aside))
    aside.replace(path)


def load(path: Path) -> SearchIndex:
    """Open an index folder. Raises ValueError when it is unfinished, damaged, or its encoder is gone or changed."""
    import faiss

    info = _read_info(path)
    index_path = path / _INDEX
    size = index_path.stat().st_size if index_path.is_file() else 0
    if size != info.index_bytes:
        raise ValueError(f"{index_path}: {size} bytes where {info.index_bytes} were written; build the index again")
    try:
        index = faiss.read_index(str(index_path))
    except RuntimeError as error:
        raise ValueError(f"{index_path}: damaged ({error}); build the index again") from None
    corpus = Corpus.open(path / _CORPUS)
    found = {"passages in the corpus": len(corpus), "vectors in the index": index.ntotal}
    for what, count in found.items():
        if count != info.num_passages:
            raise ValueError(f"{path}: {count} {what} where {_INFO} says {info.num_passages}; build the index again")
    if index.d != info.dim:
        raise ValueError(f"{path}: {index.d} dimensions where {_INFO} says {info.dim}; build the index again")
    return SearchIndex(index, corpus, info, _find_encoder(path, info))


def _read_info(path: Path) -> IndexInfo:
    info_path = path / _INFO
    if not info_path.is_file():
        raise ValueError(f"{path}: no {_INFO}, so this is not a finished index; build it first")
    try:
        row = json.loads(info_path.read_text(encoding="utf-8"))
        return IndexInfo(**{**row, "encoder_paths": tuple(row["encoder_paths"])})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{info_path}: damaged ({error}); build the index again") from None


def _find_encoder(path: Path, info: IndexInfo) -> Path:
    candidates = [(path.resolve() / relative).resolve() for relative in info.encoder_paths]  # absolute paths stay as is
    for model in candidates:
        if model.is_dir():
            if fingerprint(model) != info.encoder_fingerprint:
                raise ValueError(f"{model}: not the encoder that {path} was built with; build the index again")
            return model
    raise ValueError(
        f"{path}: its encoder is not at {' or '.join(dict.fromkeys(map(str, candidates)))}; put it back there"
    )
