"""BM25 over the documents of one query: the floor that a reranker has to beat, without a model.

    Reranker("bm25").rank("who wrote Faust?", documents)
    Reranker("bm25", language="german")

How rare a word is, is counted among the documents that are ranked, so scores of different queries cannot be compared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from jointrag.bm25 import BM25, splitter
from jointrag.rankers.base import Pair, Ranker
from jointrag.rankers.loading import Loading


class BM25Ranker(Ranker):
    """See the module; words are those of jointrag.bm25."""

    by_query = True

    def __init__(
        self, name: str, loading: Loading, *, language: str = "english", k1: float = 1.5, b: float = 0.75
    ) -> None:
        """`language`: of the stemmer, or none. Raises ValueError for one that has no stemmer."""
        self._split = splitter(language)
        self._settings = {"language": language, "k1": k1, "b": b}

    def score_batch(self, pairs: Sequence[Pair]) -> list[float]:
        texts = [text for _, text in pairs]
        if not any(self._split(text) for text in texts):
            return [0.0] * len(pairs)
        with tempfile.TemporaryDirectory() as scratch:
            index = BM25.build(texts, scratch=Path(scratch), **self._settings)  # type: ignore[arg-type]
        return index.score(pairs[0][0], texts)

    def normalize(self, score: float) -> float:
        """0 stays 0: no word in common."""
        return score / (1 + score)
