"""A corpus searched for many questions at once: by BM25, by an embedding model, or with an index that is built already.

    search = open_search("models/retriever/KEY/model", Path("corpus.jsonl"), work=Path("work"))
    found = search.search(["who directed solaris"], k=50)
    search.corpus[found.positions[0, 0]], found.scores[0, 0]

The embedding model's search is exact. Passages are read as a stream and their vectors lie in a file below `work`, so
memory depends on the questions, not on the corpus; a run that was interrupted goes on after the last block embedded,
and later runs over the same corpus with the same model find the vectors there.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jointrag import corpus as corpus_files
from jointrag import index as index_files
from jointrag.bm25 import BM25
from jointrag.corpus import Corpus
from jointrag.encoders import Encoder
from jointrag.index.exact import nearest
from jointrag.progress import progress

logger = logging.getLogger(__name__)
_BLOCK = 4096  # passages embedded, then written, together
_PASSAGES_AT_ONCE = 16_384  # compared at a time


@dataclass(frozen=True)
class Found:
    """For each query the best passages, best first, and the scores of its own texts."""

    positions: NDArray[np.int64]  # [queries, k, or the corpus's size]: places in the corpus; -1: no more
    scores: NDArray[np.float32]  # the same shape
    own: list[list[float]]


class CorpusSearch(Protocol):
    """What takes long, embedding or indexing the corpus, waits for the first search."""

    @property
    def corpus(self) -> Corpus: ...

    @property
    def fingerprint(self) -> str:
        """Changes with the corpus and with what searches it."""
        ...

    def search(self, queries: Sequence[str], k: int, own: Sequence[Sequence[str]] = ()) -> Found:
        """The `k` best passages of each query; `own` texts of each query are scored as if they were in the corpus."""
        ...


def open_search(
    retriever: str | Path, corpus: Path, *, work: Path, language: str = "english", device: str = "auto"
) -> CorpusSearch:
    """`retriever`: "bm25", an index folder (jointrag.index) over the same corpus, or a sentence-transformers model,
    folder or name. `language` is BM25's.

    Raises ValueError for a broken corpus, an index over another one, or what is none of the three.
    """
    fingerprint = corpus_files.build(corpus, work / "corpus")
    passages = Corpus.open(work / "corpus")
    if retriever == "bm25":
        return Bm25Search(passages, f"{fingerprint} bm25 {language}", work, language)
    if (folder := Path(retriever)).joinpath("index.json").is_file():
        return IndexSearch(folder, corpus, fingerprint, device)
    try:
        encoder = Encoder.load(folder if folder.is_dir() else str(retriever), device)
    except OSError as error:
        raise ValueError(
            f"the retriever {str(retriever)!r} cannot be loaded ({error}); give bm25, an index folder, or a "
            "sentence-transformers model, downloaded beforehand where there is no network"
        ) from None
    return EncoderSearch(passages, fingerprint, encoder, work)


class Bm25Search:
    def __init__(self, corpus: Corpus, fingerprint: str, work: Path, language: str) -> None:
        self.corpus = corpus
        self.fingerprint = fingerprint
        self._work, self._language = work, language

    @cached_property
    def _bm25(self) -> BM25:
        texts = (passage.contents for passage in self.corpus)
        texts = progress(texts, "indexing for BM25, passage", total=len(self.corpus))
        return BM25.build(texts, scratch=self._work, language=self._language)

    def search(self, queries: Sequence[str], k: int, own: Sequence[Sequence[str]] = ()) -> Found:
        positions, scores = self._bm25.search(queries, k)
        texts_of = own or [()] * len(queries)
        return Found(
            positions, scores, [self._bm25.score(q, texts) for q, texts in zip(queries, texts_of, strict=True)]
        )


class IndexSearch:
    def __init__(self, folder: Path, corpus: Path, fingerprint: str, device: str) -> None:
        self._index = index_files.load(folder, device)
        if self._index.info.corpus_fingerprint != fingerprint:
            raise ValueError(f"{folder} is an index over another corpus than {corpus}; build it again, or give its own")
        if self._index.encoder_path is None or self._index.info.type == "hybrid":
            raise ValueError(
                f"{folder} is an index of type {self._index.info.type}; give bm25, or one of vectors alone"
            )
        self._encoder = Encoder.load(self._index.encoder_path, device)
        self.corpus = self._index.corpus
        info = self._index.info
        self.fingerprint = f"{fingerprint} {info.settings} {info.encoder_fingerprint}"

    def search(self, queries: Sequence[str], k: int, own: Sequence[Sequence[str]] = ()) -> Found:
        vectors = self._encoder.encode(queries, kind="query")
        positions, scores = self._index.nearest(vectors, k)
        return Found(positions, scores, _own_scores(self._encoder, vectors, own))


class EncoderSearch:
    def __init__(self, corpus: Corpus, fingerprint: str, encoder: Encoder, work: Path) -> None:
        self.corpus = corpus
        self._encoder = encoder
        self.fingerprint = f"{fingerprint} {weights_fingerprint(encoder)}"
        self._work = work

    @cached_property
    def _vectors(self) -> NDArray[np.float32]:
        name = hashlib.sha256(self.fingerprint.encode()).hexdigest()[:16]
        return _embedded(self.corpus, self._encoder, self._work / f"vectors-{name}.f32")

    def search(self, queries: Sequence[str], k: int, own: Sequence[Sequence[str]] = ()) -> Found:
        vectors = self._encoder.encode(queries, kind="query")
        blocks = range(0, len(self.corpus), _PASSAGES_AT_ONCE)
        read = (
            self._vectors[start : start + _PASSAGES_AT_ONCE].copy()
            for start in progress(blocks, "searching the corpus, part")
        )
        positions, scores = nearest(vectors, read, k, self._encoder.model.device)
        return Found(positions, scores, _own_scores(self._encoder, vectors, own))


def weights_fingerprint(encoder: Encoder) -> str:
    """A hash of what a model makes of a text: its weights, prompts and length limit. Models from a hub have no folder
    of their own to take it from."""
    import torch

    model = encoder.model
    digest = hashlib.sha256(repr((model, sorted(model.prompts.items()), model.max_seq_length)).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _embedded(corpus: Corpus, encoder: Encoder, path: Path) -> NDArray[np.float32]:
    """Vectors [passages, dim], mapped from the file at `path`, which is written to its end first."""
    row_bytes = 4 * encoder.dim
    done = path.stat().st_size // row_bytes if path.is_file() else 0
    if done < len(corpus):
        done -= done % _BLOCK  # blocks end where they always end, so an interruption changes no vector
        if done:
            logger.info("%d of %d passages are embedded already", done, len(corpus))
        with path.open("ab") as file:
            file.truncate(done * row_bytes)
            for start in progress(range(done, len(corpus), _BLOCK), "embedding the corpus, block"):
                texts = [corpus[i].contents for i in range(start, min(start + _BLOCK, len(corpus)))]
                file.write(encoder.encode(texts, kind="passage").tobytes())
                file.flush()
    return np.memmap(path, dtype=np.float32, mode="r", shape=(len(corpus), encoder.dim))


def _own_scores(encoder: Encoder, queries: NDArray[np.float32], own: Sequence[Sequence[str]]) -> list[list[float]]:
    if not own:
        return [[] for _ in queries]
    vectors = iter(encoder.encode([text for texts in own for text in texts], kind="passage"))
    return [[float(query @ next(vectors)) for _ in texts] for query, texts in zip(queries, own, strict=True)]
