"""Is a difference between two systems more than chance? Two tests over questions, for many differences at once.

    paired_bootstrap(scores_of_b - scores_of_a, np.random.default_rng(0))       # how far it would move: an interval
    randomisation_p_value(scores_of_b - scores_of_a, np.random.default_rng(0))  # how often chance does as much

Both systems answered the same questions, so the per-question differences are resampled, which removes the variance
that comes from some questions being harder than others.

The paired bootstrap (Efron & Tibshirani, An Introduction to the Bootstrap, ch. 13; Koehn, 2004, for its use in
comparing systems) draws questions with replacement. The interval says how far the mean difference would move with
another draw of questions from the same source. Approximate randomisation (Noreen, 1989; Yeh, 2000) swaps the two
systems' answers to every question by the toss of a coin: if it made no difference whose answer is whose, a mean
difference as large as the one found, in either direction, would come up in this share of cases. Neither covers another
training seed: for that, train again.

Resampled means are rounded to 12 decimals: the last bits depend on how many differences are computed together, and
equal numbers have to be equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_CELLS = 4_000_000  # resampled positions held at once: some 100 MB
DECIMALS = 12

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference with its interval, in the units of the scores (here 0..1)."""

    delta: float  # the mean of the differences
    low: float  # 2.5 and 97.5 percentiles of the resampled means
    high: float
    share_not_better: float  # one-sided: the share of resampled means that are <= 0
    num_questions: int


def paired_bootstrap(
    differences: Floats, rng: np.random.Generator, num_resamples: int = 10_000, level: float = 0.95
) -> Difference:
    """Percentile interval of the mean of `differences` [questions], each one system's score minus the other's.

    Raises ValueError for an empty array, NaN, or a level outside (0, 1).
    """
    return paired_bootstraps(_column(differences), rng, num_resamples, level)[0]


def paired_bootstraps(
    differences: Floats, rng: np.random.Generator, num_resamples: int = 10_000, level: float = 0.95
) -> list[Difference]:
    """The same for each column of `differences` [questions, comparisons]; all with the same draws of questions."""
    differences = _checked(differences)
    if not 0 < level < 1:
        raise ValueError(f"level={level} is not between 0 and 1")
    size = len(differences)

    def draws(count: int) -> Floats:
        """How often each question is in each sample [count, questions]."""
        drawn = rng.integers(0, size, size=(count, size), dtype=np.int32)
        rows = np.arange(count, dtype=np.int64)[:, None] * size
        return np.bincount((drawn + rows).ravel(), minlength=count * size).reshape(count, size).astype(np.float64)

    means = _means(differences, draws, num_resamples)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return [
        Difference(
            delta=float(differences[:, i].mean()),
            low=float(low[i]),
            high=float(high[i]),
            share_not_better=float((means[:, i] <= 0).mean()),
            num_questions=size,
        )
        for i in range(differences.shape[1])
    ]


def randomisation_p_value(differences: Floats, rng: np.random.Generator, num_resamples: int = 10_000) -> float:
    """Two-sided p-value of the mean of `differences` [questions], by approximate randomisation; never 0.

    Raises ValueError for an empty array or NaN.
    """
    return float(randomisation_p_values(_column(differences), rng, num_resamples)[0])


def randomisation_p_values(differences: Floats, rng: np.random.Generator, num_resamples: int = 10_000) -> Floats:
    """The same for each column of `differences` [questions, comparisons]: [comparisons]."""
    differences = _checked(differences)
    size = len(differences)

    def draws(count: int) -> Floats:
        return rng.integers(0, 2, size=(count, size), dtype=np.int8).astype(np.float64) * 2 - 1

    found = np.abs(np.round(differences.mean(axis=0), DECIMALS))
    as_large = (np.abs(_means(differences, draws, num_resamples)) >= found).sum(axis=0)
    # what was found is one of the cases, so that p is never 0 (Davison & Hinkley, 1997, section 4.2)
    return np.asarray((as_large + 1) / (num_resamples + 1), dtype=np.float64)


def _column(differences: Floats) -> Floats:
    differences = np.asarray(differences, dtype=np.float64)
    if differences.ndim != 1:
        raise ValueError(f"expected the differences of questions [questions], got the shape {differences.shape}")
    return differences[:, None]


def _checked(differences: Floats) -> Floats:
    differences = np.asarray(differences, dtype=np.float64)
    if differences.ndim != 2 or differences.shape[0] == 0:
        raise ValueError(
            f"expected the differences of at least one question, got an array of shape {differences.shape}"
        )
    if not np.isfinite(differences).all():
        raise ValueError("a difference is not a finite number")
    return differences


def _means(differences: Floats, draws: Callable[[int], Floats], num_resamples: int) -> Floats:
    """Mean differences [resamples, comparisons] under the weights drawn, in blocks so that memory stays bounded."""
    size = len(differences)
    blocks = [draws(count) @ differences for count in _blocks(num_resamples, max(1, MAX_CELLS // size))]
    return np.round(np.concatenate(blocks) / size, DECIMALS).astype(np.float64)


def _blocks(total: int, most: int) -> Iterator[int]:
    for start in range(0, total, most):
        yield min(most, total - start)
