"""Whether the selector knows how often it is right: confidence against the share of right selections, in ten bins.

The confidence is the probability of the whole selection as it was written, among all lists that could have been
written. A selection is right if it is the gold passages among the candidates, all of them and nothing else. The
expected calibration error is the mean distance between the two over bins of equal width, weighted by their questions
(Naeini, Cooper & Hauskrecht, 2015, "Obtaining well calibrated probabilities using Bayesian binning").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluation.passages import is_exact
from evaluation.scores import Calibration, CalibrationBin
from jointrag.metrics import f1
from jointrag.types import Episode

NUM_BINS = 10


def calibrate(episodes: Sequence[Episode], confidences: Sequence[float | None]) -> Calibration | None:
    """None where there is no question with gold passages and a known confidence."""
    rows = [
        (confidence, is_exact(episode), f1(episode.answer, episode.question.answers))
        for episode, confidence in zip(episodes, confidences, strict=True)
        if confidence is not None and episode.question.gold_passages and episode.selected is not None
    ]
    if not rows:
        return None
    confidence, exact, answer_f1 = np.array(rows, dtype=np.float64).T
    place = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    bins = []
    for i in range(NUM_BINS):
        if (inside := place == i).any():
            bins.append(
                CalibrationBin(
                    low=i / NUM_BINS,
                    high=(i + 1) / NUM_BINS,
                    num_questions=int(inside.sum()),
                    confidence=float(confidence[inside].mean()),
                    exact=float(exact[inside].mean()),
                    f1=float(answer_f1[inside].mean()),
                )
            )
    error = sum(b.num_questions * abs(b.confidence - b.exact) for b in bins) / len(rows)
    return Calibration(bins=tuple(bins), error=error)
