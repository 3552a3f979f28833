"""Is a difference between two systems more than chance? The paired bootstrap over questions.

    paired_bootstrap(scores_of_b - scores_of_a, np.random.default_rng(0))

Both systems answered the same questions, so the per-question differences are resampled, which removes the variance
that comes from some questions being harder than others (Efron & Tibshirani, An Introduction to the Bootstrap, ch. 13;
Koehn, 2004, for its use in comparing systems). The interval says how far the mean difference would move with another
draw of questions from the same source. It does not cover another training seed: for that, train again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_CELLS = 4_000_000  # resampled positions held at once: 32 MB


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference with its interval, in the units of the scores (here 0..1)."""

    delta: float  # the mean of the differences
    low: float  # 2.5 and 97.5 percentiles of the resampled means
    high: float
    share_not_better: float  # one-sided: the share of resampled means that are <= 0
    num_questions: int


def paired_bootstrap(
    differences: NDArray[np.float64], rng: np.random.Generator, num_resamples: int = 10_000, level: float = 0.95
) -> Difference:
    """Percentile interval of the mean of `differences` [questions], each one system's score minus the other's.

    Raises ValueError for an empty array, NaN, or a level outside (0, 1).
    """
    differences = np.asarray(differences, dtype=np.float64)
    if differences.ndim != 1 or differences.size == 0:
        raise ValueError(
            f"expected the differences of at least one question, got an array of shape {differences.shape}"
        )
    if not np.isfinite(differences).all():
        raise ValueError("a difference is not a finite number")
    if not 0 < level < 1:
        raise ValueError(f"level={level} is not between 0 and 1")
    means = _resampled_means(differences, rng, num_resamples)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Difference(
        delta=float(differences.mean()),
        low=float(low),
        high=float(high),
        share_not_better=float((means <= 0).mean()),
        num_questions=differences.size,
    )


def _resampled_means(
    differences: NDArray[np.float64], rng: np.random.Generator, num_resamples: int
) -> NDArray[np.float64]:
    """Means of `num_resamples` samples with replacement [resamples], drawn in blocks so that memory stays bounded."""
    size = differences.size
    block = max(1, MAX_CELLS // size)
    means = [
        differences[rng.integers(0, size, size=(min(block, num_resamples - start), size), dtype=np.int32)].mean(axis=1)
        for start in range(0, num_resamples, block)
    ]
    return np.concatenate(means)
