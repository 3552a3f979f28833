"""What a ranker is: one class with one method.

    class ByLength(Ranker):
        \"\"\"The longer the better.\"\"\"

        def score_batch(self, pairs):
            return [float(len(text)) for _, text in pairs]

    Reranker(ByLength()).rank("query", ["a", "bbb"])

Reranker (jointrag.reranker) gives `score_batch` pairs in batches and does all the rest. A class in KINDS (kinds.py)
has a name that `kind` and configs know.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

from jointrag.progress import progress
from jointrag.rankers.results import Score
from jointrag.rankers.writing import Limits

Pair: TypeAlias = tuple[str, str]  # query, text


class Ranker(ABC):
    """Scores pairs of query and text: the higher, the better the text. Scores of one query can be compared."""

    batch_size: int = 32
    """Most pairs of one call."""
    by_query: bool = False
    """True: what a text scores depends on the others; a call has all texts of one query."""
    reads_windows: bool = False
    """True: documents longer than the model reads are cut or windowed (LocalRanker)."""
    max_length: int = 512
    """Tokens of a piece, for rankers that read windows."""

    @abstractmethod
    def score_batch(self, pairs: Sequence[Pair]) -> Sequence[float]:
        """One number per pair, in order."""

    def with_settings(self, **settings: Any) -> Ranker:
        """This ranker with other settings (instruction, cutoff_layers); the model is shared. Raises ValueError for
        one that it does not have."""
        raise ValueError(f"{type(self).__name__} has no setting {', '.join(settings)} that a call can change")

    def normalize(self, score: float) -> float:
        """A score between 0 and 1. The logistic function, which suits logits."""
        from math import exp

        return 1 / (1 + exp(-score)) if score >= 0 else 1 - 1 / (1 + exp(score))

    def score(self, pairs: Sequence[Pair], limits: Limits, *, show_progress: bool = False) -> list[list[Score]]:
        """Per pair the scores of what was read of its text: one, or one a window."""
        batches = self._batches(pairs)
        scores: list[list[Score]] = []
        for batch in progress(batches, "ranking, batch") if show_progress else batches:
            found = self.score_batch(batch)
            if len(found) != len(batch):
                raise ValueError(f"{type(self).__name__}.score_batch gave {len(found)} scores for {len(batch)} pairs")
            scores += [[Score(float(value))] for value in found]
        return scores

    def _batches(self, pairs: Sequence[Pair]) -> list[Sequence[Pair]]:
        if not self.by_query:
            return [pairs[start : start + self.batch_size] for start in range(0, len(pairs), self.batch_size)]
        batches: list[list[Pair]] = []
        for pair in pairs:
            if not batches or batches[-1][0][0] != pair[0]:
                batches.append([])
            batches[-1].append(pair)
        return list(batches)
